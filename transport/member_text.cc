// SPDX-License-Identifier: Apache-2.0
#include "transport/member_text.h"

#include <string_view>

#include "absl/strings/str_cat.h"

namespace handoff::internal {

std::string MemberText(const MemberTable<RealSync>& members, MemberId id) {
  if (id.slot == 0 || id.slot >= kMaxMembers) return "nobody";
  const auto row = members.Load(id.slot);
  if (row.word.epoch != id.epoch) return "a member that has gone";
  const std::string name(row.identity.NameView());
  return absl::StrCat("pid ", row.identity.pid, " (", name, ")");
}

}  // namespace handoff::internal

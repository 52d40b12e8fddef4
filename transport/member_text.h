// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_MEMBER_TEXT_H_
#define HANDOFF_TRANSPORT_MEMBER_TEXT_H_

#include <string>

#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff::internal {

// A member for people: "pid 4711 (camera)".
std::string MemberText(const MemberTable<RealSync>& members, MemberId id);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_MEMBER_TEXT_H_

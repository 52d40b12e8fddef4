// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_AUDIT_H_
#define HANDOFF_ALLOCATOR_AUDIT_H_

#include <string>
#include <vector>

#include "allocator/segment_view.h"
#include "base/sync.h"
#include "control_queue/member_table.h"

namespace handoff {

struct AuditOptions {
  // Looks for small holds in use also where no small span is. Takes memory for all of them, and
  // SIGBUS where the file system has none: only for tests and for segments that are backed in full.
  bool all_small_holds = false;
};

// Looks at every page word, run length and hold of a segment in which nothing moves, and says what
// is not as the protocol wants it at rest: one line each, with numbers; empty if all is well. For
// tests and for people who suspect damage.
//
// Looked for: tails without a head, spans of another length than their class or run says, spans
// that are half claimed, owners and holders that are no living members, wholly free spans without
// an owner, spans without owner that no tick would look for, holds in use where no block is.
std::vector<std::string> AuditSegment(const SegmentView<RealSync>& view,
                                      const MemberTable<RealSync>& members,
                                      const AuditOptions& options = {});

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_AUDIT_H_

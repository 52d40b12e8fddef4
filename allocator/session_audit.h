// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SESSION_AUDIT_H_
#define HANDOFF_ALLOCATOR_SESSION_AUDIT_H_

#include <string>
#include <vector>

#include "allocator/member.h"

namespace handoff {

// Looks at every word of a session in which nothing moves, as one member sees it, and says what is
// not as the protocol wants it at rest: one line each, with numbers; empty if all is well. For
// tests and for people who suspect damage.
//
// What AuditSegment() looks for, in every segment and in the tables of share groups and bundles.
// Beyond that: groups that are half made, that nobody refers to, or whose target does not say that
// it is theirs; references in use beyond their group; bundles whose parts are not theirs; blocks,
// references and bundles that are shared, bundled or under way where no group, bundle or ring knows
// of them; what is posted on a channel that is free, or by the dead; endpoints and rings that are
// half made or belong to no living member, and ends of rings whose endpoint has gone.
//
// Any thread. A session that moves meanwhile gives lines that mean nothing; ask again.
std::vector<std::string> AuditSession(Member& member);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SESSION_AUDIT_H_

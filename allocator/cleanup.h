// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_CLEANUP_H_
#define HANDOFF_ALLOCATOR_CLEANUP_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "allocator/mapping.h"
#include "allocator/object_names.h"
#include "allocator/session_objects.h"
#include "base/clock.h"

namespace handoff {

struct CleanupResult {
  // Names of the files that were removed, in that order. Empty when there were none, or somebody
  // lives.
  std::vector<std::string> removed;
  // Who keeps the session alive; nothing was removed then.
  std::vector<LivingMember> living;
};

// Removes every file of a session of which nobody is alive: segments, regions, control queue,
// management object, and the lock file last; also what a killed process has left half-made, and
// when the management object is gone. Needs no membership. The main segment's file is the one that
// the management object names; where that is gone, the one that `names` gives.
//
// While somebody is alive nothing is changed, except that members found dead are marked so in their
// rows. kDeadlineExceeded: another process is joining, leaving or cleaning; the message names it.
// kPermissionDenied: the session belongs to another user, or a file could not be removed; the
// message names the owner.
absl::StatusOr<CleanupResult> RemoveSession(const ObjectNames& names, const FileAccess& access,
                                            const Deadline& deadline);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_CLEANUP_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SESSION_OBJECTS_H_
#define HANDOFF_ALLOCATOR_SESSION_OBJECTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/management_layout.h"
#include "allocator/mapping.h"
#include "allocator/object_names.h"
#include "control_queue/life_lock.h"

namespace handoff {

// What is done to a session's files by whoever has byte 0 of the lock file. All functions need
// that.

// What the management object of a session is at the moment.
struct FoundManagement {
  enum class State {
    kMissing,
    kUnusable,       // half-made or damaged
    kOtherBuild,     // `mismatch` names both sides
    kOfAnotherLock,  // made under a lock file that somebody has removed: no use to a new member
    kUsable,
  };
  State state = State::kMissing;
  Mapping mapping = {};       // of the fixed part; only in the last two states
  std::string mismatch = "";  // a sentence for an error

  ManagementLayout& layout() const {
    return *reinterpret_cast<ManagementLayout*>(mapping.bytes().data());
  }
};

// Looks; changes nothing. An error means that the system refused, not that the object is bad.
absl::StatusOr<FoundManagement> FindManagement(const ObjectNames& names);

// Makes the management object, under a name that is free, and declares it ready.
absl::StatusOr<Mapping> MakeManagementObject(const ObjectNames& names, const FileAccess& access);

// `names` with the main segment's name that the management object has, which is the one that
// counts.
absl::StatusOr<ObjectNames> NamesInUse(const ObjectNames& names,
                                       const ManagementLayout& management);

struct RemoveObjectsOptions {
  bool lock_file = false;
  // Also the file of a main segment that has a name of its own. Only where it is known to be the
  // session's.
  bool renamed_main_segment = false;
};

// Removes the files of the session, in an order in which a death on the way leaves what the next
// one needs to go on: the management object after what it describes, the lock file last. Returns
// the names removed. An error names the first file that could not be removed; the others are, but
// for the lock file.
absl::StatusOr<std::vector<std::string>> RemoveObjects(const ObjectNames& names,
                                                       const RemoveObjectsOptions& options);

// True if the session has its main segment, so that the file of that name is its own.
bool HasMainSegment(const ManagementLayout& management);

// The members found alive, by slot.
struct LivingMember {
  uint32_t slot = 0;
  uint32_t pid = 0;  // in its own PID namespace; 0 if not known
};

// Whoever is alive by the rows of a usable management object. `lock` is the session's lock file;
// the caller is not a member through it.
std::vector<LivingMember> LivingMembers(ManagementLayout& management, uint64_t management_inode,
                                        const LifeLock& lock);

// Whoever is alive by the rows, where the lock file that they belong to is gone: members whose
// process runs, or which nothing can be said about. Changes nothing.
std::vector<LivingMember> RunningMembers(ManagementLayout& management);

// Whoever holds a life byte, where the rows cannot be read.
std::vector<LivingMember> HeldLifeBytes(const LifeLock& lock);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SESSION_OBJECTS_H_

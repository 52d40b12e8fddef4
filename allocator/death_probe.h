// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_DEATH_PROBE_H_
#define HANDOFF_ALLOCATOR_DEATH_PROBE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "base/sync.h"
#include "control_queue/life_lock.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff {

enum class ProbeResult {
  kFree,   // nobody is in the slot
  kAlive,  // or nothing can be said; nobody is declared dead on a guess
  kDead,   // the row says dead now; the member is to be reclaimed
  // The life lock is free, but the process runs: it closed our descriptor. Not reclaimed, because
  // it may still store to shared memory. It takes the lock again on its own tick.
  kLockLostButRunning,
};

// The answer for one slot.
struct Probe {
  ProbeResult result = ProbeResult::kFree;
  MemberId member = {};
  MemberIdentity identity = {};  // unless kFree
  bool found_now = false;        // kDead: the row was live before this look
  // kDead: its process has gone, but the lock is held: by a child made in a way that nobody can
  // notice. The slot stays out of use until that child ends.
  bool lock_outlived_process = false;
};

// Finds out whether a member has died, and then turns its row to dead. Step by step, in this order:
//   1. load the row: (epoch, live)                                   (acquire)
//   2. then probe the byte of the slot: free, or held by another description than ours
//   3. where the member is of our PID namespace, look whether its process runs; without the lock it
//      counts only if it has the management object mapped, which it has not after an exec
//   4. free and not running, or held and not running: CAS row (epoch, live) -> (epoch, dead)
// Looked at the other way round, the slot could be used again between 2 and 1, and a living member
// would be declared dead. Any thread, any number of probes at a time, in this process and in
// others. A death in any step leaves nothing behind.
class DeathProbe {
 public:
  // Keeps a reference to `members`. `lock` gives the open lock file; asked at each look, because a
  // member whose descriptor was closed opens another one. `management_inode` is of the file that
  // every member has mapped while it is one. `self` is the slot whose byte that lock itself holds,
  // 0 for none: it counts as alive.
  using LockSource = std::function<std::shared_ptr<const LifeLock>()>;
  DeathProbe(MemberTable<RealSync>& members, LockSource lock, uint64_t management_inode,
             uint32_t self);

  // `slot` is below kMaxMembers.
  Probe Look(uint32_t slot) const;

 private:
  MemberTable<RealSync>& members_;
  const LockSource lock_;
  const uint64_t management_inode_;
  const uint32_t self_;
  uint64_t pid_namespace_ = 0;  // ours; 0 if not known
};

// Whether process `pid` has a file of this inode number mapped. True if that cannot be found out.
bool MayHaveMapped(pid_t pid, uint64_t inode);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_DEATH_PROBE_H_

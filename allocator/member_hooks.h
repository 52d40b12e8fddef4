// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_MEMBER_HOOKS_H_
#define HANDOFF_ALLOCATOR_MEMBER_HOOKS_H_

#include "control_queue/member_id.h"

namespace handoff {

// What a session asks of those who know what its members hold. Called by any thread, several at a
// time, never with a lock of the session held; none of them may leave the session.
class MemberHooks {
 public:
  virtual ~MemberHooks() = default;

  // The row of `member` says dead: take back everything that it had. May be called for one member
  // by any number of processes and threads, again and again. True: nothing of the member is left,
  // its slot may be used again. False: something could not be done now (no memory to map a segment,
  // say); it is asked again. Also called for this process's own member when it leaves.
  [[nodiscard]] virtual bool ReclaimMember(MemberId member) = 0;

  // Regular work of a living member; about every 50 ms, by one thread.
  virtual void Tick() = 0;

  // Make no plain store to shared memory from here on, and return once none is under way in any
  // thread. Called once, before the own row turns dead, or when it was found dead.
  virtual void StopMoves() = 0;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_MEMBER_HOOKS_H_

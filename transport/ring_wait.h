// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_RING_WAIT_H_
#define HANDOFF_TRANSPORT_RING_WAIT_H_

#include <sched.h>

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "allocator/ring_layout.h"
#include "base/barrier.h"
#include "base/clock.h"
#include "base/futex.h"
#include "base/sync.h"

namespace handoff::internal {

enum class WaitResult { kDone, kTimedOut, kInterrupted };

// Whoever is killed or stopped between publishing and waking costs a sleeper at most this.
inline constexpr absl::Duration kWaitSlice = absl::Milliseconds(50);

// Waits until `attempt()` returns true, at first awake for `spin_ns`, then asleep at the door.
// While it is awake, `quick()` is tried more often; it may miss what `attempt()` finds. Between
// attempts the core goes to others who want it, above all to the peer if it has no core of its own.
//   1. sleeping := 1   2. barrier, the rare side   3. attempt   4. sleep on the word, for a slice
// The other side: makes the attempt succeed, fence of the frequent side, looks at the word; not 0:
// takes it and wakes. One of both sees the other; where that one is killed before it wakes, the
// slice ends the sleep. `interrupted()` is asked in between; whoever interrupts raises it before it
// takes the word. `look_around()` is called after each slice, for changes that nobody has counted.
template <class Quick, class Attempt, class Interrupted, class LookAround>
WaitResult WaitAtDoor(Door& door, int64_t spin_ns, const Deadline& deadline, Quick quick,
                      Attempt attempt, Interrupted interrupted, LookAround look_around) {
  constexpr uint32_t kTurnsBetweenLooks = 16;
  const int64_t begin_ns = MonotonicClock().NowNanoseconds();
  while (MonotonicClock().NowNanoseconds() - begin_ns < spin_ns) {
    for (uint32_t i = 0; i < kTurnsBetweenLooks; ++i) {
      RealSync::Pause();
      if (quick()) return WaitResult::kDone;
    }
    sched_yield();
    if (attempt()) return WaitResult::kDone;
    if (interrupted()) return WaitResult::kInterrupted;
    if (deadline.expired()) return WaitResult::kTimedOut;
  }
  for (;;) {
    door.sleeping.store(Door::kSleeps, std::memory_order_seq_cst);  // 1
    (void)RareSideBarrier();      // 2; where the kernel refuses it, the frequent sides fence
    const bool done = attempt();  // 3
    const bool stop = !done && interrupted();
    const bool expired = !done && !stop && deadline.expired();
    if (!done && !stop && !expired) {
      (void)FutexWait(door.sleeping, Door::kSleeps, deadline.Slice(kWaitSlice));  // 4
    }
    const bool woken = door.sleeping.exchange(0, std::memory_order_acq_rel) == 0;
    if (done) return WaitResult::kDone;
    if (stop) return WaitResult::kInterrupted;
    if (expired) return WaitResult::kTimedOut;
    if (!woken) look_around();
    if (attempt()) return WaitResult::kDone;
  }
}

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_RING_WAIT_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_DOOR_WATCH_H_
#define HANDOFF_TRANSPORT_DOOR_WATCH_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allocator/ring_layout.h"
#include "base/fork_guard.h"
#include "base/unique_fd.h"

namespace handoff::internal {

class DoorWatch;

// The descriptor of one door. By the thread that uses its socket, but for what says otherwise. Gone
// before the DoorWatches that made it.
class WatchedDoor {
 public:
  ~WatchedDoor();
  WatchedDoor(const WatchedDoor&) = delete;
  WatchedDoor& operator=(const WatchedDoor&) = delete;

  // Readable once somebody has taken what Arm() left at the door.
  int fd() const { return event_fd_.get(); }

  // Steps 1 to 4 below; the caller's look is 5. False: it was armed already, so a look before this
  // call was as good as one after it.
  bool Arm();

  // Makes the descriptor readable if it is armed. Any thread.
  void Signal();
  bool armed() const { return armed_.load(std::memory_order_acquire); }

 private:
  friend class DoorWatch;

  WatchedDoor(DoorWatch& watch, Door& door, UniqueFd event_fd)
      : watch_(watch), door_(door), event_fd_(std::move(event_fd)) {}

  DoorWatch& watch_;
  Door& door_;
  const UniqueFd event_fd_;
  std::atomic<bool> armed_{false};
};

// The threads of one transport that turn the wakes of doors into readable descriptors. Who wakes is
// often another process, which cannot write to a descriptor of ours; it can wake a futex. So a
// thread here sleeps at the doors and writes the descriptors. One thread for up to 127 doors by
// futex_waitv; where the kernel has not got that, one for each. None before the first door.
//
// The socket's thread S, a waker W of any process, the watching thread T:
//   1. S makes the descriptor unreadable
//   2. S stores kWatched into the door's word, then sets `armed`, then `control` + 1, and wakes T
//   3. T sees `armed`, and takes the door among those that it sleeps at, expecting kWatched
//   4. S passes the rare-side barrier                  (base/barrier.h)
//   5. S looks once more whether there is something to do; if there is, it does not wait
//   6. W makes something to do, compiler fence, sees kWatched: exchange with 0, wakes the futex
//   7. T wakes, or does not fall asleep because the word is not kWatched: takes `armed`, writes the
//      descriptor. If S has armed again before the write, S wakes once for nothing.
// Of 5 and 6 one sees the other. W that is killed or stopped before 6 is complete leaves S waiting:
// so the regular work of the member looks at armed sockets, too, about every 50 ms, and calls
// Signal(). The process of S is killed: thread and descriptors are gone with it; kWatched stays at
// the door until somebody takes it, wakes nobody, and no harm is done.
// S that sleeps at its own door in between (a Receive() that waits) takes kWatched away; it has to
// arm again before it waits at the descriptor, as Socket::Descriptor() says.
class DoorWatches {
 public:
  DoorWatches() = default;
  // All its doors are gone. In a forked child, which has not got the threads, nothing is done.
  ~DoorWatches();
  DoorWatches(const DoorWatches&) = delete;
  DoorWatches& operator=(const DoorWatches&) = delete;

  // `door` outlives what is returned. kResourceExhausted: no descriptor or no thread to be had.
  absl::StatusOr<std::unique_ptr<WatchedDoor>> Watch(Door& door);

 private:
  const uint32_t fork_generation_ = ForkGeneration();
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<DoorWatch>> watches_ ABSL_GUARDED_BY(mutex_);
};

// One of those threads.
class DoorWatch {
 public:
  // kResourceExhausted: no thread to be had.
  static absl::StatusOr<std::unique_ptr<DoorWatch>> Start();
  ~DoorWatch();

  // Null: it has as many as it can have.
  std::unique_ptr<WatchedDoor> Add(Door& door, UniqueFd* event_fd);

 private:
  friend class WatchedDoor;

  DoorWatch();

  void Remove(WatchedDoor* watched);
  // Ends the sleep of the thread, that it looks around.
  void Knock();
  void Run();

  const bool sleeps_at_many_;
  std::atomic<uint32_t> control_{0};
  absl::Mutex mutex_;
  std::vector<WatchedDoor*> doors_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_DOOR_WATCH_H_

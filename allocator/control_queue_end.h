// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_CONTROL_QUEUE_END_H_
#define HANDOFF_ALLOCATOR_CONTROL_QUEUE_END_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allocator/mapping.h"
#include "allocator/object_names.h"
#include "base/sync.h"
#include "control_queue/control_queue_layout.h"
#include "control_queue/event_log.h"
#include "control_queue/member_id.h"

namespace handoff {

// The control queue of a session, mapped; made if there is none, or none that is whole. Needs byte
// 0 of the lock file, and nothing else of the session: no management object, no segment. The
// heartbeats are backed with memory, the rings of events are not. On failure nothing is left
// behind. kResourceExhausted: no room.
absl::StatusOr<Mapping> OpenOrMakeControlQueue(const ObjectNames& names, const FileAccess& access);

// Backs the events of all members up to `slot`, so that readers may read them and the member in it
// write. kResourceExhausted names the file system.
absl::Status BackEvents(Mapping& control_queue, uint32_t slot);

// A member's end of the control queue: its heartbeat, and the events that it tells. Any thread may
// call any function.
class ControlQueueEnd {
 public:
  // `control_queue` is of OpenOrMakeControlQueue(), with the events of `self` backed; `self` has
  // joined.
  ControlQueueEnd(Mapping control_queue, MemberId self);

  MemberId self() const { return self_; }

  void Beat();

  // Tells what happened now. Overwrites the oldest event of this member; never waits for a reader.
  void Tell(EventKind kind, MemberId about, uint64_t first = 0, uint64_t second = 0);

  // False once somebody has removed the file: nobody hears this member until Replace().
  bool IsUnderItsName() const;
  void Replace(Mapping control_queue);

 private:
  const MemberId self_;
  mutable absl::Mutex mutex_;
  Mapping mapping_ ABSL_GUARDED_BY(mutex_);
  std::optional<ControlQueue> queue_ ABSL_GUARDED_BY(mutex_);
  std::optional<EventWriter<RealSync>> writer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_CONTROL_QUEUE_END_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_STALL_DETECTOR_H_
#define HANDOFF_CONTROL_QUEUE_STALL_DETECTOR_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "control_queue/member_id.h"

namespace handoff {

// Tells which members' heartbeats have not changed for a time. Such a member is suspect: stopped,
// swapped out, or in a very long call. It is not dead, and nothing of it may be touched; death is
// what the life lock says. Knows only what it was shown, so look several times within the limit.
// One thread at a time.
class StallDetector {
 public:
  // A member is stalled once its count has not changed for `limit` (more than zero) of `clock`,
  // which must outlive this object.
  explicit StallDetector(absl::Duration limit, const Clock& clock = MonotonicClock());

  // Notes what the heartbeat of `member` counts now. True: the member is stalled. The first look at
  // a member, or at the next one of its slot, counts as a change. `member.slot` is below
  // kMaxMembers.
  bool Look(MemberId member, uint64_t beats);

  // For how long the count of that slot's member had not changed at the last look. Zero if there
  // was none.
  absl::Duration Silence(uint32_t slot) const;

  // For how long no count of any member has changed, as far as it was shown: since the last change,
  // or since this object was made. By the clock's time now.
  absl::Duration SinceAnyBeat() const;

 private:
  struct Seen {
    MemberId member;
    uint64_t beats = 0;
    int64_t changed_ns = 0;  // by *clock_: when the count was first seen
    int64_t looked_ns = 0;
  };

  const Clock* clock_;
  int64_t limit_ns_;
  int64_t any_beat_ns_;
  std::vector<Seen> seen_;  // by slot
};

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_STALL_DETECTOR_H_

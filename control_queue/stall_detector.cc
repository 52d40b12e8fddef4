// SPDX-License-Identifier: Apache-2.0
#include "control_queue/stall_detector.h"

#include "base/check.h"

namespace handoff {

StallDetector::StallDetector(absl::Duration limit, const Clock& clock)
    : clock_(&clock),
      limit_ns_(absl::ToInt64Nanoseconds(limit)),
      any_beat_ns_(clock.NowNanoseconds()),
      seen_(kMaxMembers) {
  HANDOFF_CHECK_GT(limit_ns_, 0);
}

bool StallDetector::Look(MemberId member, uint64_t beats) {
  HANDOFF_CHECK_LT(member.slot, kMaxMembers);
  Seen& seen = seen_[member.slot];
  const int64_t now_ns = clock_->NowNanoseconds();
  // A slot that was never looked at holds the id of nobody, which is no member's.
  const bool known = seen.member == member;
  if (!known || seen.beats != beats) {
    if (known) any_beat_ns_ = now_ns;
    seen = {.member = member, .beats = beats, .changed_ns = now_ns, .looked_ns = now_ns};
  }
  seen.looked_ns = now_ns;
  return now_ns - seen.changed_ns >= limit_ns_;
}

absl::Duration StallDetector::Silence(uint32_t slot) const {
  HANDOFF_CHECK_LT(slot, kMaxMembers);
  return absl::Nanoseconds(seen_[slot].looked_ns - seen_[slot].changed_ns);
}

absl::Duration StallDetector::SinceAnyBeat() const {
  return absl::Nanoseconds(clock_->NowNanoseconds() - any_beat_ns_);
}

}  // namespace handoff

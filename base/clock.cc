// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <algorithm>

#include "base/check.h"

namespace handoff {
namespace {

constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;

int64_t NanosecondsOf(clockid_t clock) {
  timespec now;
  HANDOFF_CHECK_EQ(::clock_gettime(clock, &now), 0);
  return int64_t{now.tv_sec} * kNanosecondsPerSecond + now.tv_nsec;
}

class SystemMonotonicClock final : public Clock {
 public:
  int64_t NowNanoseconds() const override { return NanosecondsOf(CLOCK_MONOTONIC); }
};

}  // namespace

const Clock& MonotonicClock() {
  // Never destroyed: threads may still read it while the process exits.
  static const Clock& clock = *new SystemMonotonicClock;
  return clock;
}

int64_t WallTimeNanoseconds() { return NanosecondsOf(CLOCK_REALTIME); }

Deadline Deadline::After(absl::Duration limit, const Clock& clock) {
  const int64_t now = clock.NowNanoseconds();
  const int64_t distance = std::max<int64_t>(absl::ToInt64Nanoseconds(limit), 0);  // saturates
  int64_t nanoseconds;
  if (__builtin_add_overflow(now, distance, &nanoseconds)) nanoseconds = kNever;
  return Deadline(clock, nanoseconds);
}

Deadline Deadline::Slice(absl::Duration slice) const {
  const Deadline end = After(slice, *clock_);
  return end.nanoseconds_ < nanoseconds_ ? end : *this;
}

int64_t Deadline::RemainingNanoseconds() const {
  const int64_t now = clock_->NowNanoseconds();
  return now >= nanoseconds_ ? 0 : nanoseconds_ - now;
}

absl::Duration Deadline::remaining() const {
  return is_infinite() ? absl::InfiniteDuration() : absl::Nanoseconds(RemainingNanoseconds());
}

std::optional<timespec> Deadline::RemainingTimespec() const {
  if (is_infinite()) return std::nullopt;
  const int64_t nanoseconds = RemainingNanoseconds();
  return timespec{.tv_sec = nanoseconds / kNanosecondsPerSecond,
                  .tv_nsec = nanoseconds % kNanosecondsPerSecond};
}

}  // namespace handoff

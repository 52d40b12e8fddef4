// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_CLOCK_H_
#define HANDOFF_BASE_CLOCK_H_

#include <time.h>

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace handoff {

// Where time comes from, so that tests can supply their own (base/testing/fake_clock.h). Any
// thread.
class Clock {
 public:
  virtual ~Clock() = default;

  // Nanoseconds since a fixed but arbitrary point. Never decreases.
  virtual int64_t NowNanoseconds() const = 0;
};

// CLOCK_MONOTONIC: one time for all processes of a machine, since its boot, unless they are in
// different time namespaces. Stands still while the machine is suspended.
const Clock& MonotonicClock();

// CLOCK_REALTIME, since 1970: to be shown to people. Jumps when the machine's time is set. Always
// the same few instructions, which absl::Now() is not: it goes on until two looks lie close enough
// together, which they never do in a process that is traced step by step.
int64_t WallTimeNanoseconds();

// A point in time up to which somebody waits, or never. A small value; keeps a reference to its
// clock.
class Deadline {
 public:
  // Never expires.
  static Deadline Infinite() { return Deadline(MonotonicClock(), kNever); }

  // Has expired: for those who do not wait.
  static Deadline Passed() { return Deadline(MonotonicClock(), INT64_MIN); }

  // `limit` from now. Zero or less has expired already; a limit beyond the clock's range never
  // does.
  static Deadline After(absl::Duration limit, const Clock& clock = MonotonicClock());

  // The earlier of this and `slice` from now: for waits that look around now and then.
  Deadline Slice(absl::Duration slice) const;

  bool is_infinite() const { return nanoseconds_ == kNever; }

  // Whether the time has come. Reads the clock.
  bool expired() const { return !is_infinite() && clock_->NowNanoseconds() >= nanoseconds_; }

  // Time left: zero once expired, absl::InfiniteDuration() if infinite. Reads the clock.
  absl::Duration remaining() const;

  // The same as a relative timeout for futex, ppoll and their kin, where "no timespec" means for
  // ever. Real time, also if the clock is a fake one.
  std::optional<timespec> RemainingTimespec() const;

 private:
  static constexpr int64_t kNever = INT64_MAX;

  Deadline(const Clock& clock, int64_t nanoseconds) : clock_(&clock), nanoseconds_(nanoseconds) {}

  // Zero once expired. Not for an infinite deadline.
  int64_t RemainingNanoseconds() const;

  const Clock* clock_;
  int64_t nanoseconds_;  // by *clock_
};

}  // namespace handoff

#endif  // HANDOFF_BASE_CLOCK_H_

// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/fake_clock.h"

namespace handoff {
namespace {

TEST(MonotonicClockTest, NeverDecreases) {
  int64_t last = MonotonicClock().NowNanoseconds();
  for (int i = 0; i < 1000; ++i) {
    const int64_t now = MonotonicClock().NowNanoseconds();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(DeadlineTest, ExpiresWhenItsTimeHasCome) {
  FakeClock clock;
  const Deadline deadline = Deadline::After(absl::Milliseconds(10), clock);
  EXPECT_FALSE(deadline.is_infinite());
  EXPECT_FALSE(deadline.expired());
  EXPECT_EQ(deadline.remaining(), absl::Milliseconds(10));
  clock.Advance(absl::Milliseconds(10) - absl::Nanoseconds(1));
  EXPECT_FALSE(deadline.expired());
  EXPECT_EQ(deadline.remaining(), absl::Nanoseconds(1));
  clock.Advance(absl::Nanoseconds(1));
  EXPECT_TRUE(deadline.expired());
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(deadline.remaining(), absl::ZeroDuration());
}

TEST(DeadlineTest, HasExpiredAtOnceForZeroAndNegativeLimits) {
  FakeClock clock;
  EXPECT_TRUE(Deadline::After(absl::ZeroDuration(), clock).expired());
  EXPECT_TRUE(Deadline::After(absl::Seconds(-5), clock).expired());
  EXPECT_TRUE(Deadline::After(-absl::InfiniteDuration(), clock).expired());
}

TEST(DeadlineTest, IsInfiniteForLimitsBeyondTheClock) {
  FakeClock clock;
  for (const Deadline& deadline :
       {Deadline::Infinite(), Deadline::After(absl::InfiniteDuration(), clock),
        Deadline::After(absl::Hours(24 * 365 * 1000), clock)}) {
    EXPECT_TRUE(deadline.is_infinite());
    EXPECT_FALSE(deadline.expired());
    EXPECT_EQ(deadline.remaining(), absl::InfiniteDuration());
    EXPECT_FALSE(deadline.RemainingTimespec().has_value());
  }
}

TEST(DeadlineTest, GivesItsRestAsTimespec) {
  FakeClock clock;
  const Deadline deadline = Deadline::After(absl::Seconds(3) + absl::Nanoseconds(7), clock);
  ASSERT_TRUE(deadline.RemainingTimespec().has_value());
  EXPECT_EQ(deadline.RemainingTimespec()->tv_sec, 3);
  EXPECT_EQ(deadline.RemainingTimespec()->tv_nsec, 7);
  clock.Advance(absl::Seconds(4));
  EXPECT_EQ(deadline.RemainingTimespec()->tv_sec, 0);
  EXPECT_EQ(deadline.RemainingTimespec()->tv_nsec, 0);
}

TEST(DeadlineTest, IsSlicedNotBeyondItsOwnEnd) {
  FakeClock clock;
  const Deadline deadline = Deadline::After(absl::Milliseconds(70), clock);
  EXPECT_EQ(deadline.Slice(absl::Milliseconds(50)).remaining(), absl::Milliseconds(50));
  clock.Advance(absl::Milliseconds(50));
  EXPECT_EQ(deadline.Slice(absl::Milliseconds(50)).remaining(), absl::Milliseconds(20));
  EXPECT_FALSE(Deadline::Infinite().Slice(absl::Hours(1)).is_infinite());
  EXPECT_TRUE(Deadline::Infinite().Slice(absl::InfiniteDuration()).is_infinite());
}

TEST(WallTimeTest, IsThatOfTheMachine) {
  const absl::Time before = absl::Now() - absl::Minutes(1);
  const absl::Time shown = absl::FromUnixNanos(WallTimeNanoseconds());
  EXPECT_GT(shown, before);
  EXPECT_LT(shown, absl::Now() + absl::Minutes(1));
}

}  // namespace
}  // namespace handoff

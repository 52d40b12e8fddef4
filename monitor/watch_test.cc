// SPDX-License-Identifier: Apache-2.0
#include "monitor/watch.h"

#include "base/testing/fake_clock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

TEST(SessionWatchTest, CleansUpOnceTheDeadHaveBeenSilentForTheTimeout) {
  FakeClock clock;
  SessionWatch watch(absl::Seconds(5), clock);
  const SessionPresence dead{.any_object = true, .living_members = 0, .fingerprint = 1};
  EXPECT_EQ(watch.Observe(dead), WatchVerdict::kWait);
  clock.Advance(absl::Milliseconds(4999));
  EXPECT_EQ(watch.Observe(dead), WatchVerdict::kWait);
  clock.Advance(absl::Milliseconds(1));
  EXPECT_EQ(watch.Observe(dead), WatchVerdict::kCleanUp);
}

TEST(SessionWatchTest, CountsFromTheLastHeartbeatOfThoseWhoAreDeadNow) {
  FakeClock clock;
  SessionWatch watch(absl::Seconds(5), clock);
  // It lived on without a heartbeat, stopped say, and was killed then.
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 1, .fingerprint = 1}),
            WatchVerdict::kWait);
  clock.Advance(absl::Seconds(4));
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 0, .fingerprint = 1}),
            WatchVerdict::kWait);
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 0, .fingerprint = 1}),
            WatchVerdict::kCleanUp);
}

TEST(SessionWatchTest, NeverCleansUpWhatLives) {
  FakeClock clock;
  SessionWatch watch(absl::Seconds(5), clock);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 1, .fingerprint = 1}),
              WatchVerdict::kWait);
    clock.Advance(absl::Hours(1));
  }
}

TEST(SessionWatchTest, ReclaimsWhomTheLivingLeaveAndTriesAgainLater) {
  FakeClock clock;
  SessionWatch watch(absl::Seconds(5), clock);
  SessionPresence presence{
      .any_object = true, .living_members = 1, .unreclaimed = 7, .fingerprint = 1};
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kWait);
  clock.Advance(absl::Milliseconds(199));
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kWait);
  clock.Advance(absl::Milliseconds(1));
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kReclaim);
  clock.Advance(absl::Milliseconds(9999));
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kWait);
  clock.Advance(absl::Milliseconds(1));
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kReclaim);
  // Somebody else has died: the living have their time again.
  presence.unreclaimed = 8;
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kWait);
  clock.Advance(absl::Milliseconds(200));
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kReclaim);
  presence.unreclaimed = 0;
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(watch.Observe(presence), WatchVerdict::kWait);
}

TEST(SessionWatchTest, BeginsAnewWhenSomethingHasHappened) {
  FakeClock clock;
  SessionWatch watch(absl::Seconds(5), clock);
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 0, .fingerprint = 1}),
            WatchVerdict::kWait);
  clock.Advance(absl::Seconds(4));
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 0, .fingerprint = 2}),
            WatchVerdict::kWait);
  clock.Advance(absl::Seconds(4));
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 1, .fingerprint = 2}),
            WatchVerdict::kWait);
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 0, .fingerprint = 2}),
            WatchVerdict::kWait);
  clock.Advance(absl::Seconds(5));
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 0, .fingerprint = 2}),
            WatchVerdict::kCleanUp);
}

TEST(SessionWatchTest, SaysOnceThatTheSessionHasGone) {
  FakeClock clock;
  SessionWatch watch(absl::Seconds(5), clock);
  EXPECT_EQ(watch.Observe({}), WatchVerdict::kWait);
  EXPECT_EQ(watch.Observe({.any_object = true, .living_members = 2, .fingerprint = 1}),
            WatchVerdict::kWait);
  EXPECT_EQ(watch.Observe({}), WatchVerdict::kGone);
  EXPECT_EQ(watch.Observe({}), WatchVerdict::kWait);
}

}  // namespace
}  // namespace handoff

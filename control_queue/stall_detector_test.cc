// SPDX-License-Identifier: Apache-2.0
#include "control_queue/stall_detector.h"

#include <memory>

#include "absl/time/time.h"
#include "base/sync.h"
#include "base/testing/fake_clock.h"
#include "control_queue/heartbeat.h"
#include "control_queue/member_id.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr MemberId kMember = {.slot = 3, .epoch = 7};
constexpr MemberId kOther = {.slot = 4, .epoch = 7};

class StallDetectorTest : public ::testing::Test {
 protected:
  bool LookAfter(absl::Duration pause, MemberId member, uint64_t beats) {
    clock_.Advance(pause);
    return detector_.Look(member, beats);
  }

  FakeClock clock_;
  StallDetector detector_{absl::Seconds(5), clock_};
};

TEST_F(StallDetectorTest, SuspectsAMemberWhoseCountStandsStillForTheLimit) {
  EXPECT_FALSE(detector_.Look(kMember, 10));
  EXPECT_FALSE(LookAfter(absl::Milliseconds(4999), kMember, 10));
  EXPECT_TRUE(LookAfter(absl::Milliseconds(1), kMember, 10));
  EXPECT_EQ(detector_.Silence(kMember.slot), absl::Seconds(5));
}

TEST_F(StallDetectorTest, SuspectsNobodyWhoseCountChanges) {
  for (uint64_t beats = 0; beats < 5; ++beats) {
    EXPECT_FALSE(LookAfter(absl::Seconds(4), kMember, beats));
    EXPECT_EQ(detector_.Silence(kMember.slot), absl::ZeroDuration());
  }
}

TEST_F(StallDetectorTest, TakesACountThatWentBackForAChange) {
  EXPECT_FALSE(detector_.Look(kMember, 10));
  EXPECT_FALSE(LookAfter(absl::Seconds(6), kMember, 9));
}

TEST_F(StallDetectorTest, ClearsAMemberThatGoesOn) {
  EXPECT_FALSE(detector_.Look(kMember, 10));
  EXPECT_TRUE(LookAfter(absl::Seconds(9), kMember, 10));
  EXPECT_FALSE(LookAfter(absl::Seconds(9), kMember, 11));
}

TEST_F(StallDetectorTest, LooksAtEachMemberByItself) {
  EXPECT_FALSE(detector_.Look(kMember, 10));
  EXPECT_FALSE(LookAfter(absl::Seconds(3), kOther, 10));
  EXPECT_TRUE(LookAfter(absl::Seconds(3), kMember, 10));
  EXPECT_FALSE(LookAfter(absl::ZeroDuration(), kOther, 10));
}

TEST_F(StallDetectorTest, StartsAnewWithTheNextMemberOfASlot) {
  EXPECT_FALSE(detector_.Look(kMember, 10));
  const MemberId next = {.slot = kMember.slot, .epoch = kMember.epoch + 1};
  EXPECT_FALSE(LookAfter(absl::Seconds(9), next, 10));
  EXPECT_TRUE(LookAfter(absl::Seconds(5), next, 10));
}

TEST_F(StallDetectorTest, KnowsNothingOfASlotItWasNotShown) {
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(detector_.Silence(9), absl::ZeroDuration());
  EXPECT_FALSE(detector_.Look({.slot = 9, .epoch = 0}, 0)) << "all zero";
}

TEST_F(StallDetectorTest, SaysHowLongNobodyHasShownLife) {
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(detector_.SinceAnyBeat(), absl::Seconds(1)) << "since it was made";
  EXPECT_FALSE(detector_.Look(kMember, 10));
  EXPECT_EQ(detector_.SinceAnyBeat(), absl::Seconds(1)) << "no change yet";
  EXPECT_FALSE(LookAfter(absl::Seconds(1), kMember, 11));
  EXPECT_FALSE(LookAfter(absl::Seconds(2), kOther, 1));
  EXPECT_EQ(detector_.SinceAnyBeat(), absl::Seconds(2));
}

TEST(HeartbeatTest, ChangesWithEveryBeatAndCountsOnForTheNextMember) {
  const auto heartbeat = std::make_unique<Heartbeat<RealSync>>();
  const uint64_t before = heartbeat->Beats();
  heartbeat->Beat();
  const uint64_t after = heartbeat->Beats();
  EXPECT_NE(before, after);
  heartbeat->Beat();
  EXPECT_NE(heartbeat->Beats(), after);
  EXPECT_NE(heartbeat->Beats(), before);
}

}  // namespace
}  // namespace handoff

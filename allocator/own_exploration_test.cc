// SPDX-License-Identifier: Apache-2.0
// Holds, pages and rings together, in every order, with death at every step and
// reclaim by all who live. The bounds of each test are in its budget.
#include "allocator/testing/explored_world.h"
#include "base/mutation.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr uint32_t kThreeRings = kRing1To2 | kRing1To3 | kRing3To2;

TEST(OwnExplorationTest, IsRightWithTwoAllocations) {
  ExpectRight({.allocations = 2, .kills = 0, .rings = kThreeRings});
}
TEST(OwnExplorationTest, IsRightWhenThePageChangesHandsAndItsOwnerIsKilled) {
  ExpectRight({.kills = 1, .claims = 1, .gives = 1, .rings = kNoRing});
}
TEST(OwnExplorationTest, IsRightWhenEitherEndOfARingIsKilled) {
  ExpectRight({.kills = 1, .rings = kRing1To2});
}
TEST(OwnExplorationTest, IsRightWhenTheSenderTakesBackFromTheLiving) {
  ExpectRight({.allocations = 3, .kills = 0, .recalls = 2, .capacity = 1, .rings = kRing1To2});
}

TEST(OwnExplorationFullTest, IsRightWhenThePageChangesHandsAndItsOwnersAreKilled) {
  ExpectRight({.kills = 2, .claims = 1, .gives = 1, .rings = kNoRing});
}
TEST(OwnExplorationFullTest, IsRightWhenASlotIsUsedAgain) {
  ExpectRight({.kills = 1, .newcomers = 1, .claims = 1, .rings = kNoRing});
}
TEST(OwnExplorationFullTest, IsRightWhenOneOfThreeIsKilled) {
  ExpectRight({.kills = 1, .rings = kThreeRings});
}
TEST(OwnExplorationFullTest, IsRightWhenAnEndIsClosedAndOneIsKilled) {
  ExpectRight({.kills = 1, .closes = 1, .rings = kRing1To2});
}
TEST(OwnExplorationFullTest, IsRightWhenTheSenderTakesBackAndOneIsKilled) {
  ExpectRight({.allocations = 2, .kills = 1, .recalls = 2, .capacity = 1, .rings = kRing1To2});
}
TEST(OwnExplorationFullTest, IsRightWhenTwoOfThreeAreKilled) {
  ExpectRight({.kills = 2, .rings = kRing1To2});
}

TEST(OwnExplorationMutationTest, NoGenerationAtMark) {
  ExpectWrong(Mutation::kNoGenerationAtMark,
              {.allocations = 3, .kills = 0, .recalls = 2, .capacity = 1, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, PublishBeforeBody) {
  ExpectWrong(Mutation::kPublishBeforeBody, {.kills = 0, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, ProbeBeforeRow) {
  ExpectWrong(Mutation::kProbeBeforeRow,
              {.allocations = 0, .kills = 1, .newcomers = 1, .rings = kNoRing});
}
TEST(OwnExplorationMutationTest, StealFreePages) {
  ExpectWrong(Mutation::kStealFreePages, {.allocations = 2, .kills = 0, .rings = kNoRing});
}
TEST(OwnExplorationMutationTest, LookThenGone) {
  ExpectWrong(Mutation::kLookThenGone, {.kills = 1, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, NoDrain) {
  ExpectWrong(Mutation::kNoDrain, {.kills = 1, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, NoRelabel) {
  ExpectWrong(Mutation::kNoRelabel, {.kills = 1, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, GoneWithoutOther) {
  ExpectWrong(Mutation::kGoneWithoutOther, {.kills = 1, .closes = 1, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, NoSecondLookAtHead) {
  ExpectWrong(Mutation::kNoSecondLookAtHead,
              {.allocations = 2, .kills = 0, .recalls = 2, .capacity = 1, .rings = kRing1To2});
}

TEST(OwnExplorationFullMutationTest, NoRowLook) {
  ExpectWrong(Mutation::kNoRowLook, {.kills = 1, .newcomers = 1, .claims = 1, .rings = kNoRing});
}
TEST(OwnExplorationMutationTest, RestartAtLapOne) {
  ExpectWrong(Mutation::kRestartAtLapOne,
              {.allocations = 2, .kills = 0, .closes = 1, .rings = kRing1To2});
}
TEST(OwnExplorationMutationTest, NoLookAtReceiver) {
  ExpectWrong(Mutation::kNoLookAtReceiver, {.kills = 2, .rings = kRing1To2});
}
}  // namespace
}  // namespace handoff

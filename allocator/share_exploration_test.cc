// SPDX-License-Identifier: Apache-2.0
// Share groups: built, copied, sent, released and swept in every order, with
// death at every step and reclaim by all who live. The bounds of each test are
// in its budget.
#include "allocator/testing/explored_world.h"
#include "base/mutation.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr ExploredBudget With(int kills, int shares, int copies, int sweeps, uint32_t rings,
                              int allocations = 1, int members = 2) {
  return {.allocations = allocations,
          .kills = kills,
          .shares = shares,
          .copies = copies,
          .sweeps = sweeps,
          .rings = rings,
          .members = members,
          .messages = 2};
}

TEST(ShareExplorationTest, IsRightWithTwoReferencesThatGoApart) {
  ExpectRight(With(/*kills=*/0, /*shares=*/1, /*copies=*/2, /*sweeps=*/1, kRing1To2));
}
TEST(ShareExplorationTest, IsRightWhenTheSharerIsKilled) {
  ExpectRight(With(/*kills=*/1, /*shares=*/1, /*copies=*/1, /*sweeps=*/0, kNoRing));
}
TEST(ShareExplorationTest, IsRightWhenTheGroupIsUsedAgain) {
  ExpectRight(With(/*kills=*/0, /*shares=*/2, /*copies=*/0, /*sweeps=*/1, kRing1To2, 2));
}

TEST(ShareExplorationFullTest, IsRightWhenOneOfTwoIsKilled) {
  ExpectRight(With(/*kills=*/1, /*shares=*/1, /*copies=*/1, /*sweeps=*/0, kRing1To2));
}
TEST(ShareExplorationFullTest, IsRightWhenTwoReclaimAtOnce) {
  ExpectRight(With(/*kills=*/1, /*shares=*/1, /*copies=*/1, /*sweeps=*/0, kNoRing, 1, 3));
}
TEST(ShareExplorationFullTest, IsRightWhenTwoOfThreeAreKilled) {
  ExpectRight(With(/*kills=*/2, /*shares=*/1, /*copies=*/0, /*sweeps=*/0, kNoRing, 1, 3));
}
TEST(ShareExplorationFullTest, IsRightWhenTheGroupIsUsedAgainAndOneIsKilled) {
  ExpectRight(With(/*kills=*/1, /*shares=*/2, /*copies=*/0, /*sweeps=*/1, kNoRing, 2));
}

TEST(ShareExplorationMutationTest, ReadGroupOnce) {
  ExpectWrong(Mutation::kReadGroupOnce, With(0, 1, 2, 0, kRing1To2));
}
TEST(ShareExplorationMutationTest, ShareBeforeLive) {
  ExpectWrong(Mutation::kShareBeforeLive, With(1, 1, 0, 0, kNoRing));
}
TEST(ShareExplorationMutationTest, NoGroupSweep) {
  ExpectWrong(Mutation::kNoGroupSweep, With(1, 1, 0, 0, kNoRing));
}
TEST(ShareExplorationMutationTest, GroupFreedFirst) {
  ExpectWrong(Mutation::kGroupFreedFirst, With(1, 1, 0, 0, kNoRing));
}
TEST(ShareExplorationMutationTest, NoSecondLookAtGroup) {
  ExpectWrong(Mutation::kNoSecondLookAtGroup, With(0, 2, 0, 1, kNoRing, 2));
}

}  // namespace
}  // namespace handoff

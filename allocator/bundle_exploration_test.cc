// SPDX-License-Identifier: Apache-2.0
// Bundles: built, sent, unpacked and freed in every order, with death at every
// step and reclaim by all who live. The bounds of each test are in its budget.
#include "allocator/testing/explored_world.h"
#include "base/mutation.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr ExploredBudget With(int kills, int bundles, uint32_t rings, int allocations = 2,
                              int members = 2) {
  return {.allocations = allocations,
          .kills = kills,
          .bundles = bundles,
          .rings = rings,
          .members = members,
          .messages = 2};
}

TEST(BundleExplorationTest, IsRightWithoutKills) {
  ExpectRight(With(/*kills=*/0, /*bundles=*/2, kRing1To2, 4));
}
TEST(BundleExplorationTest, IsRightWhenTheBuilderIsKilled) {
  ExpectRight(With(/*kills=*/1, /*bundles=*/1, kNoRing));
}

TEST(BundleExplorationFullTest, IsRightWhenOneOfTwoIsKilled) {
  ExpectRight(With(/*kills=*/1, /*bundles=*/1, kRing1To2));
}
TEST(BundleExplorationFullTest, IsRightWhenTwoReclaimAtOnce) {
  ExpectRight(With(/*kills=*/1, /*bundles=*/1, kNoRing, 2, 3));
}
TEST(BundleExplorationFullTest, IsRightWhenTwoOfThreeAreKilled) {
  ExpectRight(With(/*kills=*/2, /*bundles=*/1, kNoRing, 2, 3));
}
TEST(BundleExplorationFullTest, IsRightWhenTheBundleIsUsedAgainAndOneIsKilled) {
  ExpectRight(With(/*kills=*/1, /*bundles=*/2, kNoRing, 4));
}

TEST(BundleExplorationMutationTest, BundleWordOnly) {
  ExpectWrong(Mutation::kBundleWordOnly, With(1, 1, kNoRing));
}
}  // namespace
}  // namespace handoff

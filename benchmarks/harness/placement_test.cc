// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/placement.h"

#include <gtest/gtest.h>

namespace handoff {
namespace {

TEST(PlacementTest, CoresOfOneCacheAreNearAndOthersFar) {
  EXPECT_EQ(Classify(50, 55), Placement::kNear);
  EXPECT_EQ(Classify(115, 90), Placement::kNear);
  EXPECT_EQ(Classify(500, 480), Placement::kFar);
}

TEST(PlacementTest, CoresThatMovedWithinABurstAreOfNoUse) {
  EXPECT_EQ(Classify(85, 500), Placement::kMoved);
  EXPECT_EQ(Classify(500, 85), Placement::kMoved);
  // Within one class, but not the same place.
  EXPECT_EQ(Classify(50, 115), Placement::kMoved);
  // On both sides of the limit, however close.
  EXPECT_EQ(Classify(kNearestFarNs - 1, kNearestFarNs), Placement::kMoved);
}

}  // namespace
}  // namespace handoff

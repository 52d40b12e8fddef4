// SPDX-License-Identifier: Apache-2.0
#include "base/testing/wait_for.h"

#include <gtest/gtest.h>

#include "absl/time/time.h"

namespace handoff {
namespace {

TEST(WaitForTest, AsksUntilThePredicateHolds) {
  int asked = 0;
  EXPECT_TRUE(WaitFor([&] { return ++asked == 3; }));
  EXPECT_EQ(asked, 3);
}

TEST(WaitForTest, GivesUpAtTheLimitAfterALastLook) {
  int asked = 0;
  EXPECT_FALSE(WaitFor([&] { return ++asked < 0; }, absl::ZeroDuration()));
  EXPECT_EQ(asked, 2);
}

}  // namespace
}  // namespace handoff

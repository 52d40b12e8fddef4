// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/statistics.h"

#include <gtest/gtest.h>

namespace handoff {
namespace {

TEST(SamplesTest, PercentilesAreValuesThatWereMeasured) {
  Samples samples;
  for (int i = 1000; i >= 1; --i) samples.Add(i);
  EXPECT_EQ(samples.Percentile(0), 1);
  EXPECT_EQ(samples.Median(), 500);
  EXPECT_EQ(samples.Percentile(0.99), 990);
  EXPECT_EQ(samples.Percentile(0.999), 999);
  EXPECT_EQ(samples.Percentile(1), 1000);
}

TEST(SamplesTest, OneValueIsAllItsPercentiles) {
  Samples samples;
  samples.Add(7);
  EXPECT_EQ(samples.Percentile(0), 7);
  EXPECT_EQ(samples.Median(), 7);
  EXPECT_EQ(samples.Percentile(1), 7);
}

TEST(SamplesTest, TheMedianIgnoresWhatAnInterruptionHasAdded) {
  Samples samples;
  samples.Add({5, 1'000'000, 4, 6, 5});
  EXPECT_EQ(samples.Median(), 5);
}

TEST(SamplesTest, TooFewValuesSayNothing) {
  Samples samples;
  EXPECT_EQ(samples.Median(), std::nullopt);
  samples.Add({1, 2, 3});
  EXPECT_EQ(samples.Median(4), std::nullopt);
  EXPECT_EQ(samples.Median(3), 2);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/report.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "benchmarks/harness/comparison.h"
#include "benchmarks/harness/placement.h"

namespace handoff {
namespace {

Measured Of(const std::string& name, double near_ns, double far_ns) {
  Measured measured;
  measured.name = name;
  for (int i = 0; i < 5; ++i) {
    if (near_ns > 0) measured.message_ns[0].Add(near_ns);
    if (far_ns > 0) measured.message_ns[1].Add(far_ns);
  }
  return measured;
}

TEST(ReportTest, ALineIsMetIfItIsFastEnough) {
  Report report;
  report.AtLeast("ten times as fast", Of("ours", 10, 0), Of("base", 100, 0), 10);
  report.AtMost("twice as slow", Of("ours", 20, 0), Of("base", 10, 0), 2);
  EXPECT_EQ(report.met(), 2);
  EXPECT_EQ(report.missed(), 0);
}

TEST(ReportTest, ALineIsMissedIfItIsNot) {
  Report report;
  report.AtLeast("ten times as fast", Of("ours", 10.1, 0), Of("base", 100, 0), 10);
  report.AtMost("twice as slow", Of("ours", 20.1, 0), Of("base", 10, 0), 2);
  EXPECT_EQ(report.met(), 0);
  EXPECT_EQ(report.missed(), 2);
}

TEST(ReportTest, OnlyWithinOnePlacementIsCompared) {
  Report report;
  report.AtMost("as fast", Of("ours", 0, 50), Of("base", 10, 0), 1);
  EXPECT_EQ(report.met() + report.missed(), 0);
  report.AtMost("as fast", Of("ours", 10, 50), Of("base", 10, 50), 1);
  EXPECT_EQ(report.met(), 2);
}

TEST(ReportTest, AHandfulOfBurstsIsNoMeasurement) {
  Report report(6);
  report.AtMost("as fast", Of("ours", 10, 0), Of("base", 10, 0), 1);
  EXPECT_EQ(report.met() + report.missed(), 0);
}

TEST(ReportTest, ANoteIsNeitherMetNorMissed) {
  Report report;
  report.Note("for people", Of("ours", 10, 0), Of("base", 1, 0));
  EXPECT_EQ(report.met() + report.missed(), 0);
}

TEST(ReportTest, AFigureIsComparedWithItsLimit) {
  Report report;
  report.NanosecondsAtMost("both placements", Of("ours", 40, 41), 40);
  EXPECT_EQ(report.met(), 1);
  EXPECT_EQ(report.missed(), 1);
  Samples milliseconds;
  milliseconds.Add({0.5, 0.9, 20});
  report.MillisecondsAtMost("the median counts", milliseconds, 1);
  report.Fact("a fact", "17 bytes", "<= 16", false);
  EXPECT_EQ(report.met(), 2);
  EXPECT_EQ(report.missed(), 2);
}

TEST(ReportTest, ContendersAreFoundByName) {
  const std::vector<Measured> all = {Of("a", 1, 1), Of("b", 2, 2)};
  EXPECT_EQ(&Report::Find(all, "b"), &all[1]);
}

}  // namespace
}  // namespace handoff

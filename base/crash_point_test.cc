// SPDX-License-Identifier: Apache-2.0
#include "base/crash_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <thread>

#include "base/testing/child_process.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

void PassFirst() { HANDOFF_CRASH_POINT("base.test.first"); }
void PassSecond() { HANDOFF_CRASH_POINT("base.test.second"); }

class CrashPointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kCrashPointsCompiledIn) GTEST_SKIP() << "this build has no crash points";
  }
};

TEST_F(CrashPointTest, KillsAtTheArmedPointOnly) {
  ChildProcess child = ChildProcess::Start([] {
    ArmCrashPoint("base.test.second");
    PassFirst();
    PassSecond();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
  ChildProcess other = ChildProcess::Start([] {
    ArmCrashPoint("base.test.second");
    PassFirst();
    return 0;
  });
  EXPECT_EQ(other.Wait(), ChildExit::Code(0));
}

TEST_F(CrashPointTest, KillsAtTheNthPass) {
  for (const uint64_t passes : {2u, 3u}) {
    ChildProcess child = ChildProcess::Start([&] {
      ArmCrashPoint("base.test.first", 3);
      for (uint64_t i = 0; i < passes; ++i) PassFirst();
      return 0;
    });
    EXPECT_EQ(child.Wait(), passes == 3 ? ChildExit::Signal(SIGKILL) : ChildExit::Code(0));
  }
}

TEST_F(CrashPointTest, IsArmedByTheLastCallUntilDisarmed) {
  ChildProcess child = ChildProcess::Start([] {
    ArmCrashPoint("base.test.first");
    ArmCrashPoint("base.test.second");
    PassFirst();
    DisarmCrashPoint();
    PassSecond();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(CrashPointTest, CountsPassesByNameFromTheMomentItIsAskedTo) {
  // In a child, since counting does not end.
  ChildProcess child = ChildProcess::Start([] {
    PassFirst();
    CountCrashPoints();
    EXPECT_THAT(CrashPointsPassed(), IsEmpty());
    PassSecond();
    std::thread(&PassFirst).join();
    PassSecond();
    EXPECT_THAT(CrashPointsPassed(),
                ElementsAre(Pair("base.test.second", 2), Pair("base.test.first", 1)));
    CountCrashPoints();
    EXPECT_THAT(CrashPointsPassed(), IsEmpty());
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

// How this program ends when it runs the test below with HANDOFF_CRASH_AT=value.
ChildExit RunWithEnvironment(const char* value) {
  ChildProcess child = ChildProcess::Start([&] {
    ::setenv("HANDOFF_CRASH_AT", value, 1);
    ::unsetenv("TEST_SHARD_INDEX");
    ::unsetenv("TESTBRIDGE_TEST_ONLY");
    ::unsetenv("XML_OUTPUT_FILE");
    ::execl("/proc/self/exe", "crash_point_test", "--gtest_also_run_disabled_tests",
            "--gtest_filter=CrashPointTest.DISABLED_PassesBothPoints", static_cast<char*>(nullptr));
    return 1;
  });
  return child.Wait().value_or(ChildExit::Code(-1));
}

TEST_F(CrashPointTest, DISABLED_PassesBothPoints) {
  PassFirst();
  PassSecond();
}

TEST_F(CrashPointTest, IsArmedByTheEnvironment) {
  EXPECT_EQ(RunWithEnvironment("base.test.second"), ChildExit::Signal(SIGKILL));
  EXPECT_EQ(RunWithEnvironment("base.test.second:1"), ChildExit::Signal(SIGKILL));
  EXPECT_EQ(RunWithEnvironment("base.test.second:2"), ChildExit::Code(0));
  EXPECT_EQ(RunWithEnvironment("base.test.third"), ChildExit::Code(0));
}

TEST_F(CrashPointTest, RefusesAMalformedEnvironment) {
  for (const char* value :
       {"", "base.test.second:", "base.test.second:x", "base.test.second:0", ":1"}) {
    EXPECT_EQ(RunWithEnvironment(value), ChildExit::Signal(SIGABRT)) << value;
  }
}

}  // namespace
}  // namespace handoff

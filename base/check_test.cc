// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdint>
#include <string>

namespace handoff {
namespace {

enum class Color : uint8_t { kRed = 7 };

struct Unprintable {
  char bytes[3] = {};
  bool operator==(const Unprintable&) const { return false; }
};

TEST(CheckTest, EvaluatesOperandsOnceAndMessagesNotAtAllWhenItPasses) {
  int evaluated = 0;
  int streamed = 0;
  HANDOFF_CHECK(++evaluated == 1) << ++streamed;
  HANDOFF_CHECK_EQ(++evaluated, 2) << ++streamed;
  EXPECT_EQ(evaluated, 2);
  EXPECT_EQ(streamed, 0);
}

TEST(CheckTest, LeavesAnElseToTheIfBeforeIt) {
  bool in_else = false;
  // clang-format off
  if (in_else) HANDOFF_CHECK(true); else in_else = true;
  // clang-format on
  EXPECT_TRUE(in_else);
}

TEST(CheckTest, ComparesIntegersByValueWhateverTheirSign) {
  HANDOFF_CHECK_LT(-1, 1u);
  HANDOFF_CHECK_NE(-1, UINT32_MAX);
  HANDOFF_CHECK_GT(uint64_t{1}, int8_t{-1});
  HANDOFF_CHECK_LE(1, 1);
  HANDOFF_CHECK_GE(2, 1);
}

TEST(CheckDeathTest, PrintsPlaceConditionAndMessage) {
  EXPECT_DEATH(HANDOFF_CHECK(1 + 1 == 3) << "with " << 42,
               "check_test.cc:[0-9]+: check failed: 1 \\+ 1 == 3 with 42\n");
}

TEST(CheckDeathTest, PrintsBothValues) {
  const int slots = 4;
  EXPECT_DEATH(HANDOFF_CHECK_LT(slots, 3) << "slots",
               "check failed: slots < 3 \\(4 vs. 3\\) slots");
  EXPECT_DEATH(HANDOFF_CHECK_EQ(std::string("a"), "b"), "\\(a vs. b\\)");
}

TEST(CheckDeathTest, PrintsEnumsAndSmallIntegersAsNumbersAndOtherTypesBySize) {
  EXPECT_DEATH(HANDOFF_CHECK_NE(Color::kRed, Color::kRed), "\\(7 vs. 7\\)");
  EXPECT_DEATH(HANDOFF_CHECK_EQ(uint8_t{65}, uint8_t{66}), "\\(65 vs. 66\\)");
  EXPECT_DEATH(HANDOFF_CHECK_EQ(Unprintable(), Unprintable()),
               "\\(\\(3 bytes\\) vs. \\(3 bytes\\)\\)");
  int value = 0;
  EXPECT_DEATH(HANDOFF_CHECK_EQ(&value, nullptr), "vs. nullptr");
}

TEST(CheckDeathTest, AbortsWithSigabrt) {
  EXPECT_EXIT(HANDOFF_CHECK(false), ::testing::KilledBySignal(SIGABRT), "");
}

#ifdef NDEBUG
TEST(DcheckTest, IsNotEvaluatedWithNdebug) {
  int evaluated = 0;
  HANDOFF_DCHECK(++evaluated == 0);
  HANDOFF_DCHECK_EQ(++evaluated, 0);
  EXPECT_EQ(evaluated, 0);
}
#else
TEST(DcheckTest, GoesOnWhenItHolds) {
  int evaluated = 0;
  HANDOFF_DCHECK(++evaluated == 1);
  HANDOFF_DCHECK_EQ(++evaluated, 2);
  EXPECT_EQ(evaluated, 2);
}

TEST(DcheckDeathTest, StopsWithoutNdebug) {
  EXPECT_DEATH(HANDOFF_DCHECK(false) << "here", "here");
  EXPECT_DEATH(HANDOFF_DCHECK_EQ(1, 2), "1 vs. 2");
}
#endif

}  // namespace
}  // namespace handoff

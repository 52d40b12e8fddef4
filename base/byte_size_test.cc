// SPDX-License-Identifier: Apache-2.0
#include "base/byte_size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace handoff {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kKiB = uint64_t{1} << 10;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kTiB = uint64_t{1} << 40;

uint64_t Parse(const char* text) {
  const absl::StatusOr<uint64_t> size = ParseByteSize(text);
  EXPECT_TRUE(size.ok()) << size.status();
  return size.value_or(UINT64_MAX);
}

TEST(ParseByteSizeTest, ReadsPlainNumbersAsBytes) {
  EXPECT_EQ(Parse("0"), 0u);
  EXPECT_EQ(Parse("4096"), 4096u);
  EXPECT_EQ(Parse("512B"), 512u);
  EXPECT_EQ(Parse("18446744073709551615"), UINT64_MAX);
}

TEST(ParseByteSizeTest, KnowsPowersOf1024AndPowersOf1000) {
  EXPECT_EQ(Parse("3KiB"), 3 * kKiB);
  EXPECT_EQ(Parse("64MiB"), 64 * kMiB);
  EXPECT_EQ(Parse("64 MiB"), 64 * kMiB);
  EXPECT_EQ(Parse("2GiB"), 2 * kGiB);
  EXPECT_EQ(Parse("16777215TiB"), 16777215 * kTiB);
  EXPECT_EQ(Parse("3kB"), 3'000u);
  EXPECT_EQ(Parse("3KB"), 3'000u);
  EXPECT_EQ(Parse("250MB"), 250'000'000u);
  EXPECT_EQ(Parse("1GB"), 1'000'000'000u);
  EXPECT_EQ(Parse("1TB"), 1'000'000'000'000u);
}

TEST(ParseByteSizeTest, RoundsFractionsDownToAByte) {
  EXPECT_EQ(Parse("1.5GiB"), kGiB + kGiB / 2);
  EXPECT_EQ(Parse("0.000001MB"), 1u);
  EXPECT_EQ(Parse("0.1KiB"), 102u);
  EXPECT_EQ(Parse("0.999999TiB"), 1099510528264u);
}

TEST(ParseByteSizeTest, RefusesEverythingElse) {
  for (const char* text :
       {"",      " ",      "MiB",    "-1",     "+1",    " 1",  "1 ",   "1  MiB",       "64mib",
        "64Mib", "64M",    "64k",    "1.GiB",  ".5GiB", "1.5", "1.5B", "1.0000001GiB", "1e9",
        "0x10",  "1,5GiB", "64MiB ", "64MiBx", "1 1"}) {
    EXPECT_EQ(ParseByteSize(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseByteSizeTest, RefusesWhatDoesNotFitIn64Bits) {
  for (const char* text : {"18446744073709551616", "16777216TiB", "18446744073709551615KiB",
                           "99999999999999999999999", "18446744073.709552GB"}) {
    EXPECT_EQ(ParseByteSize(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseByteSizeTest, NamesTheTextAndTheFormsInItsErrors) {
  const std::string message(ParseByteSize("64mib").status().message());
  EXPECT_THAT(message, HasSubstr("\"64mib\""));
  EXPECT_THAT(message, HasSubstr("unknown unit"));
  EXPECT_THAT(message, HasSubstr("64MiB"));
  EXPECT_THAT(message, HasSubstr("kB, MB, GB, TB"));
}

TEST(FormatByteSizeTest, UsesTheLargestUnitThatGivesAtLeastOne) {
  EXPECT_EQ(FormatByteSize(0), "0 B");
  EXPECT_EQ(FormatByteSize(1023), "1023 B");
  EXPECT_EQ(FormatByteSize(1024), "1 KiB");
  EXPECT_EQ(FormatByteSize(64 * kMiB), "64 MiB");
  EXPECT_EQ(FormatByteSize(kGiB + kGiB / 2), "1.5 GiB");
  EXPECT_EQ(FormatByteSize(kMiB + kMiB / 16), "1.06 MiB");
  EXPECT_EQ(FormatByteSize(5000 * kTiB), "5000 TiB");
}

TEST(FormatByteSizeTest, RoundsDown) {
  EXPECT_EQ(FormatByteSize(kMiB - 1), "1023.99 KiB");
  EXPECT_EQ(FormatByteSize(UINT64_MAX), "16777215.99 TiB");
}

TEST(FormatByteSizeTest, PrintsWhatParseByteSizeReads) {
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{7}, kKiB, 3 * kMiB, 5 * kGiB + kGiB / 4, 9 * kTiB}) {
    EXPECT_EQ(Parse(FormatByteSize(size).c_str()), size);
  }
}

TEST(CheckedArithmeticTest, GivesTheExactResultOrNothing) {
  EXPECT_EQ(CheckedAdd(1, 2), 3u);
  EXPECT_EQ(CheckedAdd(UINT64_MAX, 0), UINT64_MAX);
  EXPECT_EQ(CheckedAdd(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedMultiply(6, 7), 42u);
  EXPECT_EQ(CheckedMultiply(UINT64_MAX, 1), UINT64_MAX);
  EXPECT_EQ(CheckedMultiply(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
}

TEST(AlignUpTest, RoundsToTheNextMultiple) {
  static_assert(AlignUp(100, 64) == 128);
  EXPECT_EQ(AlignUp(0, 64), 0u);
  EXPECT_EQ(AlignUp(1, 64), 64u);
  EXPECT_EQ(AlignUp(64, 64), 64u);
  EXPECT_EQ(AlignUp(65, 1), 65u);
  EXPECT_EQ(AlignUp(UINT64_MAX - 63, 64), UINT64_MAX - 63);
  EXPECT_EQ(AlignUp(UINT64_MAX - 62, 64), std::nullopt);
}

TEST(AlignUpDeathTest, StopsAtAnAlignmentThatIsNoPowerOfTwo) {
  EXPECT_DEATH((void)AlignUp(1, 48), "alignment 48");
  EXPECT_DEATH((void)AlignUp(1, 0), "alignment 0");
}

}  // namespace
}  // namespace handoff

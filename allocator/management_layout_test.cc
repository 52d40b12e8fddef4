// SPDX-License-Identifier: Apache-2.0
#include "allocator/management_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace handoff {
namespace {

using ::testing::HasSubstr;

class ManagementLayoutTest : public ::testing::Test {
 protected:
  std::span<std::byte> bytes() {
    return {reinterpret_cast<std::byte*>(storage_.data()), kManagementFixedBytes};
  }
  ManagementLayout& Make(const ManagementValues& values = {.main_segment = "s_main"}) {
    return MakeManagement(bytes(), values);
  }

  struct alignas(4096) Page {
    std::byte bytes[4096];
  };
  std::vector<Page> storage_{kManagementFixedBytes / sizeof(Page)};
};

TEST_F(ManagementLayoutTest, IsUsableOnceMade) {
  EXPECT_EQ(CheckManagement(bytes()), ManagementCheck::kHalfMade) << "zeros are nothing yet";
  const ManagementLayout& management =
      Make({.nonce = 77, .owner_uid = 5, .creator_pid = 6, .main_segment = "detector"});
  EXPECT_EQ(CheckManagement(bytes()), ManagementCheck::kUsable);
  EXPECT_EQ(management.header.object.nonce, 77u);
  EXPECT_EQ(management.header.object.owner_uid, 5u);
  EXPECT_EQ(management.header.object.creator_pid, 6u);
  EXPECT_EQ(management.header.area_end.load(std::memory_order_relaxed), kManagementFixedBytes);
  EXPECT_EQ(MainSegmentName(management.header), "detector");
}

TEST_F(ManagementLayoutTest, IsHalfMadeWhenAnythingIsMissing) {
  ManagementLayout& management = Make();
  EXPECT_EQ(CheckManagement({}), ManagementCheck::kHalfMade);
  EXPECT_EQ(CheckManagement(bytes().first(4096)), ManagementCheck::kHalfMade) << "cut off";
  management.header.object.ready.store(0, std::memory_order_relaxed);
  EXPECT_EQ(CheckManagement(bytes()), ManagementCheck::kHalfMade);
  management.header.object.ready.store(ObjectHeader::kReady, std::memory_order_relaxed);
  management.header.object.magic = 1;
  EXPECT_EQ(CheckManagement(bytes()), ManagementCheck::kHalfMade);
}

TEST_F(ManagementLayoutTest, NamesBothSidesOfAMismatch) {
  ManagementLayout& management = Make();
  management.header.object.build_hash = 0xABCDEF;
  EXPECT_EQ(CheckManagement(bytes()), ManagementCheck::kOtherBuild);
  EXPECT_THAT(DescribeBuildMismatch(bytes()),
              HasSubstr("build 0000000000abcdef; this program has"));
  management.header.object.build_hash = kBuildHash;
  management.header.object.layout_version = kLayoutVersion + 7;
  EXPECT_EQ(CheckManagement(bytes()), ManagementCheck::kOtherBuild);
  EXPECT_THAT(DescribeBuildMismatch(bytes()), HasSubstr("layout version 8"));
  EXPECT_EQ(CheckManagement(bytes().first(4096)), ManagementCheck::kOtherBuild)
      << "another build may have another size";
}

TEST_F(ManagementLayoutTest, DoesNotTrustTheNameInTheHeader) {
  ManagementLayout& management = Make();
  std::memset(management.header.main_segment, 'x', sizeof(management.header.main_segment));
  EXPECT_EQ(MainSegmentName(management.header), "") << "longer than any name";
  std::strcpy(management.header.main_segment, "../../etc/passwd");
  EXPECT_EQ(MainSegmentName(management.header), "");
}

TEST_F(ManagementLayoutTest, CopiesARowInItsState) {
  ManagementLayout& management = Make();
  SegmentRow& row = management.segments[3];
  row.id.store(9, std::memory_order_relaxed);
  row.size_bytes.store(4096, std::memory_order_relaxed);
  const SegmentWord live = {.generation = 2, .state = SegmentState::kLive};
  row.word.store(live.Packed(), std::memory_order_release);
  const SegmentInfo info = LoadSegmentRow(management, 3);
  EXPECT_EQ(info.word, live);
  EXPECT_EQ(info.row, 3u);
  EXPECT_EQ(info.id, 9u);
  EXPECT_EQ(info.size_bytes, 4096u);
  EXPECT_EQ(LoadSegmentRow(management, 4).word, SegmentWord{});
}

TEST_F(ManagementLayoutTest, HashesByPositionAndValue) {
  static_assert(HashNumbers({1, 2}) != HashNumbers({2, 1}));
  static_assert(HashNumbers({1}) != HashNumbers({1, 0}));
  static_assert(HashNumbers({}) == 0xCBF29CE484222325);
  EXPECT_NE(kBuildHash, 0u);
}

}  // namespace
}  // namespace handoff

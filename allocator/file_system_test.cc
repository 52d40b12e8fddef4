// SPDX-License-Identifier: Apache-2.0
#include "allocator/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "allocator/testing/small_tmpfs.h"

namespace handoff {
namespace {

TEST(FileSystemTest, SaysWhatItHoldsAndWhatIsFree) {
  const SmallTmpfs tmpfs(uint64_t{1} << 20);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  EXPECT_EQ(RoomOf(tmpfs.directory()).total_bytes, uint64_t{1} << 20);
  tmpfs.Fill("file", 256 << 10);
  EXPECT_EQ(RoomOf(tmpfs.directory() + "/file").free_bytes, uint64_t{256} << 10);
  EXPECT_EQ(RoomOf(tmpfs.directory() + "/not_there_yet").free_bytes, uint64_t{256} << 10)
      << "a file that is to be made has the file system of its directory";
  EXPECT_EQ(DescribeFileSystem(tmpfs.directory()),
            "file system of " + tmpfs.directory() + ": 1 MiB in all, 256 KiB free");
}

TEST(FileSystemTest, SaysNothingAboutADirectoryThatIsNotThere) {
  EXPECT_EQ(RoomOf("/no/such/directory/file").total_bytes, 0u);
  EXPECT_EQ(DescribeFileSystem("/no/such"), "file system of /no/such: of no stated size");
}

TEST(FileSystemTest, NamesAUserAndGivesTheNumberOfOneWithoutName) {
  EXPECT_EQ(DescribeUser(0), "root (uid 0)");
  EXPECT_EQ(DescribeUser(3999999999), "uid 3999999999");
}

TEST(FileSystemTest, FindsAGroupByNameAndByNumber) {
  EXPECT_EQ(FindGroup("root").value(), 0u);
  EXPECT_EQ(FindGroup("12345").value(), 12345u);
  EXPECT_EQ(FindGroup("no-such-group").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(FindGroup("").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace handoff

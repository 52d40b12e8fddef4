// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "allocator/mapping.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/sanitizer.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"

namespace handoff {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

Mapping Make(const std::string& directory, uint64_t size_bytes) {
  auto mapping = Mapping::Create(
      directory + "/segment",
      {.size_bytes = size_bytes, .access = {}, .alignment_bytes = kPayloadAlignmentBytes});
  EXPECT_TRUE(mapping.ok()) << mapping.status();
  return *std::move(mapping);
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

uint64_t BackedBytes(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0);
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

// The value of a line of this process's smaps, in KiB, for the mapping of `path`.
uint64_t SmapsKiB(const std::string& path, const std::string& key) {
  std::ifstream file("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(file, line);) {
    if (line.find('/') != std::string::npos) here = line.find(path) != std::string::npos;
    if (here && line.rfind(key + ":", 0) == 0) {
      std::istringstream fields(line.substr(key.size() + 1));
      uint64_t value = 0;
      fields >> value;
      return value;
    }
  }
  return 0;
}

TEST(SegmentMemoryTest, BringsEverythingInAndTellsHowFarItIs) {
  const TestSession session({.own_directory = true});
  Mapping mapping = Make(session.directory(), 16 * kMiB);
  EXPECT_LT(BackedBytes(mapping.path()), kMiB);
  SegmentMemory memory;
  memory.populate = true;
  memory.populate_threads = 2;
  uint64_t last = 0;
  int calls = 0;
  memory.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, 16 * kMiB);
    EXPECT_GE(done, last);
    last = done;
    ++calls;
  };
  ASSERT_TRUE(BringInSegmentMemory(memory, mapping).ok());
  EXPECT_EQ(last, 16 * kMiB);
  EXPECT_GE(calls, 1);
  EXPECT_GE(BackedBytes(mapping.path()), 16 * kMiB);
  EXPECT_GE(SmapsKiB(mapping.path(), "Rss"), 16u << 10);
  ASSERT_TRUE(Mapping::Remove(mapping.path()).ok());
}

TEST(SegmentMemoryTest, KeepsWhatIsThereWhenItBringsIn) {
  const TestSession session({.own_directory = true});
  Mapping mapping = Make(session.directory(), kMiB);
  ASSERT_TRUE(mapping.Reserve(0, 4096).ok());
  mapping.bytes()[17] = std::byte{42};
  SegmentMemory memory;
  memory.populate = memory.zero = true;
  ASSERT_TRUE(BringInSegmentMemory(memory, mapping).ok());
  EXPECT_EQ(mapping.bytes()[17], std::byte{42});
  ASSERT_TRUE(Mapping::Remove(mapping.path()).ok());
}

TEST(SegmentMemoryTest, LocksTheSegmentInMemory) {
  if (kAddressSanitizer || kThreadSanitizer) GTEST_SKIP() << "a sanitizer makes mlock() do nothing";
  const TestSession session({.own_directory = true});
  Mapping mapping = Make(session.directory(), kMiB);
  SegmentMemory memory;
  memory.lock = true;
  ASSERT_TRUE(BringInSegmentMemory(memory, mapping).ok());
  EXPECT_EQ(SmapsKiB(mapping.path(), "Locked"), 1024u);
  ASSERT_TRUE(Mapping::Remove(mapping.path()).ok());
}

TEST(SegmentMemoryTest, NamesTheLimitThatForbidsToLock) {
  if (kAddressSanitizer || kThreadSanitizer) GTEST_SKIP() << "a sanitizer makes mlock() do nothing";
  const TestSession session({.own_directory = true});
  Mapping mapping = Make(session.directory(), kMiB);
  ChildProcess child = ChildProcess::Start([&] {
    const rlimit limit = {.rlim_cur = 64 << 10, .rlim_max = 64 << 10};
    // Without root's right to lock what it likes.
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || (geteuid() == 0 && seteuid(65534) != 0)) return 1;
    SegmentMemory memory;
    memory.lock = true;
    const absl::Status status = BringInSegmentMemory(memory, mapping);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Message(status), AllOf(HasSubstr("RLIMIT_MEMLOCK is 64 KiB"), HasSubstr("1 MiB")));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  ASSERT_TRUE(Mapping::Remove(mapping.path()).ok());
}

TEST(SegmentMemoryTest, UsesHugePagesWhereTheFileSystemGivesThem) {
  const SmallTmpfs tmpfs(16 * kMiB, "huge=advise");
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  Mapping mapping = Make(tmpfs.directory(), 8 * kMiB);
  SegmentMemory memory;
  memory.huge_pages = true;
  const absl::Status placed = PlaceSegmentMemory(memory, mapping);
  if (Message(placed).find("deny") != std::string::npos) GTEST_SKIP() << placed;
  ASSERT_TRUE(placed.ok()) << placed;
  ASSERT_TRUE(BringInSegmentMemory(memory, mapping).ok());
  EXPECT_GE(BackedBytes(mapping.path()), 8 * kMiB);
  // The kernel gives small ones only where it has no whole huge page left.
  EXPECT_GT(SmapsKiB(mapping.path(), "ShmemPmdMapped"), 0u);
}

TEST(SegmentMemoryTest, RefusesHugePagesThatDoNotFit) {
  const SmallTmpfs tmpfs(4 * kMiB, "huge=advise");
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  Mapping mapping = Make(tmpfs.directory(), 4 * kMiB);
  tmpfs.Fill("other", 2 * kMiB);
  SegmentMemory memory;
  memory.huge_pages = true;
  const absl::Status placed = PlaceSegmentMemory(memory, mapping);
  if (!placed.ok()) GTEST_SKIP() << placed;
  const absl::Status status = BringInSegmentMemory(memory, mapping);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(tmpfs.directory()), HasSubstr("4 MiB in all")));
}

TEST(SegmentMemoryTest, SaysWhatIsMissingForHugePages) {
  const SmallTmpfs tmpfs(kMiB);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  Mapping mapping = Make(tmpfs.directory(), kMiB);
  SegmentMemory memory;
  memory.huge_pages = true;
  const absl::Status status = PlaceSegmentMemory(memory, mapping);
  if (status.ok()) GTEST_SKIP() << "this kernel gives huge pages to every mount";
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), testing::AnyOf(AllOf(HasSubstr(tmpfs.directory()),
                                                    HasSubstr("mounted without huge=")),
                                              HasSubstr("deny"), HasSubstr("this kernel")));
}

TEST(SegmentMemoryTest, PlacesTheSegmentOnANode) {
  const TestSession session({.own_directory = true});
  Mapping mapping = Make(session.directory(), kMiB);
  SegmentMemory memory;
  memory.numa_node = 0;
  const absl::Status status = PlaceSegmentMemory(memory, mapping);
  ASSERT_TRUE(Mapping::Remove(mapping.path()).ok());
  if (absl::IsPermissionDenied(status) || absl::IsUnimplemented(status)) GTEST_SKIP() << status;
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SegmentMemoryTest, NamesTheNodesThatThereAre) {
  const TestSession session({.own_directory = true});
  Mapping mapping = Make(session.directory(), kMiB);
  SegmentMemory memory;
  for (const uint32_t node : {1000u, 1u << 20}) {
    memory.numa_node = node;
    const absl::Status status = PlaceSegmentMemory(memory, mapping);
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(Message(status),
                AllOf(HasSubstr("NUMA node " + std::to_string(node)), HasSubstr("this machine")));
  }
  ASSERT_TRUE(Mapping::Remove(mapping.path()).ok());
}

TEST(SegmentMemoryTest, WritesItsOptionsAsFlags) {
  SegmentMemory memory;
  EXPECT_EQ(memory.Flags(), 0u);
  memory.lock = memory.huge_pages = true;
  memory.numa_node = 3;
  EXPECT_EQ(memory.Flags(), 1u + 8u + (4u << 16));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/mapping.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "allocator/testing/small_tmpfs.h"
#include "base/sanitizer.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class MappingTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return session_.directory() + "/" + name; }

  // A file of 1 MiB that the test removes by itself.
  Mapping Make(const std::string& name, CreateOptions options = {.size_bytes = kMiB}) {
    absl::StatusOr<Mapping> mapping = Mapping::Create(Path(name), options);
    EXPECT_TRUE(mapping.ok()) << mapping.status();
    made_.push_back(Path(name));
    return std::move(mapping).value();
  }

  static mode_t ModeOf(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 07777;
  }

  static uint64_t BackedBytes(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }

  // The number of this process's descriptor for `path`, or -1.
  static int DescriptorOf(const std::string& path) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code ignored;
      if (std::filesystem::read_symlink(entry, ignored) == path) {
        return std::stoi(entry.path().filename().string());
      }
    }
    return -1;
  }

  void TearDown() override {
    for (const std::string& path : made_) unlink(path.c_str());
  }

  TestSession session_{TestSessionOptions{.own_directory = true}};
  std::vector<std::string> made_;
};

TEST_F(MappingTest, SharesItsBytesWithEveryOtherMappingOfTheFile) {
  Mapping mapping = Make("a");
  ASSERT_TRUE(mapping.Reserve(0, kMiB).ok());
  const absl::StatusOr<Mapping> other = Mapping::Open(Path("a"), {});
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->size_bytes(), kMiB);
  mapping.bytes()[kMiB - 1] = std::byte{42};
  EXPECT_EQ(other->bytes()[kMiB - 1], std::byte{42});
  EXPECT_NE(other->bytes().data(), mapping.bytes().data());
}

TEST_F(MappingTest, CreatesFilesOfMode0600WhateverTheUmask) {
  const mode_t before = umask(0);
  Make("open");
  umask(0777);
  Make("closed");
  umask(before);
  EXPECT_EQ(ModeOf(Path("open")), 0600u);
  EXPECT_EQ(ModeOf(Path("closed")), 0600u);
}

TEST_F(MappingTest, OpensAFileToAGroupAndNobodyElse) {
  const gid_t group = getegid();
  Make("group", {.size_bytes = kMiB, .access = {.group = group}});
  struct stat info = {};
  ASSERT_EQ(stat(Path("group").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0660u);
  EXPECT_EQ(info.st_gid, group);
}

TEST_F(MappingTest, CreatesAHoleThatTakesNoMemory) {
  Make("hole", {.size_bytes = 1024 * kMiB});
  EXPECT_EQ(BackedBytes(Path("hole")), 0u);
}

TEST_F(MappingTest, RefusesANameThatIsTaken) {
  Make("a");
  const auto again = Mapping::Create(Path("a"), {.size_bytes = kMiB});
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Mapping::Open(Path("a"), {}).ok()) << "the file of that name is still there";
}

TEST_F(MappingTest, DoesNotFollowALink) {
  Make("a");
  ASSERT_EQ(symlink(Path("a").c_str(), Path("link").c_str()), 0);
  made_.push_back(Path("link"));
  EXPECT_FALSE(Mapping::Open(Path("link"), {}).ok());
}

TEST_F(MappingTest, RefusesAMissingFileADirectoryAndAFileThatIsTooShort) {
  EXPECT_EQ(Mapping::Open(Path("missing"), {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Mapping::Open(session_.directory(), {}).ok());
  Make("a");
  const auto window = Mapping::Open(Path("a"), {.length_bytes = kMiB + 1});
  EXPECT_EQ(window.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(window.status().message()), HasSubstr("1048576 bytes long"));
  std::ofstream(Path("empty")).close();
  made_.push_back(Path("empty"));
  EXPECT_EQ(Mapping::Open(Path("empty"), {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(MappingTest, MapsAWindowOfAFile) {
  Mapping whole = Make("a");
  ASSERT_TRUE(whole.Reserve(0, kMiB).ok());
  whole.bytes()[3 * kWindowAlignmentBytes + 5] = std::byte{7};
  const OpenOptions options = {.offset_bytes = 3 * kWindowAlignmentBytes,
                               .length_bytes = kWindowAlignmentBytes};
  const absl::StatusOr<Mapping> window = Mapping::Open(Path("a"), options);
  ASSERT_TRUE(window.ok()) << window.status();
  EXPECT_EQ(window->size_bytes(), kWindowAlignmentBytes);
  EXPECT_EQ(window->bytes()[5], std::byte{7});
}

TEST_F(MappingTest, MapsFurtherWindowsWhenTheNameHasGoneAndTheFileHasGrown) {
  Mapping whole = Make("a");
  ASSERT_TRUE(Mapping::Remove(Path("a")).ok());
  EXPECT_FALSE(whole.IsUnderItsName());
  ASSERT_TRUE(whole.GrowFile(4 * kMiB).ok());
  ASSERT_TRUE(whole.GrowFile(2 * kMiB).ok());
  EXPECT_EQ(whole.FileSizeBytes().value(), 4 * kMiB) << "growing never makes a file shorter";
  absl::StatusOr<Mapping> window = whole.Window({.offset_bytes = 3 * kMiB, .length_bytes = kMiB});
  ASSERT_TRUE(window.ok()) << window.status();
  ASSERT_TRUE(window->Reserve(0, kMiB).ok());
  window->bytes()[0] = std::byte{1};
  EXPECT_EQ(whole.size_bytes(), kMiB);
}

TEST_F(MappingTest, ReservesRelativeToItsWindow) {
  Mapping whole = Make("a");
  Mapping window = whole.Window({.offset_bytes = kMiB / 2, .length_bytes = kMiB / 2}).value();
  ASSERT_TRUE(window.Reserve(0, 4096).ok());
  EXPECT_EQ(BackedBytes(Path("a")), 4096u);
  ASSERT_TRUE(whole.Reserve(kMiB / 2, 4096).ok());
  EXPECT_EQ(BackedBytes(Path("a")), 4096u) << "it is the same part of the file";
  EXPECT_EQ(window.Reserve(kMiB / 2, 1).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(window.Reserve(1, UINT64_MAX).code(), absl::StatusCode::kOutOfRange);
}

TEST_F(MappingTest, PutsPayloadAtAnAlignedAddressInEveryMapping) {
  const CreateOptions options = {.size_bytes = 3 * kMiB + 4096,
                                 .alignment_bytes = kPayloadAlignmentBytes};
  std::vector<Mapping> mappings;
  mappings.push_back(Make("a", options));
  for (int i = 0; i < 8; ++i) {
    absl::StatusOr<Mapping> mapping =
        Mapping::Open(Path("a"), {.alignment_bytes = kPayloadAlignmentBytes});
    ASSERT_TRUE(mapping.ok()) << mapping.status();
    mappings.push_back(std::move(mapping).value());
  }
  ASSERT_TRUE(mappings[0].Reserve(0, mappings[0].size_bytes()).ok());
  for (Mapping& mapping : mappings) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(mapping.bytes().data()) % kPayloadAlignmentBytes, 0u);
    mapping.bytes().front() = mapping.bytes().back() = std::byte{9};
  }
}

TEST_F(MappingTest, GivesTheAddressesBackWhenItIsDestroyed) {
  const auto mapped_regions = [] {
    std::ifstream maps("/proc/self/maps");
    return std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
  };
  Make("a", {.size_bytes = 3 * kMiB + 4096});
  const auto before = mapped_regions();
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(Mapping::Open(Path("a"), {.alignment_bytes = kPayloadAlignmentBytes}).ok());
  }
  EXPECT_LE(mapped_regions(), before + 2);
}

TEST_F(MappingTest, RefusesSizesBeyondTheMachineAndLeavesNothing) {
  const auto code = [&](uint64_t size_bytes) {
    return Mapping::Create(Path("big"), {.size_bytes = size_bytes}).status().code();
  };
  EXPECT_EQ(code(0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(UINT64_MAX), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kMaxMappingBytes + 1), absl::StatusCode::kInvalidArgument);
  const auto more_than_the_file_system =
      Mapping::Create(Path("big"), {.size_bytes = uint64_t{1} << 46});
  EXPECT_EQ(more_than_the_file_system.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(more_than_the_file_system.status().message()),
              HasSubstr("needs 64 TiB; file system of " + Path("big")));
}

TEST_F(MappingTest, NamesTheLimitOfFileSizesInsteadOfDyingOfTheSignal) {
  ChildProcess child = ChildProcess::Start([&] {
    const rlimit limit = {.rlim_cur = kMiB, .rlim_max = kMiB};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    const auto mapping = Mapping::Create(Path("a"), {.size_bytes = 2 * kMiB});
    EXPECT_EQ(mapping.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(mapping.status().message()), HasSubstr("RLIMIT_FSIZE is 1 MiB"));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(MappingTest, SaysThatTheFileSystemIsFullInsteadOfDyingOfTheSignal) {
  const SmallTmpfs tmpfs(kMiB);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  const std::string path = tmpfs.directory() + "/a";
  const auto too_big = Mapping::Create(path, {.size_bytes = 2 * kMiB});
  EXPECT_EQ(too_big.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(path));

  Mapping mapping = Mapping::Create(path, {.size_bytes = kMiB}).value();
  ASSERT_TRUE(mapping.Reserve(0, kMiB / 2).ok());
  tmpfs.Fill("rest", 64 << 10);
  const absl::Status status = mapping.Reserve(0, kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("file system of " + path + ": 1 MiB in all, 64 KiB free"));
  EXPECT_TRUE(mapping.Reserve(0, kMiB / 2).ok()) << "what is reserved stays so";
  std::fill_n(mapping.bytes().begin(), kMiB / 2, std::byte{1});
}

TEST_F(MappingTest, RemovesANameOnceAndDoesNotMindAMissingOne) {
  Mapping mapping = Make("a");
  EXPECT_TRUE(mapping.IsUnderItsName());
  EXPECT_TRUE(Mapping::Remove(Path("a")).ok());
  EXPECT_TRUE(Mapping::Remove(Path("a")).ok());
  Make("a");
  EXPECT_FALSE(mapping.IsUnderItsName()) << "the name is another file's";
}

TEST_F(MappingTest, NamesTheOwnerOfAFileThatItMayNotOpenOrRemove) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  Make("a");
  ASSERT_EQ(chmod(session_.directory().c_str(), 0755), 0);
  ChildProcess child = ChildProcess::Start([&] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
    for (const absl::Status& status :
         {Mapping::Open(Path("a"), {}).status(), Mapping::Remove(Path("a"))}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("belongs to root (uid 0)"));
    }
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(MappingTest, DoesNotTouchAForeignFileThatGotTheNumberOfItsDescriptor) {
  Mapping mapping = Make("a");
  const int fd = DescriptorOf(Path("a"));
  ASSERT_GE(fd, 0);
  Make("other");
  ASSERT_EQ(close(fd), 0);  // as a library does that closes all descriptors
  ASSERT_EQ(open(Path("other").c_str(), O_RDWR | O_CLOEXEC), fd);
  EXPECT_TRUE(mapping.Reserve(0, kMiB).ok()) << "opened again by its name";
  EXPECT_EQ(BackedBytes(Path("other")), 0u);

  const int again = DescriptorOf(Path("a"));
  ASSERT_EQ(close(again), 0);
  ASSERT_TRUE(Mapping::Remove(Path("a")).ok());
  EXPECT_EQ(mapping.Reserve(0, kMiB).code(), absl::StatusCode::kFailedPrecondition);
  mapping.bytes()[0] = std::byte{1};  // what was reserved stays usable
  close(fd);
}

TEST_F(MappingTest, PopulatesWithManyThreadsAndReportsProgress) {
  Mapping mapping = Make("a", {.size_bytes = 32 * kMiB + 4096});
  ASSERT_TRUE(mapping.Reserve(0, mapping.size_bytes()).ok());
  mapping.bytes()[5 * kMiB] = std::byte{42};
  uint64_t last = 0;
  Mapping::PopulateOptions options;
  options.threads = 4;
  options.progress = [&](uint64_t done_bytes) {
    EXPECT_GE(done_bytes, last);
    last = done_bytes;
  };
  ASSERT_TRUE(mapping.Populate(options).ok());
  EXPECT_EQ(last, mapping.size_bytes());
  EXPECT_EQ(mapping.bytes()[5 * kMiB], std::byte{42}) << "contents stay";

  options.zero = true;
  options.offset_bytes = 4 * kMiB;
  options.length_bytes = 4 * kMiB;
  last = 0;
  ASSERT_TRUE(mapping.Populate(options).ok());
  EXPECT_EQ(last, 4 * kMiB);
  EXPECT_EQ(mapping.bytes()[5 * kMiB], std::byte{0});
}

TEST_F(MappingTest, PopulatesAReadOnlyMappingWithoutWriting) {
  Make("a");
  Mapping mapping = Mapping::Open(Path("a"), {.read_only = true}).value();
  EXPECT_TRUE(mapping.Populate({}).ok());
  EXPECT_EQ(mapping.Populate({.zero = true}).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(MappingTest, LocksInMemoryOrNamesTheLimit) {
  if (kAddressSanitizer || kThreadSanitizer) GTEST_SKIP() << "a sanitizer makes mlock() do nothing";
  Mapping mapping = Make("a");
  EXPECT_TRUE(mapping.Lock(0, 16 << 10).ok());
  ChildProcess child = ChildProcess::Start([&] {
    const rlimit limit = {.rlim_cur = 64 << 10, .rlim_max = 64 << 10};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 1;
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 2;
    const absl::Status status = mapping.Lock(0, kMiB);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("RLIMIT_MEMLOCK is 64 KiB"));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(MappingTest, StaysWhereItIsWhenItMoves) {
  Mapping mapping = Make("a");
  const std::byte* const address = mapping.bytes().data();
  Mapping moved = std::move(mapping);
  EXPECT_EQ(moved.bytes().data(), address);
  EXPECT_TRUE(mapping.bytes().empty());  // NOLINT(bugprone-use-after-move)
  mapping = std::move(moved);
  EXPECT_EQ(mapping.bytes().data(), address);
  EXPECT_TRUE(mapping.Reserve(0, kMiB).ok());
}

}  // namespace
}  // namespace handoff

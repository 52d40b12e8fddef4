// SPDX-License-Identifier: Apache-2.0
// Machines and file systems with less memory than a program asks for: an error that says so, and no
// signal.

#include <sys/resource.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "allocator/file_system.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/byte_size.h"
#include "base/sanitizer.h"
#include "base/testing/child_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class SmallMemoryTest : public SessionFixture {
 protected:
  TransportOptions OptionsOn(const SmallTmpfs& tmpfs, uint64_t segment_bytes) const {
    TransportOptions options = Options();
    options.shm_dir = tmpfs.directory();
    options.segment_size_bytes = segment_bytes;
    return options;
  }
  static int FilesOn(const SmallTmpfs& tmpfs) {
    return static_cast<int>(
        std::distance(std::filesystem::directory_iterator(tmpfs.directory()), {}));
  }

  // Allocates and writes until there is no more; returns how much it was, and why it ended.
  static uint64_t TakeAll(Transport& transport, size_t size_bytes, std::vector<Message>* taken,
                          absl::Status* why) {
    uint64_t bytes = 0;
    while (true) {
      auto message = transport.Allocate(size_bytes);
      *why = message.status();
      if (!message.ok()) return bytes;
      std::fill_n(message->mutable_bytes().data(), size_bytes, std::byte{1});
      bytes += size_bytes;
      taken->push_back(*std::move(message));
    }
  }
};

TEST_F(SmallMemoryTest, AFullFileSystemIsAnErrorOfTheAllocationThatNamesIt) {
  for (const uint64_t size_bytes : {kMiB, 64 * kMiB}) {
    const SmallTmpfs tmpfs(size_bytes);
    if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
    auto transport = OpenTransport(OptionsOn(tmpfs, size_bytes));
    std::vector<Message> taken;
    absl::Status why;
    const uint64_t bytes = TakeAll(*transport, size_bytes / 64, &taken, &why);
    // The rest is what the session itself needs.
    EXPECT_GT(bytes, size_bytes / 4);
    EXPECT_LT(bytes, size_bytes);
    EXPECT_EQ(why.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(why.message()),
                AllOf(HasSubstr("requested " + FormatByteSize(size_bytes / 64)),
                      HasSubstr(tmpfs.directory()),
                      HasSubstr(FormatByteSize(size_bytes) + " in all"), HasSubstr("free")));
    Message tried;
    EXPECT_EQ(transport->TryAllocate(size_bytes / 64, &tried), AllocateResult::kFileSystem);
    // What is reserved already can be used again.
    taken.pop_back();
    EXPECT_TRUE(transport->Allocate(size_bytes / 64).ok());
    taken.clear();
    transport.reset();
    EXPECT_EQ(FilesOn(tmpfs), 0);
  }
}

TEST_F(SmallMemoryTest, ASegmentLargerThanItsFileSystemIsRefusedAtTheStart) {
  const SmallTmpfs tmpfs(64 * kMiB);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  const absl::Status status = Transport::Open(OptionsOn(tmpfs, 65 * kMiB)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("needs 65 MiB"), HasSubstr("64 MiB in all")));
  EXPECT_EQ(FilesOn(tmpfs), 0);
  auto transport = OpenTransport(OptionsOn(tmpfs, 64 * kMiB));
  EXPECT_EQ(transport->CreateSegment({.id = 1, .size_bytes = 65 * kMiB}).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(transport->Segments().size(), 1u);
}

TEST_F(SmallMemoryTest, LeavesNothingWhereThereIsNoRoomForASession) {
  for (const uint64_t room_bytes : {0, 4 << 10, 64 << 10, 200 << 10, 260 << 10}) {
    const SmallTmpfs tmpfs(kMiB);
    if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
    tmpfs.Fill("rest", room_bytes);
    const absl::Status status = Transport::Open(OptionsOn(tmpfs, kMiB)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << room_bytes << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("1 MiB in all")) << room_bytes;
    EXPECT_EQ(FilesOn(tmpfs), 1) << room_bytes;
  }
}

TEST_F(SmallMemoryTest, PopulatingMoreThanThereIsFailsAndLeavesNothing) {
  const SmallTmpfs tmpfs(8 * kMiB);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  TransportOptions options = OptionsOn(tmpfs, 8 * kMiB);
  options.segment_memory.populate = true;
  const absl::Status status = Transport::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("8 MiB in all"));
  EXPECT_EQ(FilesOn(tmpfs), 0);
}

TEST_F(SmallMemoryTest, ASegmentBeyondTheMachineIsRefusedWithBothNumbers) {
  TransportOptions options = Options();
  options.segment_size_bytes = (uint64_t{64} << 30) + 1;
  absl::Status status = Transport::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("68719476737"), HasSubstr("68719476736")));
  options.segment_size_bytes = uint64_t{64} << 30;
  const uint64_t total_bytes = RoomOf(session_.directory()).total_bytes;
  if (total_bytes == 0 || total_bytes >= options.segment_size_bytes)
    GTEST_SKIP() << "there is more";
  status = Transport::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("needs 64 GiB"), HasSubstr(FormatByteSize(total_bytes))));
  EXPECT_TRUE(session_.Objects().empty());
}

TEST_F(SmallMemoryTest, TheLimitOfTheAddressSpaceIsNamed) {
  if (kAddressSanitizer || kThreadSanitizer) GTEST_SKIP() << "a sanitizer needs terabytes";
  ChildProcess child = ChildProcess::Start([&] {
    const rlimit limit = {.rlim_cur = 512 * kMiB, .rlim_max = 512 * kMiB};
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    TransportOptions options = Options();
    options.segment_size_bytes = 1024 * kMiB;
    const absl::Status status = Transport::Open(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("RLIMIT_AS is 512 MiB"));
    EXPECT_TRUE(session_.Objects().empty());
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
// Several segments in one session.

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/sanitizer.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class SegmentsTest : public SessionFixture {
 protected:
  static std::string Text(const absl::Status& status) { return std::string(status.message()); }

  static Message FilledOf(Transport& transport, uint32_t segment, size_t size_bytes,
                          uint64_t seed) {
    auto message = transport.Allocate(size_bytes, {.segment = segment});
    EXPECT_TRUE(message.ok()) << message.status();
    const Message pattern = Filled(transport, size_bytes, seed);
    std::memcpy(message->mutable_bytes().data(), pattern.data(), size_bytes);
    return *std::move(message);
  }

  // Of root, whom no limit of locked memory binds.
  static bool DropRightToLock() {
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct data[2] = {};
    if (syscall(SYS_capget, &header, data) != 0) return false;
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    return syscall(SYS_capset, &header, data) == 0;
  }

  std::vector<uint32_t> Ids(const Transport& transport) const {
    std::vector<uint32_t> ids;
    for (const SegmentDescription& segment : transport.Segments()) ids.push_back(segment.id);
    return ids;
  }

  std::string PathOf(const std::string& name) const { return session_.directory() + "/" + name; }

  // Memory that the file system has given to the session, under whatever name or none.
  uint64_t UsedOfFileSystem() const {
    return std::filesystem::space(session_.directory()).capacity -
           std::filesystem::space(session_.directory()).free;
  }
};

TEST_F(SegmentsTest, ListsWhatWasMadeAndRefusesWhatIsThere) {
  auto transport = OpenTransport();
  ASSERT_TRUE(transport->CreateSegment({.id = 7, .size_bytes = kMiB + 1}).ok());
  ASSERT_TRUE(transport->CreateSegment({.id = 65535, .size_bytes = kMiB}).ok());
  const auto segments = transport->Segments();
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[0].id, 0u);
  EXPECT_EQ(segments[0].size_bytes, kSegmentBytes);
  EXPECT_EQ(segments[1].id, 7u);
  EXPECT_EQ(segments[1].size_bytes, kMiB + 4096);
  EXPECT_EQ(segments[1].name, session_.name() + "_main_7");
  EXPECT_TRUE(std::filesystem::exists(PathOf(segments[1].name)));

  absl::Status status = transport->CreateSegment({.id = 7, .size_bytes = kMiB});
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Text(status), HasSubstr("segment 7"));
  EXPECT_TRUE(transport->CreateSegment({.id = 7, .size_bytes = kMiB + 9, .may_exist = true}).ok());
  status = transport->CreateSegment({.id = 7, .size_bytes = 2 * kMiB, .may_exist = true});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), AllOf(HasSubstr("1052672"), HasSubstr("2097152")));
  EXPECT_EQ(transport->CreateSegment({.id = 0, .size_bytes = kMiB}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(transport->CreateSegment({.id = 65536, .size_bytes = kMiB}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(transport->CreateSegment({.id = 1, .size_bytes = 0}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(transport->OpenSegment(8).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(transport->Allocate(10, {.segment = 8}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(transport->RemoveSegment(0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(transport->RemoveSegment(8).code(), absl::StatusCode::kNotFound);
}

TEST_F(SegmentsTest, TheFirstMembersMainSegmentCountsForAll) {
  auto first = OpenTransport();
  TransportOptions options = Options();
  options.segment_size_bytes = kMiB;
  auto second = OpenTransport(options);
  EXPECT_EQ(second->Usage().size_bytes, kSegmentBytes);
}

TEST_F(SegmentsTest, AllocatesFromTheOneThatIsNamed) {
  auto transport = OpenTransport();
  ASSERT_TRUE(transport->CreateSegment({.id = 1, .size_bytes = kMiB}).ok());
  const Message message = FilledOf(*transport, 1, 100'000, 3);
  EXPECT_EQ(transport->Usage(1)->used_blocks, 1u);
  EXPECT_EQ(transport->Usage().used_blocks, 0u);
  const auto refused = transport->Allocate(kMiB, {.segment = 1});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Text(refused.status()), HasSubstr(session_.name() + "_main_1"));
  EXPECT_EQ(transport->Allocate(kMiB + 1, {.segment = 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SegmentsTest, MessagesOfAllSegmentsReachAnotherProcess) {
  auto transport = OpenTransport();
  for (const std::string& address : {"ring://" + session_.name(), FileAddress("ipc")}) {
    auto pull = Bind(*transport, Pattern::kPull, address);
    const uint32_t ids[] = {0, address[0] == 'r' ? 1u : 2u, address[0] == 'r' ? 65000u : 65001u};
    ChildProcess child = ChildProcess::Start([&] {
      auto mine = OpenTransport();
      for (const uint32_t id : ids) {
        if (id == 0) continue;
        EXPECT_TRUE(mine->CreateSegment({.id = id, .size_bytes = 4 * kMiB}).ok());
      }
      auto push = Connect(*mine, Pattern::kPush, address);
      for (uint64_t i = 0; i < 30; ++i) {
        Message message = FilledOf(*mine, ids[i % 3], 1 + i * 5000, i);
        EXPECT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
      }
      return 0;
    });
    for (uint64_t i = 0; i < 30; ++i) {
      Message message;
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << address << " " << i;
      EXPECT_TRUE(IsFilled(message, 1 + i * 5000, i)) << address << " " << i;
    }
    EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  }
  EXPECT_EQ(Ids(*transport), (std::vector<uint32_t>{0, 1, 2, 65000, 65001}));
}

TEST_F(SegmentsTest, HonoursAlignmentInEveryProcess) {
  auto transport = OpenTransport();
  const std::string address = "ring://" + session_.name();
  auto pull = Bind(*transport, Pattern::kPull, address);
  ChildProcess child = ChildProcess::Start([&] {
    auto mine = OpenTransport();
    EXPECT_TRUE(mine->CreateSegment({.id = 3, .size_bytes = 32 * kMiB}).ok());
    auto push = Connect(*mine, Pattern::kPush, address);
    for (const uint32_t segment : {0u, 3u}) {
      for (size_t alignment = 1; alignment <= size_t{2} << 20; alignment *= 2) {
        auto message = mine->Allocate(alignment + 1, {.segment = segment, .alignment = alignment});
        EXPECT_TRUE(message.ok()) << message.status();
        EXPECT_EQ(reinterpret_cast<uintptr_t>(message->data()) % alignment, 0u);
        EXPECT_EQ(message->segment_offset() % alignment, 0u);
        EXPECT_EQ(push->Send(*std::move(message), Soon()), SocketResult::kOk);
      }
    }
    EXPECT_EQ(mine->Allocate(1, {.alignment = size_t{4} << 20}).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(mine->Allocate(1, {.alignment = 96}).status().code(),
              absl::StatusCode::kInvalidArgument);
    return 0;
  });
  for (int segment = 0; segment < 2; ++segment) {
    for (size_t alignment = 1; alignment <= size_t{2} << 20; alignment *= 2) {
      Message message;
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(message.data()) % alignment, 0u) << alignment;
      EXPECT_EQ(message.segment_offset() % alignment, 0u) << alignment;
      EXPECT_EQ(message.size(), alignment + 1);
    }
  }
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(SegmentsTest, AMessageSaysWhereItLiesInItsOwnSegment) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  const std::string address = "ring://" + session_.name();
  auto pull = Bind(*other, Pattern::kPull, address);
  auto push = Connect(*transport, Pattern::kPush, address);
  ASSERT_TRUE(transport->CreateSegment({.id = 3, .size_bytes = 8 * kMiB}).ok());
  ASSERT_TRUE(transport->CreateSegment({.id = 4, .size_bytes = 8 * kMiB}).ok());
  // The first messages of segments that are alike lie at the same place of each.
  uint64_t first_offset = 0;
  for (const uint32_t segment : {3u, 4u}) {
    Message message = FilledOf(*transport, segment, 3 * kMiB, segment);
    const uint64_t offset = message.segment_offset();
    if (segment == 3) first_offset = offset;
    EXPECT_EQ(offset, first_offset);
    EXPECT_LE(offset + message.size(), 8 * kMiB);
    // So does one that is shared, and both say the same to the receiver.
    auto copy = transport->Share(&message);
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_TRUE(copy->shared());
    EXPECT_EQ(copy->segment_offset(), offset);
    ASSERT_EQ(push->Send(*std::move(copy), Soon()), SocketResult::kOk);
    Message received;
    ASSERT_EQ(pull->Receive(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(received.shared());
    EXPECT_EQ(received.segment_offset(), offset);
    EXPECT_TRUE(IsFilled(received, 3 * kMiB, segment));
  }
}

TEST_F(SegmentsTest, AMessageOfManyPartsMayHavePartsOfSeveral) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  const std::string address = "ring://" + session_.name();
  auto pull = Bind(*transport, Pattern::kPull, address);
  auto push = Connect(*other, Pattern::kPush, address);
  ASSERT_TRUE(other->CreateSegment({.id = 3, .size_bytes = kMiB}).ok());
  std::vector<Message> parts;
  for (uint64_t i = 0; i < 4; ++i) parts.push_back(FilledOf(*other, i % 2 == 0 ? 0 : 3, 5000, i));
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  std::vector<Message> received;
  ASSERT_EQ(pull->ReceiveParts(&received, Soon()), SocketResult::kOk);
  ASSERT_EQ(received.size(), 4u);
  for (uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(IsFilled(received[i], 5000, i));
}

TEST_F(SegmentsTest, MemoryOfAKilledMemberComesBackInEverySegment) {
  auto transport = OpenTransport();
  ASSERT_TRUE(transport->CreateSegment({.id = 3, .size_bytes = 4 * kMiB}).ok());
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    auto mine = OpenTransport();
    const Message most = FilledOf(*mine, 3, 3 * kMiB, 1);
    ready.Signal();
    pause();
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  EXPECT_FALSE(transport->Allocate(2 * kMiB, {.segment = 3}).ok());
  child.Kill();
  EXPECT_TRUE(transport->Allocate(4 * kMiB, {.segment = 3, .deadline = Soon()}).ok());
}

TEST_F(SegmentsTest, ARemovedSegmentKeepsItsMessagesAndGivesNoNewOnes) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  const std::string address = "ring://" + session_.name();
  auto pull = Bind(*other, Pattern::kPull, address);
  auto push = Connect(*transport, Pattern::kPush, address);
  ASSERT_TRUE(transport->CreateSegment({.id = 3, .size_bytes = kMiB}).ok());
  ASSERT_TRUE(other->OpenSegment(3).ok());
  Message held = FilledOf(*transport, 3, 1000, 1);
  ASSERT_EQ(push->Send(FilledOf(*transport, 3, 1000, 2), Soon()), SocketResult::kOk);
  ASSERT_TRUE(other->RemoveSegment(3).ok());
  EXPECT_FALSE(std::filesystem::exists(PathOf(session_.name() + "_main_3")));
  EXPECT_EQ(transport->Allocate(10, {.segment = 3}).status().code(), absl::StatusCode::kNotFound);

  // Another one of that id is another segment, also while messages of the first are under way.
  ASSERT_TRUE(transport->CreateSegment({.id = 3, .size_bytes = 2 * kMiB}).ok());
  ASSERT_EQ(push->Send(FilledOf(*transport, 3, 1000, 3), Soon()), SocketResult::kOk);
  ASSERT_EQ(push->Send(std::move(held), Soon()), SocketResult::kOk);
  for (const uint64_t seed : {2, 3, 1}) {
    Message message;
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(message, 1000, seed)) << seed;
  }
}

TEST_F(SegmentsTest, MessagesOfARemovedSegmentThatTheirReceiverCannotMapAreFreedByIt) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  uint32_t id = 3;
  for (const std::string& address :
       {"ring://" + session_.name(), "ipc://" + session_.directory() + "/" + session_.name()}) {
    auto pull = Bind(*other, Pattern::kPull, address);
    auto push = Connect(*transport, Pattern::kPush, address);
    ASSERT_TRUE(transport->CreateSegment({.id = ++id, .size_bytes = kMiB}).ok());
    Message one = FilledOf(*transport, id, 1000, 1);
    const volatile std::byte* const byte = &one.bytes()[0];
    ASSERT_TRUE(*byte != std::byte{0});
    std::vector<Message> parts;
    for (uint64_t i = 0; i < 3; ++i) parts.push_back(FilledOf(*transport, id, 2000, i));
    ASSERT_EQ(push->Send(std::move(one), Soon()), SocketResult::kOk);
    ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
    ASSERT_TRUE(transport->RemoveSegment(id).ok());
    // Its memory reads as zeros once it has gone back.
    EXPECT_TRUE(WaitFor([&] {
      std::vector<Message> received;
      (void)pull->TryReceiveParts(&received);
      return *byte == std::byte{0};
    })) << address;
  }
}

TEST_F(SegmentsTest, SegmentsComeAndGoWithoutAnythingRunningOut) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  const std::string address = "ring://" + session_.name();
  auto pull = Bind(*other, Pattern::kPull, address);
  auto push = Connect(*transport, Pattern::kPush, address);
  constexpr int kTurns = 150;  // more than there are rows
  const uint64_t before = UsedOfFileSystem();
  for (int turn = 0; turn < kTurns; ++turn) {
    const SegmentRequest request = {.id = 9, .size_bytes = kMiB};
    // A row is free again once both have seen, at a tick, that nothing of its segment is in use.
    ASSERT_TRUE(WaitFor([&] { return transport->CreateSegment(request).ok(); })) << turn;
    ASSERT_EQ(push->Send(FilledOf(*transport, 9, 500'000, static_cast<uint64_t>(turn)), Soon()),
              SocketResult::kOk);
    Message message;
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(message, 500'000, static_cast<uint64_t>(turn)));
    ASSERT_TRUE(other->RemoveSegment(9).ok());
  }
  // Their memory, too: half a mebibyte each.
  EXPECT_TRUE(WaitFor([&] { return UsedOfFileSystem() < before + 20 * kMiB; }))
      << UsedOfFileSystem() - before;
}

TEST_F(SegmentsTest, AllRowsInUseIsAnError) {
  auto transport = OpenTransport();
  for (uint32_t id = 1; id < 64; ++id) {
    ASSERT_TRUE(transport->CreateSegment({.id = id, .size_bytes = 4096}).ok()) << id;
  }
  const absl::Status status = transport->CreateSegment({.id = 64, .size_bytes = 4096});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Text(status), HasSubstr("all 64 segments"));
}

TEST_F(SegmentsTest, BringsTheMainSegmentInWithProgress) {
  TransportOptions options = Options();
  options.segment_size_bytes = 8 * kMiB;
  options.segment_memory.populate = true;
  uint64_t last = 0;
  options.segment_memory.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, 8 * kMiB);
    last = done;
  };
  auto transport = OpenTransport(options);
  EXPECT_EQ(last, 8 * kMiB);
  struct stat info = {};
  ASSERT_EQ(stat(PathOf(session_.name() + "_main").c_str(), &info), 0);
  EXPECT_GE(static_cast<uint64_t>(info.st_blocks) * 512, 8 * kMiB);
}

TEST_F(SegmentsTest, WhatTheMachineDoesNotHaveIsAnErrorAndLeavesNothing) {
  auto transport = OpenTransport();
  SegmentRequest request = {.id = 3, .size_bytes = kMiB};
  request.memory.numa_node = 1000;
  absl::Status status = transport->CreateSegment(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(status), HasSubstr("NUMA node 1000"));
  EXPECT_EQ(Ids(*transport), std::vector<uint32_t>{0});

  ChildProcess child = ChildProcess::Start([&] {
    if (kAddressSanitizer || kThreadSanitizer) return 0;  // they make mlock() do nothing
    auto mine = OpenTransport();
    const rlimit limit = {.rlim_cur = 64 << 10, .rlim_max = 64 << 10};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 1;
    if (geteuid() == 0 && !DropRightToLock()) return 2;
    SegmentRequest locked = {.id = 3, .size_bytes = kMiB};
    locked.memory.lock = true;
    const absl::Status refused = mine->CreateSegment(locked);
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Text(refused), HasSubstr("RLIMIT_MEMLOCK is 64 KiB"));
    EXPECT_EQ(Ids(*mine), std::vector<uint32_t>{0});

    // Somebody else takes the id while the memory is brought in: it is his then.
    locked.memory.populate = true;
    bool taken = false;
    locked.memory.progress = [&](uint64_t, uint64_t) {
      if (std::exchange(taken, true)) return;
      EXPECT_TRUE(mine->RemoveSegment(3).ok());
      EXPECT_TRUE(mine->CreateSegment({.id = 3, .size_bytes = 2 * kMiB}).ok());
    };
    EXPECT_EQ(mine->CreateSegment(locked).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(mine->Allocate(2 * kMiB, {.segment = 3}).ok());
    EXPECT_TRUE(mine->RemoveSegment(3).ok());
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));

  TransportOptions options = Options();
  options.session += "_2";
  options.segment_memory.numa_node = 1000;
  EXPECT_EQ(Transport::Open(options).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SegmentsTest, AForkedChildIsRefused) {
  auto transport = OpenTransport();
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(transport->CreateSegment({.id = 1, .size_bytes = kMiB}).code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(transport->OpenSegment(0).code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(transport->RemoveSegment(1).code(), absl::StatusCode::kFailedPrecondition);
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

}  // namespace
}  // namespace handoff

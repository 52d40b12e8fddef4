// SPDX-License-Identifier: Apache-2.0
#include "transport/transport.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/management_layout.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/testing/session_fixture.h"

namespace handoff {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TransportTest : public SessionFixture {};

TEST_F(TransportTest, MakesASessionAndLeavesNothingBehind) {
  {
    auto transport = OpenTransport();
    EXPECT_EQ(transport->session(), session_.name());
    EXPECT_FALSE(session_.Objects().empty());
    auto second = OpenTransport();
  }
  EXPECT_TRUE(session_.Objects().empty());
}

TEST_F(TransportTest, NamesTheOptionThatItRefuses) {
  TransportOptions options = Options();
  options.io_threads = 0;
  EXPECT_THAT(std::string(Transport::Open(options).status().message()),
              HasSubstr("io_threads = 0: from 1 to 16"));
  options = Options();
  options.segment_size_bytes = 100;
  EXPECT_THAT(std::string(Transport::Open(options).status().message()),
              HasSubstr("segment_size_bytes = 100: from 4096 to"));
  options = Options();
  options.session = "no/name";
  EXPECT_EQ(Transport::Open(options).status().code(), absl::StatusCode::kInvalidArgument);
}

// What a program sees that was built with another layout of shared memory: refused before it has
// touched anything, with both named, while those who are there go on.
TEST_F(TransportTest, RefusesAProgramOfAnotherBuildAndNamesBoth) {
  auto transport = OpenTransport();
  auto pull = Bind(*transport, Pattern::kPull, "ring://data");
  auto push = Connect(*transport, Pattern::kPush, "ring://data");
  const UniqueFd header(
      open(absl::StrCat(session_.directory(), "/", session_.name(), "_management").c_str(),
           O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(header.valid());
  const auto write_build = [&](uint64_t build) {
    ASSERT_EQ(pwrite(header.get(), &build, sizeof(build), offsetof(ObjectHeader, build_hash)),
              static_cast<ssize_t>(sizeof(build)));
  };
  constexpr uint64_t kOther = 0x0123456789ABCDEF;
  write_build(kOther);
  const absl::Status refused = Transport::Open(Options()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(session_.name()), HasSubstr("build 0123456789abcdef"),
                    HasSubstr(absl::StrCat("build ", absl::Hex(kBuildHash, absl::kZeroPad16)))));
  ASSERT_EQ(push->Send(Filled(*transport, 1000, 3), Soon()), SocketResult::kOk);
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 1000, 3));
  write_build(kBuildHash);
  EXPECT_TRUE(Transport::Open(Options()).ok());
}

// A ring is a thing of its session: sockets of two sessions never meet at one name, and a message
// of one is not sent through a socket of the other.
TEST_F(TransportTest, KeepsSessionsApart) {
  const TestSession other_session{TestSessionOptions{.own_directory = true}};
  TransportOptions other_options = Options();
  other_options.session = other_session.name();
  other_options.shm_dir = other_session.directory();
  auto transport = OpenTransport();
  auto other = OpenTransport(other_options);
  auto pull = Bind(*other, Pattern::kPull, "ring://data");
  auto push = Connect(*transport, Pattern::kPush, "ring://data");
  Message message = Filled(*transport, 100, 1);
  EXPECT_EQ(push->Send(std::move(message), Deadline::After(absl::Milliseconds(2))),
            SocketResult::kTimedOut);
  EXPECT_EQ(push->Statistics().connected_peers, 0u);
  Message foreign = Filled(*other, 100, 2);
  EXPECT_EQ(push->TrySend(std::move(foreign)), SocketResult::kForeignMessage);
  EXPECT_TRUE(IsFilled(foreign, 100, 2));
}

TEST_F(TransportTest, AllocatesMessagesOfEverySizeAndAlignment) {
  auto transport = OpenTransport();
  for (const size_t alignment : {1, 64, 4096, 1 << 21}) {
    for (const size_t size : {1, 1000, 70'000, 5 << 20}) {
      auto message = transport->Allocate(size, {.alignment = alignment});
      ASSERT_TRUE(message.ok()) << message.status().ToString();
      EXPECT_EQ(message->size(), size);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(message->data()) % alignment, 0u);
    }
  }
  EXPECT_EQ(transport->Usage().used_blocks, 0u);
}

TEST_F(TransportTest, GivesTheEmptyMessageForNoBytes) {
  auto transport = OpenTransport();
  auto message = transport->Allocate(0);
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(message->empty());
  Message tried = Filled(*transport, 10, 1);
  EXPECT_EQ(transport->TryAllocate(0, &tried), AllocateResult::kOk);
  EXPECT_TRUE(tried.empty());
  EXPECT_EQ(transport->Usage().used_blocks, 0u);
}

TEST_F(TransportTest, TriesIntoAMessageWhoseContentItReleasesFirst) {
  auto transport = OpenTransport();
  Message message;
  ASSERT_EQ(transport->TryAllocate(kSegmentBytes, &message), AllocateResult::kOk);
  ASSERT_EQ(transport->TryAllocate(kSegmentBytes, &message), AllocateResult::kOk);
  EXPECT_EQ(message.size(), kSegmentBytes);
  EXPECT_EQ(transport->TryAllocate(kSegmentBytes + 1, &message), AllocateResult::kTooLarge);
  EXPECT_TRUE(message.empty());
  EXPECT_EQ(transport->TryAllocate(10, &message, 96), AllocateResult::kTooLarge);
}

TEST_F(TransportTest, SaysWhatIsMissingWhenTheSegmentIsFull) {
  auto transport = OpenTransport();
  const Message most = Filled(*transport, 48 << 20, 1);
  auto message = transport->Allocate(32 << 20);
  ASSERT_EQ(message.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(message.status().message()),
              AllOf(HasSubstr("requested 32 MiB"), HasSubstr("16 MiB of 64 MiB free"),
                    HasSubstr("largest free block 16 MiB")));
  Message tried;
  EXPECT_EQ(transport->TryAllocate(32 << 20, &tried), AllocateResult::kFull);
  EXPECT_EQ(transport->Allocate((64 << 20) + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(transport->Allocate((64 << 20) + 1).status().message()),
              AllOf(HasSubstr("67108865"), HasSubstr("67108864")));
}

TEST_F(TransportTest, NamesTheThreeMembersThatHoldMostWhenTheSegmentIsFull) {
  std::vector<std::unique_ptr<Transport>> members;
  std::vector<Message> held;
  for (const int mib : {8, 20, 4, 16}) {
    TransportOptions options = Options();
    options.member_name = "holder of " + std::to_string(mib) + "\n";
    members.push_back(OpenTransport(options));
    held.push_back(Filled(*members.back(), static_cast<size_t>(mib) << 20, 1));
  }
  const absl::Status status = members[0]->Allocate(17 << 20).status();
  const std::string pid = std::to_string(getpid());
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("holder of 20?, pid " + pid +
                                                             ": 20 MiB in 1 blocks), member 4 ("
                                                             "holder of 16?, pid " +
                                                             pid +
                                                             ": 16 MiB in 1 blocks), member 1 ("
                                                             "holder of 8?, pid " +
                                                             pid + ": 8 MiB in 1 blocks)"),
                                                   testing::Not(HasSubstr("holder of 4"))));
}

TEST_F(TransportTest, WaitsForMemoryThatAnotherMemberReleases) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  Message most = Filled(*other, 48 << 20, 1);
  std::thread releaser([&] { most.Release(); });
  auto message = transport->Allocate(32 << 20, {.deadline = Soon()});
  releaser.join();
  EXPECT_TRUE(message.ok()) << message.status().ToString();
}

TEST_F(TransportTest, StopsWaitingForMemoryAtTheDeadlineAndWhenInterrupted) {
  auto transport = OpenTransport();
  const Message most = Filled(*transport, 48 << 20, 1);
  EXPECT_EQ(transport->Allocate(32 << 20, {.deadline = Deadline::After(absl::Milliseconds(20))})
                .status()
                .code(),
            absl::StatusCode::kResourceExhausted);
  std::thread interrupter([&] { transport->Interrupt(); });
  EXPECT_EQ(transport->Allocate(32 << 20, {.deadline = Deadline::Infinite()}).status().code(),
            absl::StatusCode::kCancelled);
  interrupter.join();
  transport->Resume();
  EXPECT_TRUE(transport->Allocate(1 << 20, {.deadline = Soon()}).ok());
}

TEST_F(TransportTest, GetsTheMemoryOfAKilledMemberBack) {
  auto transport = OpenTransport();
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    auto mine = OpenTransport();
    const Message most = Filled(*mine, 48 << 20, 1);
    ready.Signal();
    while (true) absl::SleepFor(absl::Hours(1));
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  EXPECT_FALSE(transport->Allocate(32 << 20).ok());
  child.Kill();
  auto message = transport->Allocate(32 << 20, {.deadline = Soon()});
  EXPECT_TRUE(message.ok()) << message.status().ToString();
}

TEST_F(TransportTest, AllocatesFromManyThreadsAtOnce) {
  auto transport = OpenTransport();
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      for (int i = 0; i < 2000; ++i) {
        const Message message = Filled(*transport, 1 + static_cast<size_t>(i) * 7 % 5000, seed);
        ASSERT_TRUE(IsFilled(message, message.size(), seed));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(transport->Usage().used_blocks, 0u);
}

TEST_F(TransportTest, AuditsASessionInUse) {
  auto transport = OpenTransport();
  auto other = OpenTransport();
  auto push = Bind(*transport, Pattern::kPush, "ring://data");
  auto pull = Connect(*other, Pattern::kPull, "ring://data");
  Message held = Filled(*transport, 1000, 1);
  Message shared = *transport->Share(&held);
  ASSERT_EQ(push->Send(std::move(shared), Soon()), SocketResult::kOk);
  std::vector<Message> parts(3);
  for (Message& part : parts) part = Filled(*transport, 100'000, 2);
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  for (Transport* each : {transport.get(), other.get()}) {
    const auto problems = each->Audit();
    ASSERT_TRUE(problems.ok()) << problems.status().ToString();
    EXPECT_THAT(*problems, IsEmpty());
  }
}

TEST_F(TransportTest, FailsClearlyInAForkedChildWhichMayOpenItsOwn) {
  auto transport = OpenTransport();
  ChildProcess child = ChildProcess::Start([&] {
    Message message;
    EXPECT_EQ(transport->TryAllocate(10, &message), AllocateResult::kUnusable);
    const absl::Status refused = transport->Allocate(10).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("forked"));
    EXPECT_EQ(transport->Usable().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(transport->Audit().status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(transport->CreateSocket(Pattern::kPush).status().code(),
              absl::StatusCode::kFailedPrecondition);
    transport->Interrupt();
    auto own = OpenTransport();
    EXPECT_TRUE(own->Allocate(10).ok());
    own.reset();
    transport.reset();
    return 0;
  });
  ASSERT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(transport->Usable().ok());
  EXPECT_TRUE(transport->Allocate(10).ok());
}

TEST_F(TransportTest, StopsTheProgramWhenASocketOutlivesIt) {
  ChildProcess child = ChildProcess::Start([&] {
    auto own = OpenTransport();
    auto own_socket = own->CreateSocket(Pattern::kPush);
    own.reset();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGABRT));
  ExpectSegmentWhole();  // and cleans up
}

}  // namespace
}  // namespace handoff

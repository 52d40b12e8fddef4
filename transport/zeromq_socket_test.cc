// SPDX-License-Identifier: Apache-2.0
// Patterns and kinds of messages on addresses of ZeroMQ.
#include <time.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "allocator/bundle.h"
#include "allocator/member.h"
#include "allocator/part_name.h"
#include "allocator/session.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class ZeromqSocketTest : public SessionFixture {
 protected:
  static SocketResult SendNumber(Transport& transport, Socket& socket, uint64_t number) {
    Message message = *transport.Allocate(sizeof(number));
    std::memcpy(message.mutable_bytes().data(), &number, sizeof(number));
    return socket.Send(std::move(message), Soon());
  }
  static uint64_t ReceiveNumber(Socket& socket) {
    Message message;
    EXPECT_EQ(socket.Receive(&message, Soon()), SocketResult::kOk);
    uint64_t number = ~uint64_t{0};
    if (message.size() == sizeof(number)) std::memcpy(&number, message.data(), sizeof(number));
    return number;
  }
  static bool NothingComes(Socket& socket) {
    Message message;
    return socket.Receive(&message, Deadline::After(absl::Milliseconds(20))) ==
           SocketResult::kTimedOut;
  }
  // Every third part is empty.
  static std::vector<Message> MakeParts(Transport& transport, size_t count) {
    std::vector<Message> parts;
    for (size_t i = 0; i < count; ++i) {
      parts.push_back(Filled(transport, i % 3 == 2 ? 0 : 100 + i % 50, i));
    }
    return parts;
  }
  static bool AreParts(const std::vector<Message>& parts, size_t count) {
    if (parts.size() != count) return false;
    for (size_t i = 0; i < count; ++i) {
      if (i % 3 == 2 ? !parts[i].empty() : !IsFilled(parts[i], 100 + i % 50, i)) return false;
    }
    return true;
  }

  std::unique_ptr<Transport> one_ = OpenTransport();
  std::unique_ptr<Transport> two_ = OpenTransport();
};

TEST_F(ZeromqSocketTest, CarriesUpTo4096PartsAsOneMessageWithoutACopy) {
  auto push = Bind(*one_, Pattern::kPush, Address());
  auto pull = Connect(*two_, Pattern::kPull, Address());
  std::vector<Message> received;
  for (const size_t count : {size_t{1}, size_t{2}, size_t{16}, size_t{4096}}) {
    std::vector<Message> parts = MakeParts(*one_, count);
    const uint64_t where = parts[0].segment_offset();
    ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
    for (const Message& part : parts) EXPECT_TRUE(part.empty());
    ASSERT_EQ(pull->ReceiveParts(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(AreParts(received, count)) << count;
    EXPECT_EQ(received[0].segment_offset(), where);
  }
  received.clear();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
  EXPECT_EQ(pull->Statistics().messages_received, 4u);
  EXPECT_EQ(pull->Statistics().bytes_received, push->Statistics().bytes_sent);
}

TEST_F(ZeromqSocketTest, LeavesAllPartsWithTheCallerWhereNobodyIsThere) {
  auto push = Bind(*one_, Pattern::kPush, Address());
  std::vector<Message> parts = MakeParts(*one_, 7);
  EXPECT_EQ(push->TrySendParts(parts), SocketResult::kWouldBlock);
  EXPECT_EQ(push->SendParts(parts, Deadline::After(absl::Milliseconds(20))),
            SocketResult::kTimedOut);
  EXPECT_TRUE(AreParts(parts, 7));
  std::vector<Message> many(4097);
  EXPECT_EQ(push->TrySendParts(many), SocketResult::kPartCount);
  EXPECT_EQ(push->TrySendParts({}), SocketResult::kPartCount);
  auto pull = Connect(*two_, Pattern::kPull, Address());
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  for (uint64_t i = 0; i < 7; ++i) {
    Message message;
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_TRUE(i % 3 == 2 ? message.empty() : IsFilled(message, 100 + i, i));
  }
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(ZeromqSocketTest, SleepsWhileEveryListOfPartsIsInUse) {
  auto push = Bind(*one_, Pattern::kPush, Address());
  auto pull = Connect(*two_, Pattern::kPull, Address());
  ASSERT_EQ(SendNumber(*one_, *push, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pull), 1u);
  SessionOptions options;
  options.names.session = session_.name();
  options.names.shm_dir = session_.directory();
  options.main_segment_bytes = kSegmentBytes;
  auto member = Member::Join(std::move(options));
  ASSERT_TRUE(member.ok()) << member.status();
  for (const size_t length : {size_t{kMaxParts}, size_t{1}}) {
    while ((*member)->Bundle(std::vector<PartName>(length)).ok()) continue;
  }
  std::vector<Message> parts = MakeParts(*one_, 5);
  const auto processor_ns = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
  };
  const int64_t before_ns = processor_ns();
  EXPECT_EQ(push->SendParts(parts, Deadline::After(absl::Milliseconds(400))),
            SocketResult::kTimedOut);
  EXPECT_LT(processor_ns() - before_ns, 200'000'000);
  EXPECT_TRUE(AreParts(parts, 5));
  member->reset();  // with all that it had
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  std::vector<Message> received;
  ASSERT_EQ(pull->ReceiveParts(&received, Soon()), SocketResult::kOk);
  EXPECT_TRUE(AreParts(received, 5));
}

TEST_F(ZeromqSocketTest, RefusesPartsOfAnotherTransportAndTakesNone) {
  auto push = Bind(*one_, Pattern::kPush, Address());
  auto pull = Connect(*two_, Pattern::kPull, Address());
  std::vector<Message> parts = MakeParts(*one_, 3);
  parts.push_back(Filled(*two_, 10, 1));
  EXPECT_EQ(push->SendParts(parts, Soon()), SocketResult::kForeignMessage);
  parts.pop_back();
  EXPECT_TRUE(AreParts(parts, 3));
}

TEST_F(ZeromqSocketTest, ForwardsASharedMessageFromARingWithoutACopy) {
  auto publish = Bind(*one_, Pattern::kPublish, "ring://data");
  auto a = Connect(*two_, Pattern::kSubscribe, "ring://data");
  auto b = Connect(*two_, Pattern::kSubscribe, "ring://data");
  auto push = Bind(*two_, Pattern::kPush, Address());
  auto pull = Connect(*one_, Pattern::kPull, Address());
  ASSERT_EQ(publish->Send(Filled(*one_, 1 << 20, 5), Soon()), SocketResult::kOk);
  Message forwarded;
  Message kept;
  ASSERT_EQ(a->Receive(&forwarded, Soon()), SocketResult::kOk);
  ASSERT_EQ(b->Receive(&kept, Soon()), SocketResult::kOk);
  ASSERT_TRUE(forwarded.shared());
  ASSERT_EQ(push->Send(std::move(forwarded), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&forwarded, Soon()), SocketResult::kOk);
  EXPECT_TRUE(forwarded.shared());
  EXPECT_EQ(forwarded.segment_offset(), kept.segment_offset());
  EXPECT_TRUE(IsFilled(forwarded, 1 << 20, 5));
  EXPECT_EQ(one_->Usage().used_blocks, 1u);
  // As a part, too.
  std::vector<Message> parts;
  parts.push_back(std::move(kept));
  parts.push_back(Filled(*two_, 10, 1));
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  std::vector<Message> received;
  ASSERT_EQ(pull->ReceiveParts(&received, Soon()), SocketResult::kOk);
  ASSERT_EQ(received.size(), 2u);
  EXPECT_EQ(received[0].segment_offset(), forwarded.segment_offset());
  received.clear();
  forwarded.Release();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(ZeromqSocketTest, RefusesToPublishAndNamesWhatDoes) {
  for (const Pattern pattern : {Pattern::kPublish, Pattern::kSubscribe}) {
    auto socket = *one_->CreateSocket(pattern);
    const absl::Status status = socket->Bind(Address());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("ring://"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(PatternName(pattern)));
  }
}

TEST_F(ZeromqSocketTest, RepliesToWhoAskedWhoeverBinds) {
  for (const std::string& address : {Address("bound"), std::string("inproc://asked")}) {
    auto reply = Bind(*one_, Pattern::kReply, address);
    Transport& asker = address[1] == 'n' ? *one_ : *two_;
    auto a = Connect(asker, Pattern::kRequest, address);
    auto b = Connect(asker, Pattern::kRequest, address);
    for (uint64_t round = 0; round < 3; ++round) {
      ASSERT_EQ(SendNumber(asker, *a, 10), SocketResult::kOk);
      ASSERT_EQ(SendNumber(asker, *b, 20), SocketResult::kOk);
      for (int i = 0; i < 2; ++i) {
        const uint64_t request = ReceiveNumber(*reply);
        ASSERT_EQ(SendNumber(*one_, *reply, request + 1), SocketResult::kOk);
      }
      EXPECT_EQ(ReceiveNumber(*b), 21u);
      EXPECT_EQ(ReceiveNumber(*a), 11u);
    }
  }
  auto request = Bind(*two_, Pattern::kRequest, Address("asker"));
  auto first = Connect(*one_, Pattern::kReply, Address("asker"));
  auto second = Connect(*one_, Pattern::kReply, Address("asker"));
  ASSERT_TRUE(WaitFor([&] { return request->Statistics().connected_peers == 2; }));
  // In turn.
  for (Socket* reply : {first.get(), second.get(), first.get()}) {
    ASSERT_EQ(SendNumber(*two_, *request, 1), SocketResult::kOk);
    Socket* other = reply == first.get() ? second.get() : first.get();
    Message message;
    Socket* got = nullptr;
    ASSERT_TRUE(WaitFor([&] {
      if (reply->TryReceive(&message) == SocketResult::kOk) got = reply;
      if (got == nullptr && other->TryReceive(&message) == SocketResult::kOk) got = other;
      return got != nullptr;
    }));
    message.Release();
    ASSERT_EQ(SendNumber(*one_, *got, 2), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*request), 2u);
  }
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(ZeromqSocketTest, RepliesWithManyPartsAndWithNothing) {
  auto reply = Bind(*one_, Pattern::kReply, Address());
  auto request = Connect(*two_, Pattern::kRequest, Address());
  std::vector<Message> parts = MakeParts(*two_, 5);
  std::vector<Message> received;
  ASSERT_EQ(request->SendParts(parts, Soon()), SocketResult::kOk);
  ASSERT_EQ(reply->ReceiveParts(&received, Soon()), SocketResult::kOk);
  ASSERT_EQ(reply->SendParts(received, Soon()), SocketResult::kOk);
  ASSERT_EQ(request->ReceiveParts(&received, Soon()), SocketResult::kOk);
  EXPECT_TRUE(AreParts(received, 5));
  ASSERT_EQ(request->Send(Message(), Soon()), SocketResult::kOk);
  Message message;
  ASSERT_EQ(reply->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(message.empty());
  ASSERT_EQ(reply->Send(Message(), Soon()), SocketResult::kOk);
  ASSERT_EQ(request->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(message.empty());
}

TEST_F(ZeromqSocketTest, SkipsAnAskerThatHasGoneAndRepliesThatNobodyAwaits) {
  auto reply = Bind(*one_, Pattern::kReply, Address());
  auto stays = Connect(*two_, Pattern::kRequest, Address());
  // ZeroMQ reports the loss a moment before it takes the asker's queue away; a reply in between
  // goes with that.
  uint64_t replies = 0;
  ASSERT_TRUE(WaitFor([&] {
    auto goes = Connect(*two_, Pattern::kRequest, Address());
    EXPECT_EQ(SendNumber(*two_, *goes, 1), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*reply), 1u);
    goes.reset();
    EXPECT_TRUE(WaitFor([&] { return reply->Statistics().connected_peers == 1; }));
    EXPECT_EQ(SendNumber(*one_, *reply, 2), SocketResult::kOk);
    ++replies;
    return reply->Statistics().dropped_messages == 1;
  }));
  // A request that gets no reply, then one whose reply comes after the next request.
  ASSERT_EQ(SendNumber(*two_, *stays, 3), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 3u);
  ASSERT_EQ(SendNumber(*two_, *stays, 4), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 4u);
  ASSERT_EQ(SendNumber(*two_, *stays, 5), SocketResult::kOk);
  EXPECT_EQ(SendNumber(*one_, *reply, 40), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 5u);
  EXPECT_EQ(SendNumber(*one_, *reply, 50), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*stays), 50u);
  // Nobody has asked.
  Message message = Filled(*one_, 10, 1);
  EXPECT_EQ(reply->TrySend(std::move(message)), SocketResult::kWouldBlock);
  EXPECT_TRUE(IsFilled(message, 10, 1));  // NOLINT(bugprone-use-after-move): documented
  message.Release();
  EXPECT_TRUE(NothingComes(*stays));
  EXPECT_LE(one_->Usage().used_blocks, replies - 1);
}

TEST_F(ZeromqSocketTest, AsksWhoIsThereWhenAReplierIsKilled) {
  auto serve = [&](const std::string& address, ProcessSignal* asked) {
    return ChildProcess::Start([this, address, asked] {
      auto transport = OpenTransport();
      auto reply = Bind(*transport, Pattern::kReply, address);
      for (;;) {
        Message message;
        if (reply->Receive(&message, Soon()) != SocketResult::kOk) return 1;
        if (asked != nullptr) {
          asked->Signal();  // and no reply
          continue;
        }
        if (message.empty()) return 0;
        if (reply->Send(std::move(message), Soon()) != SocketResult::kOk) return 2;
      }
    });
  };
  ProcessSignal asked;
  ChildProcess dies = serve(Address("dies"), &asked);
  auto request = Connect(*one_, Pattern::kRequest, Address("dies"));
  ASSERT_EQ(SendNumber(*one_, *request, 1), SocketResult::kOk);
  ASSERT_TRUE(asked.Wait());
  dies.Kill();
  EXPECT_TRUE(NothingComes(*request));
  ASSERT_TRUE(WaitFor([&] { return request->Statistics().connected_peers == 0; }));
  Message message = Filled(*one_, 10, 1);
  EXPECT_EQ(request->Send(std::move(message), Deadline::After(absl::Milliseconds(20))),
            SocketResult::kTimedOut);
  ASSERT_TRUE(request->Connect(Address("lives")).ok());
  ChildProcess lives = serve(Address("lives"), nullptr);
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_EQ(SendNumber(*one_, *request, i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*request), i);
  }
  ASSERT_EQ(request->Send(Message(), Soon()), SocketResult::kOk);
  EXPECT_EQ(lives.Wait(), ChildExit::Code(0));
}

TEST_F(ZeromqSocketTest, DeliversTheReplyOfAReplierThatHasEnded) {
  for (int round = 0; round < 20; ++round) {
    const std::string address = Address(std::to_string(round));
    auto request = Connect(*one_, Pattern::kRequest, address);
    auto reply = Bind(*two_, Pattern::kReply, address);
    ASSERT_EQ(SendNumber(*one_, *request, 1), SocketResult::kOk);
    ASSERT_EQ(ReceiveNumber(*reply), 1u);
    ASSERT_EQ(SendNumber(*two_, *reply, 2), SocketResult::kOk);
    reply.reset();
    ASSERT_TRUE(WaitFor([&] { return request->Statistics().connected_peers == 0; }));
    EXPECT_EQ(ReceiveNumber(*request), 2u);
  }
}

TEST_F(ZeromqSocketTest, TellsWhoseMessagesHaveCome) {
  auto pull = Bind(*one_, Pattern::kPull, Address());
  auto push = Connect(*two_, Pattern::kPush, Address());
  auto own = Connect(*one_, Pattern::kPush, Address());
  for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(SendNumber(*two_, *push, i), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*one_, *own, 9), SocketResult::kOk);
  for (uint64_t i = 0; i < 4; ++i) ReceiveNumber(*pull);
  const SocketStatistics statistics = pull->Statistics();
  ASSERT_EQ(statistics.peers.size(), 2u);
  const PeerStatistics& more = statistics.peers[statistics.peers[0].messages_received == 3 ? 0 : 1];
  EXPECT_EQ(more.messages_received, 3u);
  EXPECT_EQ(more.bytes_received, 24u);
  EXPECT_THAT(more.peer, HasSubstr("pid "));
}

TEST_F(ZeromqSocketTest, AsksAndRepliesFromThreadsWithoutLosingAWakeUp) {
  auto reply = Bind(*one_, Pattern::kReply, Address());
  auto request = Connect(*two_, Pattern::kRequest, Address());
  constexpr uint64_t kRounds = 2000;
  std::thread replier([&] {
    for (uint64_t i = 0; i < kRounds; ++i) {
      ASSERT_EQ(SendNumber(*one_, *reply, ReceiveNumber(*reply) + 1), SocketResult::kOk);
    }
  });
  for (uint64_t i = 0; i < kRounds; ++i) {
    ASSERT_EQ(SendNumber(*two_, *request, i), SocketResult::kOk);
    ASSERT_EQ(ReceiveNumber(*request), i + 1);
  }
  replier.join();
}

}  // namespace
}  // namespace handoff

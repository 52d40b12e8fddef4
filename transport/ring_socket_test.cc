// SPDX-License-Identifier: Apache-2.0
// Sockets of ring:// addresses: patterns, limits, and what comes and goes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/ring_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class RingSocketTest : public SessionFixture {
 protected:
  static SocketOptions Capacity(uint32_t messages) {
    SocketOptions options;
    options.send_high_water_mark = messages;
    options.receive_high_water_mark = messages;
    return options;
  }
  // Sends and receives small messages that are numbers.
  static SocketResult SendNumber(Transport& transport, Socket& socket, uint64_t number) {
    auto message = transport.Allocate(sizeof(number));
    if (!message.ok()) return SocketResult::kUnusable;
    std::memcpy(message->mutable_bytes().data(), &number, sizeof(number));
    return socket.TrySend(*std::move(message));
  }
  static uint64_t NumberIn(const Message& message) {
    uint64_t number = ~uint64_t{0};
    if (message.size() == sizeof(number)) std::memcpy(&number, message.data(), sizeof(number));
    return number;
  }
  static uint64_t ReceiveNumber(Socket& socket) {
    Message message;
    EXPECT_EQ(socket.Receive(&message, Soon()), SocketResult::kOk);
    return NumberIn(message);
  }
  static bool NothingComes(Socket& socket) {
    Message message;
    return socket.TryReceive(&message) == SocketResult::kWouldBlock;
  }

  std::unique_ptr<Transport> one_ = OpenTransport();
  std::unique_ptr<Transport> two_ = OpenTransport();
};

TEST_F(RingSocketTest, HoldsAsManyMessagesAsItsCapacity) {
  auto pull = Bind(*two_, Pattern::kPull, "ring://data", Capacity(5));
  auto push = Connect(*one_, Pattern::kPush, "ring://data");
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(SendNumber(*one_, *push, i), SocketResult::kOk);
  Message message = Filled(*one_, 100, 1);
  EXPECT_EQ(push->TrySend(std::move(message)), SocketResult::kWouldBlock);
  EXPECT_EQ(push->Send(std::move(message), Deadline::After(absl::Milliseconds(2))),
            SocketResult::kTimedOut);
  EXPECT_TRUE(IsFilled(message, 100, 1));
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(ReceiveNumber(*pull), i);
    ASSERT_EQ(SendNumber(*one_, *push, i + 5), SocketResult::kOk);
  }
  EXPECT_GT(push->Statistics().send_blocked, absl::ZeroDuration());
}

TEST_F(RingSocketTest, WaitsForAReceiverAndForAMessage) {
  auto push = Bind(*one_, Pattern::kPush, "ring://data");
  std::thread receiver([&] {
    auto pull = Connect(*two_, Pattern::kPull, "ring://data");
    for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(ReceiveNumber(*pull), i);
  });
  for (uint64_t i = 0; i < 100; ++i) {
    if (i % 10 == 0) absl::SleepFor(absl::Milliseconds(1));  // lets the other side fall asleep
    Message message = *one_->Allocate(sizeof(i));
    std::memcpy(message.mutable_bytes().data(), &i, sizeof(i));
    ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  }
  receiver.join();
}

TEST_F(RingSocketTest, PassesMillionsThroughASmallRingInOrder) {
  auto push = Bind(*one_, Pattern::kPush, "ring://data", Capacity(64));
  auto pull = Connect(*two_, Pattern::kPull, "ring://data");
  constexpr uint64_t kCount = 300'000;
  std::thread receiver([&] {
    Message message;
    for (uint64_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      ASSERT_EQ(NumberIn(message), i);
    }
  });
  for (uint64_t i = 0; i < kCount; ++i) {
    Message message;
    ASSERT_EQ(one_->TryAllocate(sizeof(i), &message), AllocateResult::kOk);
    std::memcpy(message.mutable_bytes().data(), &i, sizeof(i));
    ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  }
  receiver.join();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(RingSocketTest, SendsWhatAClosedReceiverHasNotTakenToAnotherInOrder) {
  auto push = Bind(*one_, Pattern::kPush, "ring://data");
  auto closes = Connect(*two_, Pattern::kPull, "ring://data");
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(SendNumber(*one_, *push, i), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*closes), 0u);
  closes.reset();
  auto stays = Connect(*two_, Pattern::kPull, "ring://data");
  // Also if the sender does nothing more.
  for (uint64_t i = 1; i < 5; ++i) EXPECT_EQ(ReceiveNumber(*stays), i);
  EXPECT_TRUE(NothingComes(*stays));
}

TEST_F(RingSocketTest, SkipsNobodysTurnWhenAReceiverLeaves) {
  auto push = Bind(*one_, Pattern::kPush, "ring://data");
  std::array<std::unique_ptr<Socket>, 3> pulls;
  std::array<uint64_t, 3> of_turn;  // which of them got the message of each turn
  for (auto& pull : pulls) pull = Connect(*two_, Pattern::kPull, "ring://data");
  for (uint64_t turn = 0; turn < 2 * pulls.size(); ++turn) {
    ASSERT_EQ(SendNumber(*one_, *push, turn), SocketResult::kOk);
    for (uint64_t i = 0; i < pulls.size(); ++i) {
      Message message;
      if (pulls[i]->TryReceive(&message) != SocketResult::kOk) continue;
      EXPECT_EQ(NumberIn(message), turn);
      if (turn < pulls.size()) {
        of_turn[turn] = i;
      } else {
        EXPECT_EQ(i, of_turn[turn - pulls.size()]);
      }
    }
  }
  // One has had its turn and leaves: it is the second one's, whoever has moved up in a list.
  ASSERT_EQ(SendNumber(*one_, *push, 100), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pulls[of_turn[0]]), 100u);
  pulls[of_turn[0]]->Close();
  ASSERT_EQ(SendNumber(*one_, *push, 101), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pulls[of_turn[1]]), 101u);
}

TEST_F(RingSocketTest, DeliversWhatAClosedSenderHasSent) {
  auto pull = Connect(*two_, Pattern::kPull, "ring://data");
  auto push = Bind(*one_, Pattern::kPush, "ring://data");
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(SendNumber(*one_, *push, i), SocketResult::kOk);
  push.reset();
  one_.reset();
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(ReceiveNumber(*pull), i);
  EXPECT_TRUE(NothingComes(*pull));
  // And from the next one.
  one_ = OpenTransport();
  push = Bind(*one_, Pattern::kPush, "ring://data");
  ASSERT_EQ(SendNumber(*one_, *push, 9), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pull), 9u);
}

TEST_F(RingSocketTest, RefusesASecondBindAndOtherPatternsAndNamesTheOther) {
  auto push = Bind(*one_, Pattern::kPush, "ring://data");
  auto second = *two_->CreateSocket(Pattern::kPush);
  const absl::Status taken = second->Bind("ring://data");
  EXPECT_TRUE(absl::IsAlreadyExists(taken)) << taken;
  auto subscribe = *two_->CreateSocket(Pattern::kSubscribe);
  const absl::Status wrong = subscribe->Connect("ring://data");
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong)) << wrong;
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("PUSH"));
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("SUBSCRIBE"));
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("pid "));
}

TEST_F(RingSocketTest, PairsExactlyTwo) {
  auto left = Bind(*one_, Pattern::kPair, "ring://data");
  auto right = Connect(*two_, Pattern::kPair, "ring://data");
  auto third = Connect(*two_, Pattern::kPair, "ring://data");
  ASSERT_EQ(SendNumber(*one_, *left, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*right), 1u);
  ASSERT_EQ(SendNumber(*two_, *right, 2), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*left), 2u);
  EXPECT_EQ(SendNumber(*two_, *third, 3), SocketResult::kWouldBlock);
  right.reset();
  ASSERT_EQ(SendNumber(*one_, *left, 4), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*third), 4u);
  ASSERT_EQ(SendNumber(*two_, *third, 5), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*left), 5u);
}

TEST_F(RingSocketTest, SkipsAnAskerThatHasGoneAndRepliesThatNobodyAwaits) {
  auto reply = Bind(*one_, Pattern::kReply, "ring://data");
  auto goes = Connect(*two_, Pattern::kRequest, "ring://data");
  auto stays = Connect(*two_, Pattern::kRequest, "ring://data");
  ASSERT_EQ(SendNumber(*two_, *goes, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 1u);
  goes.reset();
  EXPECT_EQ(SendNumber(*one_, *reply, 2), SocketResult::kOk);
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
}

TEST_F(RingSocketTest, GivesNobodyTheReplyOfAnAskerThatHasGone) {
  auto reply = Bind(*one_, Pattern::kReply, "ring://data");
  auto goes = Connect(*two_, Pattern::kRequest, "ring://data");
  auto stays = Connect(*two_, Pattern::kRequest, "ring://data");
  ASSERT_EQ(SendNumber(*two_, *goes, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 1u);
  EXPECT_EQ(SendNumber(*one_, *reply, 10), SocketResult::kOk);
  goes.reset();  // with its reply unread
  ASSERT_EQ(SendNumber(*two_, *stays, 2), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 2u);
  EXPECT_EQ(SendNumber(*one_, *reply, 20), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*stays), 20u);
  EXPECT_TRUE(NothingComes(*stays));
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(RingSocketTest, AwaitsNoReplyToARequestThatCameBackAfterANewerOne) {
  auto request = Bind(*one_, Pattern::kRequest, "ring://data");
  auto goes = Connect(*two_, Pattern::kReply, "ring://data");
  auto stays = Connect(*two_, Pattern::kReply, "ring://data");
  // One each.
  ASSERT_EQ(SendNumber(*one_, *request, 1), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*one_, *request, 2), SocketResult::kOk);
  goes.reset();
  (void)request->Ready();  // finds that out
  EXPECT_EQ(ReceiveNumber(*stays), 2u);
  EXPECT_EQ(SendNumber(*two_, *stays, 20), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*request), 20u);
  EXPECT_TRUE(NothingComes(*stays));
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(RingSocketTest, RepliesToTheNextRequestOfWhoseFormerOneMadeNoSense) {
  auto reply = Bind(*one_, Pattern::kReply, "ring://data");
  auto request = Connect(*two_, Pattern::kRequest, "ring://data");
  // Of a segment that the other side has never mapped, and cannot any more.
  ASSERT_TRUE(two_->CreateSegment({.id = 5, .size_bytes = 1 << 20}).ok());
  auto lost = two_->Allocate(10, {.segment = 5});
  ASSERT_TRUE(lost.ok()) << lost.status();
  ASSERT_TRUE(two_->RemoveSegment(5).ok());
  ASSERT_EQ(request->TrySend(*std::move(lost)), SocketResult::kOk);
  EXPECT_TRUE(NothingComes(*reply));
  EXPECT_EQ(reply->Statistics().stale_handles, 1u);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(SendNumber(*two_, *request, i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*reply), i);
    EXPECT_EQ(SendNumber(*one_, *reply, i + 10), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*request), i + 10);
  }
}

TEST_F(RingSocketTest, LetsGoOfSendersThatHaveGoneAlsoIfItOnlyLooks) {
  auto pull = Bind(*one_, Pattern::kPull, "ring://data");
  for (uint32_t i = 0; i < kMaxRings + 10; ++i) {
    auto push = Connect(*two_, Pattern::kPush, "ring://data");
    ASSERT_TRUE(push->Ready().send) << i;
    push.reset();
    EXPECT_FALSE(pull->Ready().receive);
  }
}

TEST_F(RingSocketTest, ConnectsOnceHoweverOftenItIsTold) {
  auto request = Bind(*one_, Pattern::kRequest, "ring://data");
  auto reply = Connect(*two_, Pattern::kReply, "ring://data");
  EXPECT_TRUE(reply->Connect("ring://other").ok());
  EXPECT_TRUE(reply->Connect("ring://data").ok());
  EXPECT_EQ(reply->LastEndpoint(), "ring://data");
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(SendNumber(*one_, *request, i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*reply), i);
    ASSERT_EQ(SendNumber(*two_, *reply, i + 10), SocketResult::kOk);
    ASSERT_EQ(ReceiveNumber(*request), i + 10);
  }
  EXPECT_EQ(request->Statistics().connected_peers, 1u);
}

TEST_F(RingSocketTest, PublishesOneBlockToAllSubscribers) {
  auto publish = Bind(*one_, Pattern::kPublish, "ring://data");
  std::vector<std::unique_ptr<Socket>> subscribers;
  for (int i = 0; i < 8; ++i) {
    subscribers.push_back(Connect(*two_, Pattern::kSubscribe, "ring://data"));
  }
  ASSERT_EQ(publish->Send(Filled(*one_, 1 << 20, 5), Soon()), SocketResult::kOk);
  EXPECT_EQ(one_->Usage().used_blocks, 1u);
  std::vector<Message> messages(8);
  for (size_t i = 0; i < 8; ++i) {
    ASSERT_EQ(subscribers[i]->Receive(&messages[i], Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(messages[i], 1 << 20, 5));
    EXPECT_TRUE(messages[i].shared());
    EXPECT_EQ(messages[i].data(), messages[0].data());
  }
  for (size_t i = 0; i < 7; ++i) messages[i].Release();
  EXPECT_EQ(one_->Usage().used_blocks, 1u);
  // Writing needs a copy.
  const std::byte* const before = messages[7].data();
  EXPECT_NE(messages[7].mutable_bytes().data(), before);
  EXPECT_FALSE(messages[7].shared());
  EXPECT_TRUE(IsFilled(messages[7], 1 << 20, 5));
  messages[7].Release();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(RingSocketTest, SendsOnASharedMessage) {
  auto publish = Bind(*one_, Pattern::kPublish, "ring://data");
  auto a = Connect(*two_, Pattern::kSubscribe, "ring://data");
  auto b = Connect(*two_, Pattern::kSubscribe, "ring://data");
  auto push = Bind(*two_, Pattern::kPush, "ring://on");
  auto pull = Connect(*one_, Pattern::kPull, "ring://on");
  ASSERT_EQ(publish->Send(Filled(*one_, 100, 5), Soon()), SocketResult::kOk);
  Message message;
  ASSERT_EQ(a->Receive(&message, Soon()), SocketResult::kOk);
  ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 100, 5));
  ASSERT_EQ(publish->Send(std::move(message), Soon()), SocketResult::kOk);
  for (Socket* socket : {a.get(), b.get(), b.get()}) {
    ASSERT_EQ(socket->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(message, 100, 5));
  }
  message.Release();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(RingSocketTest, TreatsASlowSubscriberAsItWants) {
  auto publish = Bind(*one_, Pattern::kPublish, "ring://data");
  SocketOptions options = Capacity(2);
  options.slow_policy = SlowPolicy::kDropNewest;
  auto newest = Connect(*two_, Pattern::kSubscribe, "ring://data", options);
  options.slow_policy = SlowPolicy::kDropOldest;
  auto oldest = Connect(*two_, Pattern::kSubscribe, "ring://data", options);
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(SendNumber(*one_, *publish, i), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*newest), 0u);
  EXPECT_EQ(ReceiveNumber(*newest), 1u);
  EXPECT_TRUE(NothingComes(*newest));
  EXPECT_EQ(ReceiveNumber(*oldest), 3u);
  EXPECT_EQ(ReceiveNumber(*oldest), 4u);
  EXPECT_TRUE(NothingComes(*oldest));
  options.slow_policy = SlowPolicy::kBlock;
  auto block = Connect(*two_, Pattern::kSubscribe, "ring://data", options);
  ASSERT_EQ(SendNumber(*one_, *publish, 5), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*one_, *publish, 6), SocketResult::kOk);
  EXPECT_EQ(SendNumber(*one_, *publish, 7), SocketResult::kWouldBlock);
  EXPECT_EQ(ReceiveNumber(*oldest), 5u);
  EXPECT_EQ(ReceiveNumber(*block), 5u);
  ASSERT_EQ(SendNumber(*one_, *publish, 8), SocketResult::kOk);
  const SocketStatistics statistics = publish->Statistics();
  EXPECT_GE(statistics.dropped_messages, 6u);
  ASSERT_EQ(statistics.peers.size(), 3u);
  EXPECT_EQ(statistics.peers[0].depth, 2u);
  publish.reset();
  newest.reset();
  oldest.reset();
  block.reset();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

std::vector<Message> MakeParts(Transport& transport, size_t count) {
  std::vector<Message> parts;
  for (size_t i = 0; i < count; ++i) {
    // Every third part is empty.
    Message message = *transport.Allocate(i % 3 == 2 ? 0 : sizeof(i));
    if (!message.empty()) std::memcpy(message.mutable_bytes().data(), &i, sizeof(i));
    parts.push_back(std::move(message));
  }
  return parts;
}

bool AreParts(const std::vector<Message>& parts, size_t count) {
  if (parts.size() != count) return false;
  for (size_t i = 0; i < count; ++i) {
    if (i % 3 == 2
            ? !parts[i].empty()
            : parts[i].size() != sizeof(i) || std::memcmp(parts[i].data(), &i, sizeof(i)) != 0) {
      return false;
    }
  }
  return true;
}

TEST_F(RingSocketTest, CountsWhatWaitsOnEitherSideOfEachRing) {
  auto pull = Bind(*two_, Pattern::kPull, "ring://data");
  auto few = Connect(*one_, Pattern::kPush, "ring://data", Capacity(8));
  auto many = Connect(*one_, Pattern::kPush, "ring://data");
  const auto depths = [](const Socket& socket) {
    std::vector<uint64_t> all;
    for (const PeerStatistics& peer : socket.Statistics().peers) all.push_back(peer.depth);
    std::sort(all.begin(), all.end());
    return all;
  };
  // Also before the receiver has looked, and where the ring is full or used again.
  for (uint64_t round = 0; round < 5; ++round) {
    for (uint64_t i = 0; i < 8; ++i) ASSERT_EQ(SendNumber(*one_, *few, i), SocketResult::kOk);
    for (uint64_t i = 0; i < 700; ++i) ASSERT_EQ(SendNumber(*one_, *many, i), SocketResult::kOk);
    EXPECT_EQ(depths(*pull), (std::vector<uint64_t>{8, 700}));
    EXPECT_EQ(depths(*few), std::vector<uint64_t>{8});
    EXPECT_EQ(depths(*many), std::vector<uint64_t>{700});
    for (int i = 0; i < 4; ++i) (void)ReceiveNumber(*pull);
    EXPECT_EQ(depths(*pull), (std::vector<uint64_t>{6, 698}));
    for (int i = 0; i < 704; ++i) (void)ReceiveNumber(*pull);
    EXPECT_EQ(depths(*pull), (std::vector<uint64_t>{0, 0}));
  }
}

TEST_F(RingSocketTest, BlamesNobodyForWhatAPublisherTakesBack) {
  auto publish = Bind(*one_, Pattern::kPublish, "ring://data");
  SocketOptions options = Capacity(1);
  options.topics = {""};
  options.slow_policy = SlowPolicy::kDropOldest;
  auto subscribe = Connect(*two_, Pattern::kSubscribe, "ring://data", options);
  constexpr uint64_t kLast = 50'000;
  std::thread publisher([&] {
    for (uint64_t i = 0; i <= kLast; ++i) {
      ASSERT_EQ(SendNumber(*one_, *publish, i), SocketResult::kOk);
    }
  });
  while (ReceiveNumber(*subscribe) < kLast) {
  }
  publisher.join();
  EXPECT_EQ(subscribe->Statistics().stale_handles, 0u);
  EXPECT_EQ(subscribe->Statistics().refused_peers.size(), 0u);
}

TEST_F(RingSocketTest, CarriesManyPartsAsOneMessage) {
  auto push = Bind(*one_, Pattern::kPush, "ring://data", Capacity(2));
  auto pull = Connect(*two_, Pattern::kPull, "ring://data");
  std::vector<Message> received;
  for (const size_t count : {size_t{1}, size_t{2}, size_t{16}, size_t{4096}}) {
    std::vector<Message> parts = MakeParts(*one_, count);
    ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
    for (const Message& part : parts) EXPECT_TRUE(part.empty());
    ASSERT_EQ(pull->ReceiveParts(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(AreParts(received, count)) << count;
  }
  received.clear();
  EXPECT_EQ(push->TrySendParts({}), SocketResult::kPartCount);
  std::vector<Message> many(4097);
  EXPECT_EQ(push->TrySendParts(many), SocketResult::kPartCount);
  // All or nothing.
  for (int i = 0; i < 2; ++i) {
    std::vector<Message> parts = MakeParts(*one_, 4);
    ASSERT_EQ(push->TrySendParts(parts), SocketResult::kOk);
  }
  std::vector<Message> parts = MakeParts(*one_, 4);
  EXPECT_EQ(push->TrySendParts(parts), SocketResult::kWouldBlock);
  EXPECT_TRUE(AreParts(parts, 4));
  parts.clear();
  // One by one.
  for (size_t i = 0; i < 4; ++i) {
    Message message;
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_EQ(message.empty(), i == 2);
  }
  // The rest is unread when all is closed.
  push.reset();
  pull.reset();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_F(RingSocketTest, PublishesManyPartsAndRepliesWithThem) {
  auto publish = Bind(*one_, Pattern::kPublish, "ring://data");
  auto a = Connect(*two_, Pattern::kSubscribe, "ring://data");
  auto b = Connect(*two_, Pattern::kSubscribe, "ring://data");
  std::vector<Message> parts = MakeParts(*one_, 16);
  ASSERT_EQ(publish->SendParts(parts, Soon()), SocketResult::kOk);
  std::vector<Message> received;
  for (Socket* socket : {a.get(), b.get()}) {
    ASSERT_EQ(socket->ReceiveParts(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(AreParts(received, 16));
  }
  received.clear();
  auto reply = Bind(*one_, Pattern::kReply, "ring://ask");
  auto request = Connect(*two_, Pattern::kRequest, "ring://ask");
  parts = MakeParts(*two_, 5);
  ASSERT_EQ(request->SendParts(parts, Soon()), SocketResult::kOk);
  ASSERT_EQ(reply->ReceiveParts(&received, Soon()), SocketResult::kOk);
  ASSERT_EQ(reply->SendParts(received, Soon()), SocketResult::kOk);
  ASSERT_EQ(request->ReceiveParts(&received, Soon()), SocketResult::kOk);
  EXPECT_TRUE(AreParts(received, 5));
  received.clear();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

}  // namespace
}  // namespace handoff

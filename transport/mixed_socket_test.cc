// SPDX-License-Identifier: Apache-2.0
// Sockets that have addresses of rings and of ZeroMQ at once.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/poller.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class MixedSocketTest : public SessionFixture {
 protected:
  // Bound at a ring and at ZeroMQ.
  std::unique_ptr<Socket> BindBoth(Pattern pattern, const SocketOptions& options = PatientOptions(),
                                   std::string_view name = "a") {
    auto socket = Bind(*one_, pattern, "ring://data", options);
    const absl::Status status = socket->Bind(Address(name));
    EXPECT_TRUE(status.ok()) << status;
    return socket;
  }
  SocketResult SendNumber(Socket& socket, uint64_t number) { return Send(*one_, socket, number); }
  static SocketResult Send(Transport& transport, Socket& socket, uint64_t number) {
    Message message = *transport.Allocate(sizeof(number), {.deadline = Soon()});
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

  std::unique_ptr<Transport> one_ = OpenTransport();
  std::unique_ptr<Transport> two_ = OpenTransport();
};

TEST_F(MixedSocketTest, GivesThePartsOfOneMessageOneAfterTheOther) {
  auto pull = BindBoth(Pattern::kPull);
  auto ring = Connect(*two_, Pattern::kPush, "ring://data");
  auto zeromq = Connect(*two_, Pattern::kPush, Address());
  constexpr size_t kParts = 3;
  for (Socket* const socket : {zeromq.get(), ring.get(), zeromq.get(), ring.get()}) {
    Message parts[kParts];
    for (size_t i = 0; i < kParts; ++i) {
      parts[i] = Filled(*two_, socket == ring.get() ? 10 : 20, i);
    }
    ASSERT_EQ(socket->SendParts(parts, Soon()), SocketResult::kOk);
  }
  ASSERT_TRUE(WaitFor([&] { return pull->Ready().receive; }));
  Message message;
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    const size_t size_bytes = message.size();
    EXPECT_TRUE(IsFilled(message, size_bytes, 0));
    for (size_t part = 1; part < kParts; ++part) {
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_TRUE(IsFilled(message, size_bytes, part)) << i << " " << part;
    }
  }
}

TEST_F(MixedSocketTest, DealsToAllPeersInTurn) {
  auto push = BindBoth(Pattern::kPush);
  EXPECT_EQ(push->LastEndpoint(), Address());
  auto ring_a = Connect(*two_, Pattern::kPull, "ring://data");
  auto ring_b = Connect(*two_, Pattern::kPull, "ring://data");
  auto zeromq = Connect(*two_, Pattern::kPull, Address());
  ASSERT_TRUE(WaitFor([&] { return push->Statistics().connected_peers == 3; }));
  for (uint64_t i = 0; i < 31; ++i) ASSERT_EQ(SendNumber(*push, i), SocketResult::kOk);
  Socket* const peers[] = {ring_a.get(), ring_b.get(), zeromq.get()};
  uint64_t counts[] = {0, 0, 0};
  uint64_t sum = 0;
  ASSERT_TRUE(WaitFor([&] {
    Message message;
    for (size_t i = 0; i < 3; ++i) {
      while (peers[i]->TryReceive(&message) == SocketResult::kOk) {
        uint64_t number = 0;
        std::memcpy(&number, message.data(), sizeof(number));
        sum += number;
        ++counts[i];
      }
    }
    return counts[0] + counts[1] + counts[2] == 31;
  }));
  EXPECT_EQ(sum, 30u * 31 / 2);
  // ZeroMQ may know of a connection a moment later than it tells of it.
  for (const uint64_t count : counts) EXPECT_GE(count, 8u);
  EXPECT_EQ(push->Statistics().messages_sent, 31u);
}

TEST_F(MixedSocketTest, SendsToWhoHasRoom) {
  SocketOptions few = PatientOptions();
  few.send_high_water_mark = few.receive_high_water_mark = 2;
  auto push = BindBoth(Pattern::kPush, few);
  Message message;
  EXPECT_EQ(push->TrySend(Message()), SocketResult::kWouldBlock);
  // What a busy machine takes from the making of a deadline to the wait is not counted: then again.
  EXPECT_TRUE(WaitFor([&] {
    const absl::Duration before = push->Statistics().send_blocked;
    EXPECT_EQ(push->Send(Message(), Deadline::After(absl::Milliseconds(5))),
              SocketResult::kTimedOut);
    return push->Statistics().send_blocked - before >= absl::Milliseconds(5);
  }));
  auto ring = Connect(*two_, Pattern::kPull, "ring://data", few);
  ASSERT_EQ(SendNumber(*push, 0), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*push, 1), SocketResult::kOk);
  EXPECT_EQ(push->TrySend(Message()), SocketResult::kWouldBlock);
  // Waits until either has room.
  std::thread receiver([&] {
    absl::SleepFor(absl::Milliseconds(2));
    EXPECT_EQ(ReceiveNumber(*ring), 0u);
  });
  ASSERT_EQ(SendNumber(*push, 2), SocketResult::kOk);
  receiver.join();
  std::thread late([&] {
    auto zeromq = Connect(*two_, Pattern::kPull, Address(), few);
    EXPECT_EQ(ReceiveNumber(*zeromq), 3u);
  });
  ASSERT_EQ(SendNumber(*push, 3), SocketResult::kOk);
  late.join();
}

TEST_F(MixedSocketTest, TakesFromBothInTurnAndWaitsForBoth) {
  auto pull = BindBoth(Pattern::kPull);
  auto ring = Connect(*one_, Pattern::kPush, "ring://data");
  auto zeromq = Connect(*one_, Pattern::kPush, Address());
  constexpr uint64_t kCount = 20;
  for (uint64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(SendNumber(*ring, i), SocketResult::kOk);
    ASSERT_EQ(SendNumber(*zeromq, 100 + i), SocketResult::kOk);
  }
  uint64_t next_ring = 0;
  uint64_t next_zeromq = 100;
  for (uint64_t i = 0; i < 2 * kCount; ++i) {
    const uint64_t number = ReceiveNumber(*pull);
    EXPECT_EQ(number, number < 100 ? next_ring++ : next_zeromq++);
  }
  // Asleep, and woken by either.
  for (int i = 0; i < 200; ++i) {
    Socket& sender = i % 3 == 0 ? *zeromq : *ring;
    std::thread later([&] {
      if (i % 2 == 0) absl::SleepFor(absl::Microseconds(100));
      EXPECT_EQ(SendNumber(sender, 7), SocketResult::kOk);
    });
    EXPECT_EQ(ReceiveNumber(*pull), 7u);
    later.join();
  }
  Message message;
  EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
  EXPECT_EQ(pull->Receive(&message, Deadline::After(absl::Milliseconds(2))),
            SocketResult::kTimedOut);
  std::thread interrupter([&] { pull->Interrupt(); });
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  interrupter.join();
  EXPECT_EQ(pull->Statistics().connected_peers, 2u);
}

// What comes while a call is awake, after it has fallen asleep, and where it never stays awake.
TEST_F(MixedSocketTest, StaysAwakeAsLongAsItsOptionsSay) {
  for (const absl::Duration spin :
       {absl::ZeroDuration(), absl::Microseconds(50), absl::Seconds(1)}) {
    SocketOptions options = PatientOptions();
    options.spin = spin;
    const std::string name = absl::FormatDuration(spin);
    auto pull = BindBoth(Pattern::kPull, options, name);
    auto ring = Connect(*one_, Pattern::kPush, "ring://data");
    auto zeromq = Connect(*one_, Pattern::kPush, Address(name));
    for (int i = 0; i < 100; ++i) {
      Socket& sender = i % 3 == 0 ? *zeromq : *ring;
      std::thread later([&] {
        if (i % 2 == 0) absl::SleepFor(absl::Microseconds(100));
        EXPECT_EQ(SendNumber(sender, 7), SocketResult::kOk);
      });
      EXPECT_EQ(ReceiveNumber(*pull), 7u);
      later.join();
    }
    Message message;
    EXPECT_EQ(pull->Receive(&message, Deadline::After(absl::Milliseconds(2))),
              SocketResult::kTimedOut);
    std::thread interrupter([&] { pull->Interrupt(); });
    EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
    interrupter.join();
    // The descriptor tells of both after that, as before.
    auto poller = *Poller::Create();
    PollItem item{.socket = pull.get()};
    for (Socket* sender : {ring.get(), zeromq.get()}) {
      EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
      ASSERT_EQ(SendNumber(*sender, 8), SocketResult::kOk);
      ASSERT_EQ(poller->Wait({&item, 1}, Soon()), SocketResult::kOk);
      EXPECT_EQ(ReceiveNumber(*pull), 8u);
    }
  }
}

TEST_F(MixedSocketTest, RepliesWhereTheRequestCameFrom) {
  auto reply = BindBoth(Pattern::kReply);
  auto ring = Connect(*two_, Pattern::kRequest, "ring://data");
  auto zeromq = Connect(*two_, Pattern::kRequest, Address());
  for (uint64_t i = 0; i < 20; ++i) {
    Socket& asker = i % 3 == 0 ? *zeromq : *ring;
    ASSERT_EQ(Send(*two_, asker, i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*reply), i);
    ASSERT_EQ(SendNumber(*reply, 100 + i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(asker), 100 + i);
  }
  // Both ask at once: each gets the reply to its own.
  ASSERT_EQ(Send(*two_, *zeromq, 1), SocketResult::kOk);
  ASSERT_EQ(Send(*two_, *ring, 2), SocketResult::kOk);
  for (int i = 0; i < 2; ++i) {
    const uint64_t number = ReceiveNumber(*reply);
    ASSERT_EQ(SendNumber(*reply, 10 * number), SocketResult::kOk);
  }
  EXPECT_EQ(ReceiveNumber(*zeromq), 10u);
  EXPECT_EQ(ReceiveNumber(*ring), 20u);
  // Who has replied has nobody left to reply to.
  EXPECT_EQ(reply->TrySend(Message()), SocketResult::kWouldBlock);
}

TEST_F(MixedSocketTest, AsksRepliersOfBothKinds) {
  auto request = BindBoth(Pattern::kRequest);
  auto ring = Connect(*two_, Pattern::kReply, "ring://data");
  auto zeromq = Connect(*two_, Pattern::kReply, Address());
  ASSERT_TRUE(WaitFor([&] { return request->Statistics().connected_peers == 2; }));
  int asked[] = {0, 0};
  for (uint64_t i = 0; i < 20; ++i) {
    ASSERT_EQ(SendNumber(*request, i), SocketResult::kOk);
    Message question;
    Socket* replier = nullptr;
    ASSERT_TRUE(WaitFor([&] {
      for (Socket* one : {ring.get(), zeromq.get()}) {
        if (one->TryReceive(&question) == SocketResult::kOk) replier = one;
      }
      return replier != nullptr;
    }));
    ++asked[replier == ring.get() ? 0 : 1];
    ASSERT_EQ(Send(*two_, *replier, 100 + i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*request), 100 + i);
  }
  EXPECT_GE(asked[0], 5);
  EXPECT_GE(asked[1], 5);
  // One has gone: the other is asked.
  ring->Close();
  ASSERT_TRUE(WaitFor([&] { return request->Statistics().connected_peers == 1; }));
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(SendNumber(*request, i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*zeromq), i);
    ASSERT_EQ(Send(*two_, *zeromq, 200 + i), SocketResult::kOk);
    EXPECT_EQ(ReceiveNumber(*request), 200 + i);
  }
}

TEST_F(MixedSocketTest, IsWaitedForByAPoller) {
  auto pull = BindBoth(Pattern::kPull);
  auto ring = Connect(*one_, Pattern::kPush, "ring://data");
  auto zeromq = Connect(*one_, Pattern::kPush, Address());
  auto poller = *Poller::Create();
  PollItem item{.socket = pull.get()};
  for (Socket* sender : {ring.get(), zeromq.get(), zeromq.get(), ring.get()}) {
    EXPECT_EQ(poller->Wait({&item, 1}, Deadline::Passed()), SocketResult::kTimedOut);
    std::thread later([&] { EXPECT_EQ(SendNumber(*sender, 7), SocketResult::kOk); });
    ASSERT_EQ(poller->Wait({&item, 1}, Soon()), SocketResult::kOk);
    EXPECT_TRUE(item.ready.receive);
    EXPECT_EQ(ReceiveNumber(*pull), 7u);
    later.join();
  }
}

TEST_F(MixedSocketTest, RefusesWhatCannotBeMixedAndChangesNothing) {
  auto pair = Bind(*one_, Pattern::kPair, "ring://pair");
  const absl::Status refused = pair->Connect(Address());
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("PAIR"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(Address()));
  auto publish = Bind(*one_, Pattern::kPublish, "ring://news");
  EXPECT_THAT(std::string(publish->Bind(Address()).message()), HasSubstr("ring://"));
  auto push = Bind(*one_, Pattern::kPush, "ring://data");
  EXPECT_FALSE(push->Bind("ipc:///no/such/folder/x").ok());
  EXPECT_EQ(push->LastEndpoint(), "ring://data");
  ASSERT_TRUE(push->Descriptor().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(push->Bind(Address())));
  auto pull = Connect(*two_, Pattern::kPull, "ring://data");
  ASSERT_EQ(SendNumber(*push, 5), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pull), 5u);
}

TEST_F(MixedSocketTest, EndsAllOfItWithTheSocket) {
  auto push = BindBoth(Pattern::kPush);
  auto ring = Connect(*two_, Pattern::kPull, "ring://data");
  ASSERT_EQ(SendNumber(*push, 1), SocketResult::kOk);
  push->Close();
  EXPECT_EQ(push->TrySend(Message()), SocketResult::kClosed);
  EXPECT_EQ(push->Statistics().messages_sent, 1u);
  EXPECT_EQ(ReceiveNumber(*ring), 1u);
  auto next = *one_->CreateSocket(Pattern::kPush);
  EXPECT_TRUE(next->Bind("ring://data").ok());
  EXPECT_TRUE(WaitFor([&] { return next->Bind(Address()).ok(); }));
}

}  // namespace
}  // namespace handoff

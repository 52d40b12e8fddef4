// SPDX-License-Identifier: Apache-2.0
// Sockets between processes, and what is left when one of them is killed.
#include <signal.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

class SocketProcessTest : public SessionFixture {
 protected:
  // A child with a transport of its own.
  ChildProcess Member(const std::function<void(Transport&)>& body) {
    return ChildProcess::Start([this, body] {
      auto transport = OpenTransport();
      body(*transport);
      return 0;
    });
  }

  // Forwards what comes, unchanged, until an empty message comes.
  static void Forward(Socket& from, Socket& to) {
    Message message;
    do {
      ASSERT_EQ(from.Receive(&message, Soon()), SocketResult::kOk);
      const bool last = message.empty();
      ASSERT_EQ(to.Send(std::move(message), Soon()), SocketResult::kOk);
      if (last) break;
    } while (true);
  }

  // A sender ends, or is killed when the system has its handles, before anything of it is received.
  struct Departure {
    bool killed;
    bool sender_binds;
  };
  void DeliverWithoutSender(const Departure& departure) {
    const bool killed = departure.killed;
    auto transport = OpenTransport();
    auto pull = departure.sender_binds ? Connect(*transport, Pattern::kPull, Address())
                                       : Bind(*transport, Pattern::kPull, Address());
    ChildProcess sender = Member([&](Transport& mine) {
      if (killed) ArmCrashPoint("zeromq.context.after_term");
      auto push = departure.sender_binds ? Bind(mine, Pattern::kPush, Address())
                                         : Connect(mine, Pattern::kPush, Address());
      for (uint64_t i = 0; i < 100; ++i) {
        ASSERT_EQ(push->Send(Filled(mine, 1000, i), Soon()), SocketResult::kOk);
      }
    });
    ASSERT_EQ(sender.Wait(), killed ? ChildExit::Signal(SIGKILL) : ChildExit::Code(0));
    Message message;
    for (uint64_t i = 0; i < 100; ++i) {
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << i;
      EXPECT_TRUE(IsFilled(message, 1000, i));
    }
    message.Release();
    ExpectSegmentWhole();
  }

  static void SleepForEver() {
    while (true) absl::SleepFor(absl::Hours(1));
  }
};

TEST_F(SocketProcessTest, ForwardsOneBlockThroughSeveralProcessesWithoutACopy) {
  auto transport = OpenTransport();
  auto out = Bind(*transport, Pattern::kPush, Address("0"));
  auto in = Bind(*transport, Pattern::kPull, Address("3"));
  std::vector<ChildProcess> forwarders;
  for (int i = 0; i < 3; ++i) {
    forwarders.push_back(Member([this, i](Transport& mine) {
      auto from = Connect(mine, Pattern::kPull, Address(std::to_string(i)));
      auto to = i == 2 ? Connect(mine, Pattern::kPush, Address("3"))
                       : Bind(mine, Pattern::kPush, Address(std::to_string(i + 1)));
      Forward(*from, *to);
    }));
  }
  for (const size_t size : {size_t{1}, size_t{1000}, size_t{10} << 20}) {
    Message message = Filled(*transport, size, size);
    const std::byte* const data = message.data();
    ASSERT_EQ(out->Send(std::move(message), Soon()), SocketResult::kOk);
    ASSERT_EQ(in->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_EQ(message.data(), data);
    EXPECT_TRUE(IsFilled(message, size, size));
  }
  ASSERT_EQ(out->Send(Message(), Soon()), SocketResult::kOk);
  Message last;
  ASSERT_EQ(in->Receive(&last, Soon()), SocketResult::kOk);
  for (ChildProcess& forwarder : forwarders) EXPECT_EQ(forwarder.Wait(), ChildExit::Code(0));
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, LosesNothingAndKeepsTheOrderOverAHundredThousandMessages) {
  constexpr uint64_t kMessages = 100'000;
  const auto size_of = [](uint64_t i) { return static_cast<size_t>(8 + i * 7919 % 2000); };
  auto transport = OpenTransport();
  auto pull = Bind(*transport, Pattern::kPull, Address());
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Connect(mine, Pattern::kPush, Address());
    for (uint64_t i = 0; i < kMessages; ++i) {
      Message message;
      ASSERT_EQ(mine.TryAllocate(size_of(i), &message), AllocateResult::kOk);
      std::memcpy(message.mutable_bytes().data(), &i, sizeof(i));
      ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
    }
    EXPECT_EQ(push->Statistics().messages_sent, kMessages);
  });
  Message message;
  for (uint64_t i = 0; i < kMessages; ++i) {
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk)
        << i << ", stale " << pull->Statistics().stale_handles << ", bad "
        << pull->Statistics().bad_frames << ", peers " << pull->Statistics().connected_peers
        << ", of nobody " << transport->Usage().nobodys_blocks << ", used "
        << transport->Usage().used_blocks;
    uint64_t number;
    ASSERT_EQ(message.size(), size_of(i));
    std::memcpy(&number, message.data(), sizeof(number));
    ASSERT_EQ(number, i);
  }
  message.Release();
  EXPECT_EQ(sender.Wait(), ChildExit::Code(0));
  EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
  const SocketStatistics statistics = pull->Statistics();
  EXPECT_EQ(statistics.messages_received, kMessages);
  EXPECT_EQ(statistics.bad_frames + statistics.stale_handles + statistics.foreign_frames, 0u);
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, WaitsForMemoryThatReceiversGiveBack) {
  // Sixteen messages fit, a thousand are sent.
  constexpr int kMessages = 1000;
  auto transport = OpenTransport();
  auto pull = Bind(*transport, Pattern::kPull, Address());
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Connect(mine, Pattern::kPush, Address());
    for (int i = 0; i < kMessages; ++i) {
      auto message = mine.Allocate(4 << 20, {.deadline = Soon()});
      ASSERT_TRUE(message.ok()) << message.status().ToString();
      message->mutable_bytes()[0] = std::byte(i & 0xFF);
      ASSERT_EQ(push->Send(*std::move(message), Soon()), SocketResult::kOk);
    }
  });
  Message message;
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    ASSERT_EQ(message.bytes()[0], std::byte(i & 0xFF));
  }
  message.Release();
  EXPECT_EQ(sender.Wait(), ChildExit::Code(0));
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, GetsBackWhatAKilledReceiverHeld) {
  auto transport = OpenTransport();
  auto push = Bind(*transport, Pattern::kPush, Address());
  ProcessSignal has_it;
  ChildProcess receiver = Member([&](Transport& mine) {
    auto pull = Connect(mine, Pattern::kPull, Address());
    Message message;
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    has_it.Signal();
    SleepForEver();
  });
  ASSERT_EQ(push->Send(Filled(*transport, 40 << 20, 1), Soon()), SocketResult::kOk);
  ASSERT_TRUE(has_it.Wait());
  EXPECT_FALSE(transport->Allocate(40 << 20).ok());
  receiver.Kill();
  EXPECT_TRUE(transport->Allocate(40 << 20, {.deadline = Soon()}).ok());
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, DeliversWhatASenderHadSentThatHasLeft) {
  DeliverWithoutSender({.killed = false, .sender_binds = false});
  DeliverWithoutSender({.killed = false, .sender_binds = true});
}

TEST_F(SocketProcessTest, DeliversWhatASenderHadSentThatWasKilled) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  DeliverWithoutSender({.killed = true, .sender_binds = false});
  DeliverWithoutSender({.killed = true, .sender_binds = true});
}

TEST_F(SocketProcessTest, DeliversWhatHadNoRoomInTheReceiversQueueWhenItsSenderLeft) {
  constexpr uint64_t kAtLeast = 1024;
  for (const bool binds : {false, true}) {
    for (const bool stays : {false, true}) {
      auto transport = OpenTransport();
      SocketOptions options = PatientOptions();
      options.receive_high_water_mark = 1;
      auto pull = binds ? Connect(*transport, Pattern::kPull, Address(), options)
                        : Bind(*transport, Pattern::kPull, Address(), options);
      ProcessSignal closed;
      ProcessSignal received;
      ChildProcess sender = Member([&](Transport& mine) {
        auto push = binds ? Bind(mine, Pattern::kPush, Address())
                          : Connect(mine, Pattern::kPush, Address());
        // As many as the queues and the buffers of the system take.
        uint64_t sent = 0;
        const auto send = [&](const Deadline& deadline) {
          auto message = mine.Allocate(sizeof(sent));
          ASSERT_TRUE(message.ok()) << message.status().ToString();
          std::memcpy(message->mutable_bytes().data(), &sent, sizeof(sent));
          if (push->Send(*std::move(message), deadline) == SocketResult::kOk) ++sent;
        };
        for (uint64_t i = 0; i < kAtLeast; ++i) send(Soon());
        for (uint64_t before = 0; before != sent;) {
          before = sent;
          send(Deadline::After(absl::Milliseconds(10)));
        }
        EXPECT_GE(sent, kAtLeast);
        push->Close();
        closed.Signal();
        if (stays) {
          EXPECT_TRUE(received.Wait());
        }
      });
      ASSERT_TRUE(closed.Wait());
      // Time to lose something.
      absl::SleepFor(absl::Milliseconds(20));
      Message message;
      const uint64_t posted = transport->Usage().used_blocks;
      EXPECT_GE(posted, kAtLeast);
      for (uint64_t i = 0; i < posted; ++i) {
        ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << i << " of " << posted;
        uint64_t number;
        ASSERT_EQ(message.size(), sizeof(number));
        std::memcpy(&number, message.data(), sizeof(number));
        ASSERT_EQ(number, i);
      }
      message.Release();
      EXPECT_TRUE(WaitFor([&] { return pull->Statistics().connected_peers == 0; }));
      received.Signal();
      EXPECT_EQ(sender.Wait(), ChildExit::Code(0));
      ExpectSegmentWhole();
    }
  }
}

TEST_F(SocketProcessTest, EndsAfterItsLingerWhenTheReceiverReadsNothing) {
  auto transport = OpenTransport();
  SocketOptions options;
  options.receive_high_water_mark = 1;
  options.linger = absl::Milliseconds(20);
  auto pull = Bind(*transport, Pattern::kPull, Address(), options);
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Connect(mine, Pattern::kPush, Address(), options);
    for (int i = 0; i < 1000; ++i) {
      ASSERT_EQ(push->Send(Filled(mine, 10, 1), Soon()), SocketResult::kOk);
    }
  });
  EXPECT_EQ(sender.Wait(), ChildExit::Code(0));
}

TEST_F(SocketProcessTest, SendsToTheOtherReceiversWhenOneIsGone) {
  auto transport = OpenTransport();
  auto push = Bind(*transport, Pattern::kPush, Address());
  ProcessSignal connected;
  ChildProcess gone = Member([&](Transport& mine) {
    auto pull = Connect(mine, Pattern::kPull, Address());
    ASSERT_TRUE(WaitFor([&] { return pull->Statistics().connected_peers == 1; }));
    connected.Signal();
    SleepForEver();
  });
  ASSERT_TRUE(connected.Wait());
  // Seen here, too: before that there is no peer either.
  ASSERT_TRUE(WaitFor([&] { return push->Statistics().connected_peers == 1; }));
  gone.Kill();
  gone.Wait();
  ASSERT_TRUE(WaitFor([&] { return push->Statistics().connected_peers == 0; }));
  // ZeroMQ reports the loss a moment before it takes the peer's queue away; what is sent in between
  // goes with that.
  ASSERT_TRUE(WaitFor(
      [&] { return push->TrySend(Filled(*transport, 10, 1)) == SocketResult::kWouldBlock; }));
  EXPECT_EQ(push->Send(Filled(*transport, 10, 1), Deadline::After(absl::Milliseconds(20))),
            SocketResult::kTimedOut);
  ChildProcess other = Member([&](Transport& mine) {
    auto pull = Connect(mine, Pattern::kPull, Address());
    Message message;
    for (uint64_t i = 0; i < 10; ++i) {
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_TRUE(IsFilled(message, 10, i));
    }
  });
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_EQ(push->Send(Filled(*transport, 10, i), Soon()), SocketResult::kOk);
  }
  EXPECT_EQ(other.Wait(), ChildExit::Code(0));
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, ConnectsAgainWhenTheBoundSideWasKilledAndComesBackAtThePathItLeft) {
  const std::string address = FileAddress("socket");
  auto transport = OpenTransport();
  auto push = Connect(*transport, Pattern::kPush, address);
  for (uint64_t round = 0; round < 3; ++round) {
    ProcessSignal received;
    ChildProcess receiver = Member([&](Transport& mine) {
      auto pull = Bind(mine, Pattern::kPull, address);
      Message message;
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_TRUE(IsFilled(message, 100, round));
      received.Signal();
      if (round < 2) SleepForEver();
    });
    ASSERT_EQ(push->Send(Filled(*transport, 100, round), Soon()), SocketResult::kOk);
    ASSERT_TRUE(received.Wait());
    if (round < 2) receiver.Kill();
    ASSERT_EQ(receiver.Wait(), round < 2 ? ChildExit::Signal(SIGKILL) : ChildExit::Code(0));
    ASSERT_TRUE(WaitFor([&] { return push->Statistics().connected_peers == 0; }));
  }
  struct stat file {};
  EXPECT_NE(stat(address.substr(sizeof("ipc://") - 1).c_str(), &file), 0);
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, KeepsASessionWholeWhenAReceiverIsKilledBetweenTheStepsOfAReceive) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  auto transport = OpenTransport();
  ChildProcess receiver = Member([&](Transport& mine) {
    auto pull = Bind(mine, Pattern::kPull, Address());
    ArmCrashPoint("segment.accept.after_hold", 5);
    Message message;
    while (pull->Receive(&message, Soon()) == SocketResult::kOk) continue;
  });
  auto push = Connect(*transport, Pattern::kPush, Address());
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(push->Send(Filled(*transport, 100, 1), Soon()), SocketResult::kOk);
  }
  EXPECT_EQ(receiver.Wait(), ChildExit::Signal(SIGKILL));
  push.reset();
  ExpectSegmentWhole();
}

TEST_F(SocketProcessTest, DeliversTheMessageOfASenderKilledRightAfterTheSend) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  auto transport = OpenTransport();
  auto pull = Bind(*transport, Pattern::kPull, Address());
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Connect(mine, Pattern::kPush, Address());
    ASSERT_TRUE(WaitFor([&] { return push->Statistics().connected_peers == 1; }));
    ASSERT_EQ(push->Send(Filled(mine, 100, 1), Soon()), SocketResult::kOk);
    ASSERT_TRUE(WaitFor([&] { return mine.Usage().used_blocks == 0; }));
    ArmCrashPoint("zeromq.send.after_send");
    static_cast<void>(push->Send(Filled(mine, 100, 2), Soon()));
  });
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  message.Release();
  EXPECT_EQ(sender.Wait(), ChildExit::Signal(SIGKILL));
  // ZeroMQ may or may not have handed it to the system in time: it arrives, or its block waits for
  // the end of the session.
  const SocketResult result = pull->Receive(&message, Deadline::After(absl::Milliseconds(100)));
  EXPECT_TRUE(result == SocketResult::kOk ? IsFilled(message, 100, 2)
                                          : result == SocketResult::kTimedOut);
}

}  // namespace
}  // namespace handoff

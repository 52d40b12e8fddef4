// SPDX-License-Identifier: Apache-2.0
// What becomes of messages on ZeroMQ addresses that nobody is left to take.
#include <signal.h>

#include <cstdint>
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

constexpr uint64_t kSmallSegment = 8 << 20;
constexpr size_t kMessage = 256 << 10;

class ZeromqChannelTest : public SessionFixture {
 protected:
  std::unique_ptr<Transport> OpenSmall() const {
    TransportOptions options = Options();
    options.segment_size_bytes = kSmallSegment;
    return OpenTransport(options);
  }
  ChildProcess Member(const std::function<void(Transport&)>& body) {
    return ChildProcess::Start([this, body] {
      auto transport = OpenSmall();
      body(*transport);
      return 0;
    });
  }
  static void SleepForEver() {
    while (true) absl::SleepFor(absl::Hours(1));
  }
  // Connects, and never receives.
  ChildProcess LazyReceiver(const std::string& address) {
    return Member([address](Transport& mine) {
      auto pull = Connect(mine, Pattern::kPull, address);
      SleepForEver();
    });
  }
  static bool WaitForPeers(const Socket& socket, uint32_t count) {
    return WaitFor([&] { return socket.Statistics().connected_peers == count; });
  }
  // Sends until memory is full; returns how many.
  static int Fill(Transport& transport, Socket& push) {
    for (int count = 0;; ++count) {
      Message message;
      if (transport.TryAllocate(kMessage, &message) != AllocateResult::kOk) return count;
      EXPECT_EQ(push.Send(std::move(message), Soon()), SocketResult::kOk);
    }
  }
  static bool NothingIsUsed(const Transport& transport) {
    return WaitFor([&] { return transport.Usage().used_blocks == 0; });
  }
};

TEST_F(ZeromqChannelTest, FreesAtOnceWhatTheOnlyReceiverHadNotTakenWhenItWasKilled) {
  auto transport = OpenSmall();
  auto push = Bind(*transport, Pattern::kPush, Address());
  ChildProcess receiver = LazyReceiver(Address());
  ASSERT_TRUE(WaitForPeers(*push, 1));
  const int sent = Fill(*transport, *push);
  EXPECT_GT(sent, 20);
  receiver.Kill();
  EXPECT_TRUE(NothingIsUsed(*transport));
  EXPECT_EQ(transport->swept_messages(), static_cast<uint64_t>(sent));
  EXPECT_TRUE(transport->Allocate(kSmallSegment, {.deadline = Soon()}).ok());
}

TEST_F(ZeromqChannelTest, AllocatesEverythingAgainAfterOneOfTwoReceiversWasKilled) {
  auto transport = OpenSmall();
  auto push = Bind(*transport, Pattern::kPush, Address());
  auto pull = Connect(*transport, Pattern::kPull, Address());
  ChildProcess receiver = LazyReceiver(Address());
  ASSERT_TRUE(WaitForPeers(*push, 2));
  const int sent = Fill(*transport, *push);
  receiver.Kill();
  ASSERT_TRUE(WaitForPeers(*push, 1));
  // Nothing is freed as long as nobody needs it: a living receiver has its share.
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  message.Release();
  EXPECT_GT(transport->Usage().used_blocks, 0u);
  EXPECT_TRUE(transport->Allocate(kSmallSegment, {.deadline = Soon()}).ok());
  EXPECT_EQ(transport->swept_messages(), static_cast<uint64_t>(sent) - 1);
  // The handles that are still there are stale now, and the socket goes on.
  ASSERT_EQ(push->Send(Filled(*transport, 1000, 3), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 1000, 3));
  EXPECT_GT(pull->Statistics().stale_handles, 0u);
}

TEST_F(ZeromqChannelTest, KeepsTheMessagesOfALivingReceiverHoweverShortMemoryIs) {
  auto transport = OpenSmall();
  auto push = Bind(*transport, Pattern::kPush, Address());
  auto pull = Connect(*transport, Pattern::kPull, Address());
  // A death elsewhere: of somebody on another channel.
  auto other = Bind(*transport, Pattern::kPush, Address("other"));
  ChildProcess receiver = LazyReceiver(Address("other"));
  ASSERT_TRUE(WaitForPeers(*other, 1));
  const int sent = Fill(*transport, *push);
  receiver.Kill();
  receiver.Wait();
  ASSERT_TRUE(WaitForPeers(*other, 0));
  EXPECT_FALSE(
      transport->Allocate(kMessage, {.deadline = Deadline::After(absl::Milliseconds(300))}).ok());
  Message message;
  for (int i = 0; i < sent; ++i) {
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << i;
  }
  EXPECT_EQ(pull->Statistics().stale_handles, 0u);
  EXPECT_EQ(transport->swept_messages(), 0u);
}

TEST_F(ZeromqChannelTest, GetsBackWhatAReceiverThatClosesHasNotRead) {
  auto transport = OpenSmall();
  for (const std::string& address : {Address(), std::string("inproc://unread")}) {
    auto push = Bind(*transport, Pattern::kPush, address);
    auto pull = Connect(*transport, Pattern::kPull, address);
    EXPECT_GT(Fill(*transport, *push), 20);
    pull.reset();
    EXPECT_TRUE(NothingIsUsed(*transport)) << address;
  }
}

TEST_F(ZeromqChannelTest, DeliversWhatAKilledSenderHadSentUntilMemoryRunsOut) {
  auto transport = OpenSmall();
  auto pull = Bind(*transport, Pattern::kPull, Address());
  ProcessSignal filled;
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Connect(mine, Pattern::kPush, Address());
    Fill(mine, *push);
    filled.Signal();
    SleepForEver();
  });
  ASSERT_TRUE(filled.Wait());
  // All of it has arrived, when the last has.
  ASSERT_TRUE(WaitFor([&] { return pull->Statistics().connected_peers == 1; }));
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  sender.Kill();
  sender.Wait();
  ASSERT_TRUE(WaitForPeers(*pull, 0));
  ASSERT_TRUE(WaitFor([&] { return transport->Usage().nobodys_blocks > 0; }));
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  message.Release();
  EXPECT_TRUE(transport->Allocate(kSmallSegment, {.deadline = Soon()}).ok());
  EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
  EXPECT_GT(pull->Statistics().stale_handles, 0u);
}

TEST_F(ZeromqChannelTest, FreesEverythingWhenSenderAndReceiverAreKilled) {
  auto transport = OpenSmall();
  ProcessSignal filled;
  ChildProcess receiver = Member([&](Transport& mine) {
    auto pull = Bind(mine, Pattern::kPull, Address());
    SleepForEver();
  });
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Connect(mine, Pattern::kPush, Address());
    Fill(mine, *push);
    filled.Signal();
    SleepForEver();
  });
  ASSERT_TRUE(filled.Wait());
  sender.Kill();
  ASSERT_TRUE(WaitFor([&] { return transport->Usage().nobodys_blocks > 0; }));
  receiver.Kill();
  EXPECT_TRUE(NothingIsUsed(*transport));
  ExpectSegmentWhole();
}

TEST_F(ZeromqChannelTest, FreesMessagesOfManyPartsAndSharedOnesAsWell) {
  auto transport = OpenSmall();
  auto push = Bind(*transport, Pattern::kPush, Address());
  ChildProcess receiver = LazyReceiver(Address());
  ASSERT_TRUE(WaitForPeers(*push, 1));
  Message kept = Filled(*transport, 1000, 1);
  auto shared = transport->Share(&kept);
  ASSERT_TRUE(shared.ok());
  ASSERT_EQ(push->Send(*std::move(shared), Soon()), SocketResult::kOk);
  for (int i = 0; i < 10; ++i) {
    std::vector<Message> parts;
    for (int part = 0; part < 20; ++part) parts.push_back(Filled(*transport, 100, 1));
    ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  }
  receiver.Kill();
  EXPECT_TRUE(WaitFor([&] { return transport->swept_messages() == 11; }));
  EXPECT_TRUE(WaitFor([&] { return transport->Usage().used_blocks == 1; }));
  EXPECT_TRUE(IsFilled(kept, 1000, 1));
  kept.Release();
  EXPECT_EQ(transport->Usage().used_blocks, 0u);
}

TEST_F(ZeromqChannelTest, MakesRoomInTheTableOfBundlesToo) {
  auto transport = OpenSmall();
  auto push = Bind(*transport, Pattern::kPush, Address());
  auto pull = Connect(*transport, Pattern::kPull, Address());
  ChildProcess receiver = LazyReceiver(Address());
  ASSERT_TRUE(WaitForPeers(*push, 2));
  std::vector<Message> parts(4096);  // nothing but rows
  while (push->TrySendParts(parts) == SocketResult::kOk) parts.resize(4096);
  receiver.Kill();
  EXPECT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
}

// Killed at each step; those that are left do the rest.
class ZeromqChannelCrashTest : public ZeromqChannelTest,
                               public ::testing::WithParamInterface<const char*> {};

TEST_P(ZeromqChannelCrashTest, LosesNothingForGood) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  // Keeps the session, and does nothing meanwhile.
  ProcessSignal joined;
  ChildProcess witness = Member([&](Transport&) {
    joined.Signal();
    SleepForEver();
  });
  ASSERT_TRUE(joined.Wait());
  ASSERT_TRUE(witness.Stop());
  ProcessSignal connected;
  ChildProcess sender = Member([&](Transport& mine) {
    auto push = Bind(mine, Pattern::kPush, Address());
    connected.Signal();
    ASSERT_TRUE(WaitForPeers(*push, 1));
    for (int i = 0; i < 4; ++i) {
      std::vector<Message> parts;
      for (int part = 0; part < 3; ++part) parts.push_back(Filled(mine, 100, 1));
      ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
      ASSERT_EQ(push->Send(Filled(mine, 100, 1), Soon()), SocketResult::kOk);
    }
    ArmCrashPoint(GetParam());
    connected.Signal();
    // The receiver is killed now; the tick comes by the crash point, or this does.
    ASSERT_TRUE(WaitForPeers(*push, 0));
    for (int i = 0; i < 100; ++i) {
      (void)mine.Allocate(kSmallSegment, {.deadline = Deadline::After(absl::Milliseconds(50))});
    }
  });
  ASSERT_TRUE(connected.Wait());
  ChildProcess receiver = LazyReceiver(Address());
  ASSERT_TRUE(connected.Wait());
  receiver.Kill();
  receiver.Wait();
  EXPECT_EQ(sender.Wait(), ChildExit::Signal(SIGKILL));
  auto transport = OpenSmall();
  witness.Kill();
  witness.Wait();
  EXPECT_TRUE(NothingIsUsed(*transport));
  EXPECT_TRUE(transport->Allocate(kSmallSegment, {.deadline = Soon()}).ok());
  ExpectSegmentWhole();
}

INSTANTIATE_TEST_SUITE_P(All, ZeromqChannelCrashTest,
                         ::testing::Values("channel.open.after_claim", "channel.move.after_state",
                                           "channel.sweep.after_bundle", "channel.sweep.after_word",
                                           "channel.sweep.after_free"));

}  // namespace
}  // namespace handoff

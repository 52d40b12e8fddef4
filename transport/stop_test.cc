// SPDX-License-Identifier: Apache-2.0
// Processes that stand still in the middle of a channel: nothing of theirs is touched, however much
// the others want memory and reclaim the dead beside them.
#include <signal.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

constexpr uint64_t kMessages = 20;
constexpr uint64_t kKept = 3;  // in the hands of the one that stands still
constexpr size_t kBytes = 30'000;

class StopTest : public SessionFixture, public ::testing::WithParamInterface<std::string> {
 protected:
  std::string At(const std::string& name) const {
    return GetParam() == "ring" ? "ring://" + name : Address(name);
  }

  // Everything by which others get memory back: a member joins and is killed with blocks of its
  // own, which comes back; and memory runs out.
  void ReclaimAllThatIsDead(Transport& transport) {
    for (int round = 0; round < 3; ++round) {
      const uint64_t before = transport.Usage().used_blocks;
      ProcessSignal ready;
      ChildProcess dies = ChildProcess::Start([&] {
        const auto own = OpenTransport();
        std::vector<Message> held;
        for (uint64_t i = 0; i < kKept; ++i) held.push_back(Filled(*own, kBytes, i));
        ready.Signal();
        ::pause();
        return 0;
      });
      ASSERT_TRUE(ready.Wait());
      EXPECT_EQ(transport.Usage().used_blocks, before + kKept);
      dies.Kill();
      EXPECT_EQ(dies.Wait(), ChildExit::Signal(SIGKILL));
      EXPECT_TRUE(WaitFor([&] { return transport.Usage().used_blocks == before; }))
          << "what a dead one held comes back, and nothing else";
      std::vector<Message> all(1);
      while (transport.TryAllocate(kBytes, &all.back()) == AllocateResult::kOk) all.emplace_back();
    }
  }
};

TEST_P(StopTest, WhatAStoppedSenderHasSentAndHoldsStays) {
  const auto transport = OpenTransport();
  const auto pull = Bind(*transport, Pattern::kPull, At("data"));
  ProcessSignal ready;
  ProcessSignal go_on;
  ChildProcess sender = ChildProcess::Start([&] {
    const auto own = OpenTransport();
    const auto push = Connect(*own, Pattern::kPush, At("data"));
    std::vector<Message> kept;
    for (uint64_t i = 0; i < kKept; ++i) kept.push_back(Filled(*own, kBytes, kMessages + i));
    for (uint64_t i = 0; i < kMessages; ++i) {
      EXPECT_EQ(push->Send(Filled(*own, kBytes, i), Soon()), SocketResult::kOk);
    }
    ready.Signal();
    EXPECT_TRUE(go_on.Wait());
    for (uint64_t i = 0; i < kKept; ++i) {
      EXPECT_TRUE(IsFilled(kept[i], kBytes, kMessages + i)) << i;
      EXPECT_EQ(push->Send(std::move(kept[i]), Soon()), SocketResult::kOk);
    }
    push->Close();
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  ASSERT_TRUE(sender.Stop());
  Message message;
  for (uint64_t i = 0; i < kMessages; ++i) {
    if (i == kMessages / 2) {
      message.Release();
      EXPECT_EQ(transport->Usage().used_blocks, kMessages / 2 + kKept);
      ReclaimAllThatIsDead(*transport);
    }
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << i;
    EXPECT_TRUE(IsFilled(message, kBytes, i)) << i;
  }
  message.Release();
  EXPECT_EQ(transport->Usage().used_blocks, kKept);
  ReclaimAllThatIsDead(*transport);
  sender.Kill(SIGCONT);
  go_on.Signal();
  for (uint64_t i = 0; i < kKept; ++i) {
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << i;
    EXPECT_TRUE(IsFilled(message, kBytes, kMessages + i)) << i;
  }
  message.Release();
  EXPECT_EQ(sender.Wait(), ChildExit::Code(0));
  EXPECT_EQ(pull->Statistics().stale_handles, 0u);
  ExpectSegmentWhole();
}

TEST_P(StopTest, WhatIsSentToAStoppedReceiverIsThereWhenItGoesOn) {
  const auto transport = OpenTransport();
  const auto push = Bind(*transport, Pattern::kPush, At("data"));
  ProcessSignal ready;
  ProcessSignal go_on;
  ChildProcess receiver = ChildProcess::Start([&] {
    const auto own = OpenTransport();
    const auto pull = Connect(*own, Pattern::kPull, At("data"));
    std::vector<Message> kept(kKept);
    for (uint64_t i = 0; i < kKept; ++i) {
      EXPECT_EQ(pull->Receive(&kept[i], Soon()), SocketResult::kOk);
    }
    ready.Signal();
    EXPECT_TRUE(go_on.Wait());
    for (uint64_t i = 0; i < kKept; ++i) EXPECT_TRUE(IsFilled(kept[i], kBytes, i)) << i;
    Message message;
    for (uint64_t i = kKept; i < kMessages; ++i) {
      EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_TRUE(IsFilled(message, kBytes, i)) << i;
    }
    message.Release();
    EXPECT_EQ(pull->Statistics().stale_handles, 0u);
    return 0;
  });
  for (uint64_t i = 0; i < kKept; ++i) {
    ASSERT_EQ(push->Send(Filled(*transport, kBytes, i), Soon()), SocketResult::kOk);
  }
  ASSERT_TRUE(ready.Wait());
  ASSERT_TRUE(receiver.Stop());
  for (uint64_t i = kKept; i < kMessages; ++i) {
    ASSERT_EQ(push->Send(Filled(*transport, kBytes, i), Soon()), SocketResult::kOk);
  }
  EXPECT_EQ(transport->Usage().used_blocks, kMessages);
  ReclaimAllThatIsDead(*transport);
  EXPECT_EQ(transport->Usage().used_blocks, kMessages);
  receiver.Kill(SIGCONT);
  go_on.Signal();
  EXPECT_EQ(receiver.Wait(), ChildExit::Code(0));
  ExpectSegmentWhole();
}

INSTANTIATE_TEST_SUITE_P(Carrier, StopTest, ::testing::Values("ring", "ipc"),
                         [](const auto& carrier) { return carrier.param; });

}  // namespace
}  // namespace handoff

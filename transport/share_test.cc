// SPDX-License-Identifier: Apache-2.0
// One message with many owners: the bytes are there once, and go with the last of them.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

class ShareTest : public SessionFixture {
 protected:
  Message ShareOf(Message* message) {
    auto copy = transport_->Share(message);
    EXPECT_TRUE(copy.ok()) << copy.status();
    return copy.ok() ? *std::move(copy) : Message();
  }

  std::unique_ptr<Transport> transport_ = OpenTransport();
};

TEST_F(ShareTest, GivesTwoMessagesOfTheSameBytesThatNobodyWrites) {
  Message message = Filled(*transport_, 5000, 1);
  const std::byte* const data = message.data();
  Message copy = ShareOf(&message);
  EXPECT_TRUE(message.shared());
  EXPECT_TRUE(copy.shared());
  EXPECT_EQ(message.data(), data);
  EXPECT_EQ(copy.data(), data);
  EXPECT_EQ(copy.size(), 5000u);
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  EXPECT_EQ(copy.Shrink(10), ShrinkResult::kShared);
  message.Release();
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  // Still read-only: the other one may be back in another process.
  EXPECT_TRUE(copy.shared());
  copy.Release();
  EXPECT_EQ(transport_->Usage().used_blocks, 0u);
}

TEST_F(ShareTest, CopiesTheBytesWhenTheyAreToBeWritten) {
  Message message = Filled(*transport_, 5000, 1);
  Message copy = ShareOf(&message);
  copy.mutable_bytes()[0] = std::byte{1};
  EXPECT_FALSE(copy.shared());
  EXPECT_NE(copy.data(), message.data());
  EXPECT_TRUE(IsFilled(message, 5000, 1));
  EXPECT_EQ(transport_->Usage().used_blocks, 2u);
}

TEST_F(ShareTest, LeavesASharedMessageAloneWhereThereIsNoMemoryForACopy) {
  Message message = Filled(*transport_, kSegmentBytes / 4 * 3, 1);
  Message copy = ShareOf(&message);
  EXPECT_TRUE(copy.mutable_bytes().empty());
  EXPECT_TRUE(copy.shared());
  EXPECT_EQ(copy.data(), message.data());
}

TEST_F(ShareTest, KnowsEmptyMessagesAndThoseOfOthers) {
  Message empty;
  EXPECT_TRUE(ShareOf(&empty).empty());
  auto other = OpenTransport();
  Message message = Filled(*other, 10, 1);
  EXPECT_TRUE(absl::IsInvalidArgument(transport_->Share(&message).status()));
  EXPECT_TRUE(IsFilled(message, 10, 1));
  EXPECT_FALSE(message.shared());
}

TEST_F(ShareTest, HasMoreThan65536OwnersAndIsFreedWithTheLast) {
  constexpr size_t kCount = 70'000;
  Message message = Filled(*transport_, 5000, 1);
  const std::byte* const data = message.data();
  std::vector<Message> copies;
  copies.reserve(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    copies.push_back(ShareOf(&message));
    ASSERT_EQ(copies.back().data(), data);
  }
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  // One of them goes, then many in any order.
  copies.back().Release();
  EXPECT_TRUE(IsFilled(message, 5000, 1));
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  std::mt19937 random(5);
  std::shuffle(copies.begin(), copies.end(), random);
  message.Release();
  while (copies.size() > 2) copies.pop_back();
  // One of these two is there yet.
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  EXPECT_TRUE(IsFilled(copies[copies[0].empty() ? 1 : 0], 5000, 1));
  copies.clear();
  EXPECT_EQ(transport_->Usage().used_blocks, 0u);
}

TEST_F(ShareTest, IsThereOnceForAnyNumberOfSubscribers) {
  auto other = OpenTransport();
  constexpr size_t kSize = 1 << 20;
  for (const size_t count : {1, 8, 64}) {
    const std::string address = "ring://data" + std::to_string(count);
    auto publish = Bind(*transport_, Pattern::kPublish, address);
    std::vector<std::unique_ptr<Socket>> subscribers;
    for (size_t i = 0; i < count; ++i) {
      subscribers.push_back(Connect(*other, Pattern::kSubscribe, address));
    }
    ASSERT_EQ(publish->Send(Filled(*transport_, kSize, count), Soon()), SocketResult::kOk);
    ASSERT_EQ(publish->Send(Filled(*transport_, 10, count), Soon()), SocketResult::kOk);
    std::vector<Message> messages(count);
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(subscribers[i]->Receive(&messages[i], Soon()), SocketResult::kOk);
      EXPECT_TRUE(IsFilled(messages[i], kSize, count));
      EXPECT_EQ(messages[i].data(), messages[0].data());
      EXPECT_EQ(messages[i].shared(), count > 1);
    }
    EXPECT_EQ(transport_->Usage().used_blocks, 2u);
    // One keeps it as long as it likes; nobody else is held up by that.
    for (size_t i = 1; i < count; ++i) messages[i].Release();
    Message next;
    for (auto& subscriber : subscribers) {
      ASSERT_EQ(subscriber->Receive(&next, Soon()), SocketResult::kOk);
    }
    next.Release();
    EXPECT_TRUE(IsFilled(messages[0], kSize, count));
    EXPECT_EQ(transport_->Usage().used_blocks, 1u);
    messages[0].Release();
    EXPECT_EQ(transport_->Usage().used_blocks, 0u);
  }
}

TEST_F(ShareTest, IsThereOnceForSubscribersOfManyProcesses) {
  constexpr size_t kProcesses = 8;
  constexpr size_t kSubscribersEach = 8;
  ProcessSignal ready;
  ProcessSignal received;
  ProcessSignal release;
  ProcessSignal released;
  std::vector<ChildProcess> children;
  for (size_t i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([&] {
      auto transport = OpenTransport();
      std::vector<std::unique_ptr<Socket>> subscribers;
      for (size_t j = 0; j < kSubscribersEach; ++j) {
        subscribers.push_back(Connect(*transport, Pattern::kSubscribe, "ring://data"));
      }
      ready.Signal();
      std::vector<Message> messages(kSubscribersEach);
      for (size_t j = 0; j < kSubscribersEach; ++j) {
        EXPECT_EQ(subscribers[j]->Receive(&messages[j], Soon()), SocketResult::kOk);
        EXPECT_TRUE(IsFilled(messages[j], 1 << 20, 7));
      }
      received.Signal();
      EXPECT_TRUE(release.Wait());
      messages.clear();
      released.Signal();
      return 0;
    }));
  }
  auto publish = Bind(*transport_, Pattern::kPublish, "ring://data");
  for (size_t i = 0; i < kProcesses; ++i) ASSERT_TRUE(ready.Wait());
  ASSERT_TRUE(WaitFor(
      [&] { return publish->Statistics().connected_peers == kProcesses * kSubscribersEach; }));
  ASSERT_EQ(publish->Send(Filled(*transport_, 1 << 20, 7), Soon()), SocketResult::kOk);
  for (size_t i = 0; i < kProcesses; ++i) ASSERT_TRUE(received.Wait());
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  // Half of them give it back, the others are killed with it.
  for (size_t i = 0; i < kProcesses / 2; ++i) release.Signal();
  for (size_t i = 0; i < kProcesses / 2; ++i) ASSERT_TRUE(released.Wait());
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  for (ChildProcess& child : children) {
    child.Kill();
    ASSERT_TRUE(child.Wait().has_value());
  }
  EXPECT_TRUE(WaitFor([&] { return transport_->Usage().used_blocks == 0; }));
}

}  // namespace
}  // namespace handoff

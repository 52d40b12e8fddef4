// SPDX-License-Identifier: Apache-2.0
#include "transport/message.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "allocator/testing/plain_segment.h"
#include "base/testing/child_process.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using internal::MessageAccess;

static_assert(!std::is_copy_constructible_v<Message> && !std::is_copy_assignable_v<Message>);
static_assert(std::is_nothrow_move_constructible_v<Message> &&
              std::is_nothrow_move_assignable_v<Message>);

constexpr uint64_t kSegmentBytes = 8 << 20;

class MessageTest : public ::testing::Test {
 protected:
  Message Make(size_t size_bytes) {
    Block block;
    EXPECT_EQ(segment_->TryAllocate(size_bytes, 64, &block), AllocateResult::kOk);
    return MessageAccess::Make(*segment_, block, size_bytes);
  }
  uint64_t used_blocks() const { return segment_->Usage().used_blocks; }
  uint64_t used_bytes() const { return segment_->Usage().used_bytes; }

  PlainSegmentMemory memory_{kSegmentBytes};
  std::unique_ptr<Segment> segment_ = memory_.Join(1);
};

TEST_F(MessageTest, IsEmptyFromTheStart) {
  Message message;
  EXPECT_TRUE(message.empty());
  EXPECT_EQ(message.size(), 0u);
  EXPECT_EQ(message.capacity(), 0u);
  EXPECT_EQ(message.data(), nullptr);
  EXPECT_TRUE(message.bytes().empty());
  EXPECT_TRUE(message.mutable_bytes().empty());
  message.Release();
  EXPECT_EQ(message.Shrink(0), ShrinkResult::kOk);
  EXPECT_EQ(message.Shrink(1), ShrinkResult::kLarger);
}

TEST_F(MessageTest, OwnsItsBlockUntilItIsDestroyed) {
  {
    Message message = Make(1000);
    EXPECT_EQ(message.size(), 1000u);
    EXPECT_GE(message.capacity(), 1000u);
    EXPECT_EQ(message.bytes().data(), message.mutable_bytes().data());
    std::ranges::fill(message.mutable_bytes(), std::byte{7});
    EXPECT_EQ(message.bytes().back(), std::byte{7});
    EXPECT_EQ(used_blocks(), 1u);
  }
  EXPECT_EQ(used_blocks(), 0u);
}

TEST_F(MessageTest, LeavesAnEmptyMessageBehindWhenItMoves) {
  Message first = Make(10);
  const std::byte* const data = first.data();
  Message second = std::move(first);
  EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.size(), 10u);
  first = std::move(second);
  EXPECT_EQ(first.data(), data);
  EXPECT_TRUE(second.empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(used_blocks(), 1u);
}

TEST_F(MessageTest, GivesUpWhatItHadWhenAnotherMovesIn) {
  Message first = Make(10);
  first = Make(20);
  EXPECT_EQ(first.size(), 20u);
  EXPECT_EQ(used_blocks(), 1u);
  first = Message();
  EXPECT_EQ(used_blocks(), 0u);
}

TEST_F(MessageTest, SurvivesBeingMovedToItself) {
  Message message = Make(10);
  Message& same = message;
  message = std::move(same);
  EXPECT_EQ(message.size(), 10u);
  EXPECT_EQ(used_blocks(), 1u);
}

TEST_F(MessageTest, GivesBackThePagesThatItNoLongerNeedsWhenItShrinks) {
  Message message = Make(1 << 20);
  message.mutable_bytes()[4999] = std::byte{9};
  EXPECT_EQ(message.Shrink(5000), ShrinkResult::kOk);
  EXPECT_EQ(message.size(), 5000u);
  EXPECT_EQ(message.capacity(), 8192u);
  EXPECT_EQ(used_bytes(), 8192u);
  EXPECT_EQ(message.bytes()[4999], std::byte{9});
}

TEST_F(MessageTest, ShrinksASmallBlockInPlace) {
  Message message = Make(100);
  const size_t capacity = message.capacity();
  EXPECT_EQ(message.Shrink(1), ShrinkResult::kOk);
  EXPECT_EQ(message.size(), 1u);
  EXPECT_EQ(message.capacity(), capacity);
}

TEST_F(MessageTest, NeverGrows) {
  Message message = Make(100);
  EXPECT_EQ(message.Shrink(101), ShrinkResult::kLarger);
  EXPECT_EQ(message.size(), 100u);
  EXPECT_EQ(message.Shrink(50), ShrinkResult::kOk);
  EXPECT_EQ(message.Shrink(51), ShrinkResult::kLarger);
  EXPECT_EQ(message.size(), 50u);
}

TEST_F(MessageTest, IsEmptyOnceShrunkToNothing) {
  Message message = Make(100);
  EXPECT_EQ(message.Shrink(0), ShrinkResult::kOk);
  EXPECT_TRUE(message.empty());
  EXPECT_EQ(message.data(), nullptr);
  EXPECT_EQ(used_blocks(), 0u);
}

TEST_F(MessageTest, StaysWithTheParentWhateverAForkedChildDoes) {
  Message message = Make(100);
  std::ranges::fill(message.mutable_bytes(), std::byte{5});
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(message.bytes()[99], std::byte{5});
    Message stolen = std::move(message);
    EXPECT_EQ(stolen.Shrink(10), ShrinkResult::kOk);
    stolen.Release();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_EQ(used_blocks(), 1u);
  EXPECT_EQ(message.size(), 100u);
  message.Release();
  EXPECT_EQ(used_blocks(), 0u);
}

}  // namespace
}  // namespace handoff

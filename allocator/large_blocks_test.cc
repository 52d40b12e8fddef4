// SPDX-License-Identifier: Apache-2.0
#include "allocator/large_blocks.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "allocator/segment.h"
#include "allocator/testing/plain_segment.h"
#include "allocator/testing/segment_checks.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr uint64_t kSegmentBytes = 32 << 20;
constexpr uint64_t kLarge = 64 << 10;

Block HandOver(Segment& from, const Block& block, Segment& to) {
  const std::optional<Block> taken =
      to.Accept(block.id, from.Mark(block, to.self().slot).generation(), 0);
  EXPECT_TRUE(taken.has_value());
  return taken.value_or(Block{});
}

TEST(LargeBlocksTest, AllocatesWhatWasReleasedLast) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  const Block first = MustAllocate(*segment, kLarge);
  const Block second = MustAllocate(*segment, kLarge);
  segment->Release(second);
  segment->Release(first);
  const Block again = MustAllocate(*segment, kLarge);
  EXPECT_EQ(again.id, first.id);
  EXPECT_EQ(again.data, first.data);
  EXPECT_GT(again.hold.generation(), first.hold.generation());
  EXPECT_EQ(MustAllocate(*segment, kLarge).id, second.id);
}

TEST(LargeBlocksTest, AllocatesALittleMoreFromWhatIsKnown) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  const Block longer = MustAllocate(*segment, 36 * kPageBytes);
  segment->Release(longer);
  // Of another bin, but an eighth of it at most is unused.
  const Block block = MustAllocate(*segment, 34 * kPageBytes);
  EXPECT_EQ(block.id, longer.id);
  EXPECT_EQ(block.size_bytes, 36 * kPageBytes);
  segment->Release(block);
  EXPECT_EQ(MustAllocate(*segment, 30 * kPageBytes).size_bytes, 30 * kPageBytes);
}

TEST(LargeBlocksTest, KnowsABlockThatHasShrunk) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  auto other = memory.Join(2);
  // In its bin, into another, to a page, by oneself and by the receiver.
  for (const uint64_t pages : {38, 33, 9, 1}) {
    for (const bool by_receiver : {false, true}) {
      Block block = MustAllocate(*segment, 39 * kPageBytes);
      if (by_receiver) block = HandOver(*segment, block, *other);
      Segment& holder = by_receiver ? *other : *segment;
      ASSERT_EQ(holder.Shrink(&block, pages * kPageBytes), ShrinkResult::kOk);
      EXPECT_EQ(block.size_bytes, pages * kPageBytes);
      holder.Release(block);
      const Block taken = MustAllocate(*segment, 39 * kPageBytes);
      EXPECT_EQ(taken.size_bytes, 39 * kPageBytes);
      segment->Release(taken);
    }
  }
  ExpectWhole(memory, *segment);
}

TEST(LargeBlocksTest, UsesAgainWhatOthersHaveReleased) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  // Much more than the segment has.
  for (int i = 0; i < 5000; ++i) {
    receiver->Release(HandOver(*sender, MustAllocate(*sender, kLarge), *receiver));
  }
  // About what goes round, and not all there is.
  EXPECT_LT(memory.view().backed_pages() * kPageBytes, kSegmentBytes / 4);
  ExpectWhole(memory, *sender);
}

// An entry that a span has left behind in the queue of one thread, and the span is another thread's
// by now: a thread sanitizer has something to say if the two are not careful with it.
TEST(LargeBlocksTest, LooksAtAnEntryOfASpanThatAnotherThreadHas) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  // More than is retained, so that the last ones are given back when they are released.
  std::vector<Block> blocks;
  for (uint64_t bytes = 0; bytes < kSegmentBytes / 2; bytes += kLarge) {
    blocks.push_back(MustAllocate(*segment, kLarge));
  }
  for (const Block& block : blocks) segment->Release(block);
  Block others;
  // Relaxed, so that nothing orders what this thread does behind what that one has done.
  std::atomic<bool> allocated = false;
  std::atomic<bool> looked = false;
  std::thread thread([&] {
    others = MustAllocate(*segment, kLarge);
    allocated.store(true, std::memory_order_relaxed);
    while (!looked.load(std::memory_order_relaxed)) std::this_thread::yield();
  });
  while (!allocated.load(std::memory_order_relaxed)) std::this_thread::yield();
  segment->Trim();  // looks at all entries
  looked.store(true, std::memory_order_relaxed);
  thread.join();
  EXPECT_EQ(segment->Usage().used_blocks, 1u);
  segment->Release(others);
  ExpectWhole(memory, *segment);
}

// What is remembered of spans is void once they were given back, cut short or claimed again.
TEST(LargeBlocksTest, StaysWholeWhateverIsDoneInWhateverOrder) {
  PlainSegmentMemory memory(kSegmentBytes);
  const std::unique_ptr<Segment> members[] = {memory.Join(1), memory.Join(2)};
  struct Held {
    Block block;
    Segment* holder;
    std::byte fill;
  };
  std::vector<Held> held;
  std::mt19937 random(7);
  const auto below = [&](size_t count) { return random() % count; };
  for (int i = 0; i < 60'000; ++i) {
    Segment& member = *members[below(2)];
    const size_t what = below(100);
    if (what < 45) {
      Block block;
      const uint64_t bytes = (1 + below(60)) * kPageBytes - below(4000);
      const uint64_t alignment = below(10) == 0 ? 32 * kPageBytes : kBlockAlignment;
      if (member.TryAllocate(bytes, alignment, &block) != AllocateResult::kOk) continue;
      const auto fill = static_cast<std::byte>(i & 0xFF);
      for (uint64_t at = 0; at < block.size_bytes; at += kPageBytes) block.data[at] = fill;
      held.push_back({block, &member, fill});
    } else if (what == 99 && below(20) == 0) {
      member.Trim();
    } else if (!held.empty()) {
      const size_t index = below(held.size());
      Held& one = held[index];
      for (uint64_t at = 0; at < one.block.size_bytes; at += kPageBytes) {
        ASSERT_EQ(one.block.data[at], one.fill) << "step " << i;
      }
      if (what < 65 && one.holder != &member) {
        one.block = HandOver(*one.holder, one.block, member);
        one.holder = &member;
      } else if (what < 75) {
        (void)one.holder->Shrink(&one.block, 1 + below(one.block.size_bytes));
      } else {
        one.holder->Release(one.block);
        held[index] = held.back();
        held.pop_back();
      }
    }
  }
  for (const Held& one : held) one.holder->Release(one.block);
  Segment* const both[] = {members[0].get(), members[1].get()};
  ExpectWhole(memory, kSegmentBytes, both);
}

}  // namespace
}  // namespace handoff

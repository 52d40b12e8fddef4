// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <random>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "allocator/audit.h"
#include "allocator/testing/plain_segment.h"
#include "allocator/testing/segment_checks.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kSegmentBytes = 8 << 20;

TEST(SegmentTest, GivesBlocksOfEverySizeThatDoNotOverlap) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  std::vector<std::pair<Block, int>> blocks;
  int number = 0;
  for (uint64_t size = 1; size < 400000; size += 1 + size / 7) {
    const Block block = MustAllocate(*segment, size);
    ASSERT_GE(block.size_bytes, size);
    EXPECT_EQ((block.data - segment->payload()) % 64, 0);
    std::memset(block.data, ++number & 0xFF, block.size_bytes);
    blocks.emplace_back(block, number);
  }
  for (const auto& [block, fill] : blocks) {
    for (uint64_t i = 0; i < block.size_bytes; ++i) {
      ASSERT_EQ(std::to_integer<int>(block.data[i]), fill & 0xFF);
    }
    segment->Release(block);
  }
  ExpectWhole(memory, *segment);
}

TEST(SegmentTest, WastesAtMostAnEighthAboveOneKibibyte) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  for (uint64_t size = 1025; size < kSegmentBytes; size += 1 + size / 50) {
    const Block block = MustAllocate(*segment, size);
    EXPECT_LE(block.size_bytes - size, block.size_bytes / 8) << size;
    segment->Release(block);
  }
}

TEST(SegmentTest, HonoursEveryAlignment) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  for (uint64_t alignment = 1; alignment <= kMaxAlignment; alignment *= 2) {
    for (uint64_t size : {uint64_t{1}, uint64_t{100}, uint64_t{5000}, uint64_t{70000}}) {
      const Block block = MustAllocate(*segment, size, alignment);
      EXPECT_EQ((block.data - segment->payload()) % static_cast<int64_t>(alignment), 0);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data) % alignment, 0u);
      segment->Release(block);
    }
  }
  ExpectWhole(memory, *segment);
}

TEST(SegmentTest, RefusesWhatCanNeverBe) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  Block block;
  EXPECT_EQ(segment->TryAllocate(0, 64, &block), AllocateResult::kTooLarge);
  EXPECT_EQ(segment->TryAllocate(kSegmentBytes + 1, 64, &block), AllocateResult::kTooLarge);
  EXPECT_EQ(segment->TryAllocate(64, 96, &block), AllocateResult::kTooLarge);
  EXPECT_EQ(segment->TryAllocate(64, 2 * kMaxAlignment, &block), AllocateResult::kTooLarge);
  segment->Release(MustAllocate(*segment, 50000));  // now known to be free
  EXPECT_EQ(segment->TryAllocate(50000, 3000, &block), AllocateResult::kTooLarge);
  const auto error = segment->Allocate(kSegmentBytes + 1, 64, Deadline::Infinite());
  EXPECT_EQ(error.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(error.status().ToString(), HasSubstr("8388609"));
  EXPECT_THAT(error.status().ToString(), HasSubstr("8388608"));
}

TEST(SegmentTest, ReusesItsOwnBlocksLastInFirstOut) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  for (uint64_t size : {uint64_t{64}, uint64_t{5000}, uint64_t{200000}}) {
    const Block first = MustAllocate(*segment, size);
    const Block second = MustAllocate(*segment, size);
    segment->Release(first);
    segment->Release(second);
    const Block again = MustAllocate(*segment, size);
    EXPECT_EQ(again.data, second.data) << size;
    EXPECT_GT(again.hold.generation(), second.hold.generation());
    segment->Release(again);
  }
}

TEST(SegmentTest, ReusesItsOwnBlocksLastInFirstOutWhateverTheirSpan) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  std::vector<Block> blocks;
  // A few spans of them.
  for (int i = 0; i < 3000; ++i) blocks.push_back(MustAllocate(*segment, 64));
  for (const size_t i : {2999, 0, 1500}) segment->Release(blocks[i]);
  for (const size_t i : {1500, 0, 2999}) {
    const Block again = MustAllocate(*segment, 64);
    EXPECT_EQ(again.id, blocks[i].id);
    blocks[i] = again;
  }
  for (const Block& block : blocks) segment->Release(block);
  ExpectWhole(memory, *segment);
}

TEST(SegmentTest, KeepsOnlyABoundedPartOfWhatItHasReleased) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  auto other = memory.Join(2);
  std::vector<Block> blocks;
  for (const uint64_t size : {64, 1000, 5000, 30000, 70000, 500000}) {
    uint64_t sum = 0;
    for (; sum < 6 << 20; sum += size) {
      Block block;
      if (segment->TryAllocate(size, 64, &block) != AllocateResult::kOk) break;
      blocks.push_back(block);
    }
    for (const Block& block : blocks) segment->Release(block);
    blocks.clear();
  }
  // Nobody has to wait for a tick to get most of it.
  uint64_t free_bytes = 0;
  Block block;
  while (other->TryAllocate(64 << 10, 64, &block) == AllocateResult::kOk) {
    free_bytes += block.size_bytes;
    blocks.push_back(block);
  }
  EXPECT_GE(free_bytes, kSegmentBytes / 2);
  for (const Block& each : blocks) other->Release(each);
  other->Trim();
  ExpectWhole(memory, *segment);
}

TEST(SegmentTest, HandsABlockOverExactlyOnce) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  auto stranger = memory.Join(3);
  for (uint64_t size : {uint64_t{64}, uint64_t{100000}}) {
    const Block block = MustAllocate(*sender, size);
    block.data[0] = std::byte{42};
    const HoldWord sent = sender->Mark(block, 2);
    EXPECT_FALSE(stranger->Accept(block.id, sent.generation(), size).has_value());
    EXPECT_FALSE(receiver->Accept(block.id, sent.generation() - 1, size).has_value());
    const auto taken = receiver->Accept(block.id, sent.generation(), size);
    ASSERT_TRUE(taken.has_value());
    EXPECT_EQ(taken->data[0], std::byte{42});
    EXPECT_EQ(taken->data, block.data);
    EXPECT_FALSE(receiver->Accept(block.id, sent.generation(), size).has_value());
    EXPECT_FALSE(sender->TakeBack(block.id, sent.generation()).has_value());
    receiver->Release(*taken);
  }
  ExpectWhole(memory, *sender);
}

TEST(SegmentTest, RefusesHandlesThatCannotBe) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  const Block block = MustAllocate(*sender, 1000);
  const HoldWord sent = sender->Mark(block, 2);
  std::mt19937_64 random(1);
  for (int i = 0; i < 200000; ++i) {
    const auto id = static_cast<BlockId>(random());
    if (id == block.id) continue;
    EXPECT_FALSE(receiver->Accept(id, random() % 4, 64).has_value()) << id;
  }
  // A used size beyond the block: dropped, and the block is not lost.
  EXPECT_FALSE(receiver->Accept(block.id, sent.generation(), block.size_bytes + 1).has_value());
  ExpectWhole(memory, *sender);
}

// A span's page is small today and large tomorrow: the same id, another word.
TEST(SegmentTest, HandleOfASmallBlockNeverMatchesALargeOneOfTheSamePage) {
  for (const bool small_first : {true, false}) {
    PlainSegmentMemory memory(kSegmentBytes);
    auto sender = memory.Join(1);
    auto receiver = memory.Join(2);
    const uint64_t sizes[] = {small_first ? uint64_t{64} : uint64_t{100000},
                              small_first ? uint64_t{100000} : uint64_t{64}};
    const Block old = MustAllocate(*sender, sizes[0]);
    const HoldWord stale = sender->Mark(old, 2);
    sender->Release(*sender->TakeBack(old.id, stale.generation()));
    sender->Trim();
    sender->Release(MustAllocate(*sender, sender->size_bytes()));  // the next search starts at 0
    sender->Trim();
    const Block next = MustAllocate(*sender, sizes[1]);
    ASSERT_EQ(next.id, old.id);
    const HoldWord sent = sender->Mark(next, 2);
    EXPECT_FALSE(receiver->Accept(old.id, stale.generation(), 64).has_value());
    EXPECT_TRUE(receiver->Accept(next.id, sent.generation(), 64).has_value());
  }
}

TEST(SegmentTest, TakesBackWhatNobodyAccepted) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  const Block block = MustAllocate(*sender, 1000);
  const HoldWord sent = sender->Mark(block, 2);
  const auto back = sender->TakeBack(block.id, sent.generation());
  ASSERT_TRUE(back.has_value());
  const HoldWord again = sender->Mark(*back, 2);
  EXPECT_FALSE(receiver->Accept(block.id, sent.generation(), 0).has_value());
  const auto taken = receiver->Accept(block.id, again.generation(), 0);
  ASSERT_TRUE(taken.has_value());
  receiver->Release(*taken);
  ExpectWhole(memory, *sender);
}

TEST(SegmentTest, ShrinksALargeBlockInPlace) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  auto other = memory.Join(2);
  Block block = MustAllocate(*segment, 7 << 20);
  EXPECT_EQ(segment->Shrink(&block, 8 << 20), ShrinkResult::kLarger);
  EXPECT_EQ(segment->Shrink(&block, 100000), ShrinkResult::kOk);
  EXPECT_EQ(block.size_bytes, 25u * 4096);
  const Block rest = MustAllocate(*other, 7 << 20);
  // The block keeps its new size wherever it goes.
  const HoldWord sent = segment->Mark(block, 2);
  EXPECT_FALSE(other->Accept(block.id, sent.generation(), block.size_bytes + 1).has_value());
  other->Release(rest);
  segment->Trim();
  ExpectWhole(memory, *other);
}

TEST(SegmentTest, ReceiverMayShrinkTheSendersBlock) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  const Block block = MustAllocate(*sender, 6 << 20);
  auto taken = receiver->Accept(block.id, sender->Mark(block, 2).generation(), 100);
  ASSERT_TRUE(taken.has_value());
  ASSERT_EQ(receiver->Shrink(&*taken, 5000), ShrinkResult::kOk);
  EXPECT_EQ(taken->size_bytes, 8192u);
  sender->Release(MustAllocate(*sender, 7 << 20));
  receiver->Release(*taken);
  sender->Release(MustAllocate(*sender, 7 << 20));
  ExpectWhole(memory, *sender);
}

TEST(SegmentTest, FindsBlocksThatOthersReleased) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  // Far more than fits, in order.
  for (uint64_t size : {uint64_t{64}, uint64_t{3000}, uint64_t{100000}}) {
    std::vector<Block> unread;
    for (int i = 0; i < 20000; ++i) {
      const Block block = MustAllocate(*sender, size);
      const auto taken = receiver->Accept(block.id, sender->Mark(block, 2).generation(), size);
      ASSERT_TRUE(taken.has_value());
      unread.push_back(*taken);
      if (unread.size() == 10) {
        for (const Block& old : unread) receiver->Release(old);
        unread.clear();
      }
    }
    for (const Block& old : unread) receiver->Release(old);
  }
  ExpectWhole(memory, *sender);
}

// Their lines are in the cache of whoever has released them: other blocks go round first, and those
// come back in the order in which they went.
TEST(SegmentTest, ReusesBlocksThatOthersReleasedFirstInFirstOut) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  for (const uint64_t size : {uint64_t{64}, uint64_t{3000}}) {
    std::unordered_map<BlockId, int> last_use;
    int soonest = INT_MAX;
    for (int i = 0; i < 300000; ++i) {
      const Block block = MustAllocate(*sender, size);
      const auto taken = receiver->Accept(block.id, sender->Mark(block, 2).generation(), size);
      ASSERT_TRUE(taken.has_value());
      receiver->Release(*taken);
      const auto [use, is_first] = last_use.try_emplace(block.id, i);
      if (!is_first) soonest = std::min(soonest, i - std::exchange(use->second, i));
    }
    EXPECT_LT(soonest, INT_MAX) << "more than fits has gone through";
    EXPECT_GT(static_cast<uint64_t>(soonest) * size, kSegmentBytes / 64) << size;
  }
}

TEST(SegmentTest, SeveralThreadsAllocateAndReleaseEachOthersBlocks) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  constexpr int kThreads = 4;
  std::vector<std::vector<Block>> given(kThreads);
  std::vector<absl::Mutex> mutexes(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<uint64_t>(t));
      for (int i = 0; i < 20000; ++i) {
        Block block;
        const uint64_t size = 1 + random() % (random() % 64 == 0 ? 50000 : 2000);
        if (segment->TryAllocate(size, 64, &block) == AllocateResult::kOk) {
          std::memset(block.data, t, 1);
          const auto to = static_cast<size_t>(random() % kThreads);
          bool given_away = false;
          {
            absl::MutexLock lock(&mutexes[to]);
            // Bounded, so that the segment is not full for long: every failure looks at all of it.
            given_away = given[to].size() < 500;
            if (given_away) given[to].push_back(block);
          }
          if (!given_away) segment->Release(block);
        }
        std::vector<Block> mine;
        {
          absl::MutexLock lock(&mutexes[static_cast<size_t>(t)]);
          if (given[static_cast<size_t>(t)].size() > 100) mine.swap(given[static_cast<size_t>(t)]);
        }
        for (const Block& old : mine) segment->Release(old);
        if (i % 1000 == 0) segment->Tick();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& blocks : given) {
    for (const Block& block : blocks) segment->Release(block);
  }
  ExpectWhole(memory, *segment);
}

TEST(SegmentTest, AThreadsBlocksOutliveIt) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  std::vector<Block> blocks;
  for (int t = 0; t < 20; ++t) {
    std::thread([&] { blocks.push_back(MustAllocate(*segment, 100)); }).join();
  }
  // The heaps of ended threads are used again, so one span serves all.
  EXPECT_EQ(segment->Usage().members[1].span_bytes, 16u * 4096);
  for (const Block& block : blocks) segment->Release(block);
  ExpectWhole(memory, *segment);
}

// Runs after the thread has given its heap to the next one, because it was made before.
struct ReleasesWhenTheThreadEnds {
  Segment* segment = nullptr;
  Block block;

  ~ReleasesWhenTheThreadEnds() {
    if (segment == nullptr) return;
    segment->Release(block);
    const Block other = MustAllocate(*segment, 100);
    segment->Release(MustAllocate(*segment, 100));
    segment->Release(other);
  }
};

TEST(SegmentTest, WorksWhileAThreadEnds) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  for (int t = 0; t < 3; ++t) {
    std::thread([&] {
      thread_local ReleasesWhenTheThreadEnds last;
      last.block = MustAllocate(*segment, 100);
      last.segment = segment.get();
    }).join();
  }
  ExpectWhole(memory, *segment);
}

TEST(SegmentTest, ReclaimsEverythingOfADeadMember) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto survivor = memory.Join(1);
  MemberId victim;
  {
    const auto joined = memory.members().Publish(2, MemberIdentity{});
    ASSERT_TRUE(joined.has_value());
    victim = *joined;
  }
  auto dead = memory.Attach(victim);
  for (int i = 0; i < 1000; ++i) MustAllocate(*dead, static_cast<uint64_t>(1 + i * 7));
  const Block sent_to_me = MustAllocate(*dead, 500);
  const HoldWord sent = dead->Mark(sent_to_me, 1);
  const auto taken = survivor->Accept(sent_to_me.id, sent.generation(), 500);
  ASSERT_TRUE(taken.has_value());
  const Block mine = MustAllocate(*survivor, 300);
  // What the survivor sent, the dead one did accept.
  ASSERT_TRUE(dead->Accept(mine.id, survivor->Mark(mine, 2).generation(), 0).has_value());

  const ReclaimCount count = memory.Reclaim(*survivor, victim);
  EXPECT_EQ(count.blocks, 1001u);
  EXPECT_THAT(AuditSegment(memory.view(), memory.members()), IsEmpty());
  EXPECT_EQ(survivor->Usage().ownerless_blocks, 1u);
  survivor->Release(*taken);
  EXPECT_EQ(survivor->Usage().ownerless_blocks, 0u);
  ExpectWhole(memory, *survivor);
}

TEST(SegmentTest, IdleMemberGivesBackWhatOthersReleased) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto sender = memory.Join(1);
  auto receiver = memory.Join(2);
  std::vector<Block> taken;
  for (int i = 0; i < 1000; ++i) {
    const Block block = MustAllocate(*sender, 4096);
    taken.push_back(*receiver->Accept(block.id, sender->Mark(block, 2).generation(), 0));
  }
  for (const Block& block : taken) receiver->Release(block);
  sender->Tick();
  sender->Tick();
  receiver->Release(MustAllocate(*receiver, 6 << 20));
}

}  // namespace
}  // namespace handoff

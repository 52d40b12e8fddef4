// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/segment_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "allocator/audit.h"
#include "allocator/segment_layout.h"
#include "base/check.h"

namespace handoff {

Block MustAllocate(Segment& segment, uint64_t size_bytes, uint64_t alignment) {
  Block block;
  EXPECT_EQ(segment.TryAllocate(size_bytes, alignment, &block), AllocateResult::kOk)
      << size_bytes << " aligned to " << alignment << ": "
      << DescribeShortage(segment.Usage(), size_bytes);
  return block;
}

void ExpectWhole(PlainSegmentMemory& memory, uint64_t bytes, std::span<Segment* const> members) {
  for (Segment* member : members) member->Trim();
  for (Segment* member : members) {
    Block all;
    EXPECT_EQ(member->TryAllocate(bytes, 64, &all), AllocateResult::kOk)
        << DescribeShortage(member->Usage(), bytes);
    if (all.data == nullptr) continue;
    member->Release(all);
    member->Trim();
  }
  EXPECT_THAT(AuditSegment(memory.view(), memory.members(), {.all_small_holds = true}),
              ::testing::IsEmpty());
  const SegmentHeader<RealSync>& header = memory.view().header();
  EXPECT_EQ(header.waiters.load(std::memory_order_relaxed), 0u);
  EXPECT_TRUE(
      std::all_of(std::begin(header.waiting), std::end(header.waiting),
                  [](const auto& byte) { return byte.load(std::memory_order_relaxed) == 0; }));
}

void ExpectWhole(PlainSegmentMemory& memory, Segment& segment) {
  Block all;
  ASSERT_EQ(segment.TryAllocate(segment.size_bytes(), 64, &all), AllocateResult::kOk)
      << DescribeShortage(segment.Usage(), segment.size_bytes());
  segment.Release(all);
  segment.Trim();
  EXPECT_THAT(AuditSegment(memory.view(), memory.members()), ::testing::IsEmpty());
}

namespace {

// `block` of `from`, in the hands of `to`.
Block HandOver(Segment& from, const Block& block, Segment& to, uint32_t to_slot) {
  const HoldWord sent = from.Mark(block, to_slot);
  const std::optional<Block> taken = to.Accept(block.id, sent.generation(), block.size_bytes);
  EXPECT_TRUE(taken.has_value());
  EXPECT_FALSE(to.Accept(block.id, sent.generation(), block.size_bytes).has_value());
  return taken.value_or(Block{});
}

}  // namespace

void ExpectOperationsWork(PlainSegmentMemory& memory, std::span<Segment* const> members,
                          uint32_t newcomer_slot) {
  HANDOFF_CHECK_EQ(members.size(), 2u);
  Segment& first = *members[0];
  Segment& second = *members[1];
  const auto joined = memory.members().Publish(newcomer_slot, MemberIdentity{});
  ASSERT_TRUE(joined.has_value()) << "slot " << newcomer_slot << " is not free";
  const std::unique_ptr<Segment> newcomer = memory.Attach(*joined);
  for (uint64_t size_bytes : {uint64_t{64}, uint64_t{3000}, uint64_t{40000}, uint64_t{200000}}) {
    Block block = MustAllocate(*newcomer, size_bytes);
    ASSERT_NE(block.data, nullptr);
    block.data[0] = std::byte{1};
    block.data[block.size_bytes - 1] = std::byte{2};
    const HoldWord sent = newcomer->Mark(block, first.self().slot);
    const std::optional<Block> back = newcomer->TakeBack(block.id, sent.generation());
    ASSERT_TRUE(back.has_value());
    block = HandOver(*newcomer, *back, first, first.self().slot);
    EXPECT_EQ(first.Shrink(&block, size_bytes / 2), ShrinkResult::kOk);
    EXPECT_GE(block.size_bytes, size_bytes / 2);
    block = HandOver(first, block, second, second.self().slot);
    second.Release(block);
    first.Release(MustAllocate(first, size_bytes));
    // Stays with the newcomer when it dies.
    (void)MustAllocate(*newcomer, size_bytes / 2);
  }
  newcomer->Tick();
  newcomer->Trim();
  first.Tick();
  memory.Reclaim(second, *joined);
}

std::vector<OwnedWord> WordsOf(const PlainSegmentMemory& memory, uint32_t member) {
  std::vector<OwnedWord> words;
  const std::span<std::byte> area = memory.area();
  const SegmentAreaLayout layout(memory.view().page_count());
  const auto* const all = reinterpret_cast<const std::atomic<uint64_t>*>(area.data());
  for (uint64_t offset = layout.page_words; offset < layout.end; offset += sizeof(uint64_t)) {
    const bool in_large_row = offset >= layout.large_rows && offset < layout.small_holds;
    if (in_large_row && (offset - layout.large_rows) % sizeof(LargeRow<RealSync>) != 0) continue;
    const uint64_t index = offset / sizeof(uint64_t);
    const uint64_t raw = all[index].load(std::memory_order_relaxed);
    if (offset < layout.large_rows) {
      if (PageWord(raw).IsOwnedBy(member)) words.push_back({index, raw});
      continue;
    }
    const HoldWord hold(raw);
    const bool names = hold.state() == HoldState::kHeld || hold.state() == HoldState::kSent ||
                       hold.state() == HoldState::kPosted;
    if (names && hold.holder() == member) words.push_back({index, raw});
  }
  return words;
}

}  // namespace handoff

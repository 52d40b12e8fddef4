// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/segment_stage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace handoff {

namespace {

// Far more than anything here takes, also under load.
constexpr absl::Duration kPromptly = absl::Seconds(20);

}  // namespace

SegmentStage::SegmentStage(const SegmentScript& script)
    : memory(script.segment_bytes, script.payload_limit_bytes),
      victim(Publish(kVictim)),
      survivor(memory.Join(kSurvivor)),
      bystander(memory.Join(kBystander)),
      script_(script) {
  script_.prepare(*this);
}

MemberId SegmentStage::Publish(uint32_t slot) {
  const auto joined = memory.members().Publish(slot, MemberIdentity{});
  HANDOFF_CHECK(joined.has_value()) << "slot " << slot;
  return *joined;
}

void SegmentStage::SetUpVictim() {
  victims_ = memory.Attach(victim);
  script_.set_up(*this, *victims_);
}

void SegmentStage::Operate() { script_.operate(*this, *victims_); }

std::vector<std::span<std::byte>> SegmentStage::SharedMemory() {
  return {memory.area(), memory.rows().subspan(0, 4096)};
}

Block SegmentStage::Keep(Segment& segment, uint64_t size_bytes) {
  const Block block = MustAllocate(segment, size_bytes);
  kept_.emplace_back(&segment, block);
  return block;
}

Block SegmentStage::SendToVictim(Segment& segment, uint64_t size_bytes) {
  Block block = MustAllocate(segment, size_bytes);
  block.hold = segment.Mark(block, kVictim);
  sent.emplace_back(&segment, block);
  return block;
}

void SegmentStage::LeaveADeadMember() {
  dead = Publish(kDead);
  const std::unique_ptr<Segment> segment = memory.Attach(dead);
  for (uint64_t size_bytes : {1024, 9000, 40000}) {
    (void)MustAllocate(*segment, size_bytes);
    // One that the bystander has, so that the span outlives its owner.
    const Block given = MustAllocate(*segment, size_bytes);
    const auto taken =
        bystander->Accept(given.id, segment->Mark(given, kBystander).generation(), 1);
    HANDOFF_CHECK(taken.has_value());
    kept_.emplace_back(bystander.get(), *taken);
    // One on its way to it, one of a living member that the dead one has, and one it never took.
    (void)segment->Mark(MustAllocate(*segment, size_bytes), kBystander);
    const Block accepted = MustAllocate(*bystander, size_bytes);
    HANDOFF_CHECK(
        segment->Accept(accepted.id, bystander->Mark(accepted, kDead).generation(), 1).has_value());
    Block never = MustAllocate(*bystander, size_bytes);
    never.hold = bystander->Mark(never, kDead);
    sent.emplace_back(bystander.get(), never);
  }
  HANDOFF_CHECK(memory.members().MarkDead(dead));
}

void SegmentStage::UseWhileStopped() {
  const absl::Time begin = absl::Now();
  const std::vector<OwnedWord> before = WordsOf(memory, kVictim);
  script_.use_while_stopped(*this);
  // The victim may have nearly all of the memory: what it leaves goes round.
  for (Segment* segment : {survivor.get(), bystander.get()}) {
    for (uint64_t size_bytes : {uint64_t{64}, uint64_t{5000}, uint64_t{100000}}) {
      Block block;
      if (segment->TryAllocate(size_bytes, 64, &block) != AllocateResult::kOk) continue;
      Segment& other = segment == survivor.get() ? *bystander : *survivor;
      const HoldWord passed = segment->Mark(block, other.self().slot);
      std::optional<Block> taken = other.Accept(block.id, passed.generation(), 1);
      ASSERT_TRUE(taken.has_value());
      EXPECT_EQ(other.Shrink(&*taken, (size_bytes + 1) / 2), ShrinkResult::kOk);
      other.Release(*taken);
    }
    segment->Tick();
    segment->Trim();
  }
  EXPECT_TRUE(WordsOf(memory, kVictim) == before) << "the memory of a stopped member was touched";
  EXPECT_LT(absl::Now() - begin, kPromptly);
}

void SegmentStage::ExpectWhole() {
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(tenants.empty() || WordsOf(memory, kDead) == tenants);
  memory.Reclaim(*survivor, victim);
  if (dead.slot != 0) memory.Reclaim(*survivor, dead);
  for (const auto& [segment, block] : kept_) segment->Release(block);
  for (const auto& [segment, block] : sent) {
    const auto back = segment->TakeBack(block.id, block.hold.generation());
    if (back.has_value()) segment->Release(*back);
  }
  for (const auto& segment : others) memory.Reclaim(*survivor, segment->self());
  const std::array<Segment*, 2> members = {survivor.get(), bystander.get()};
  const uint64_t bytes = std::min(script_.segment_bytes, script_.payload_limit_bytes);
  handoff::ExpectWhole(memory, bytes, members);
  if (::testing::Test::HasFailure()) return;
  ExpectOperationsWork(memory, members, kVictim);
  handoff::ExpectWhole(memory, bytes, members);
  EXPECT_LT(absl::Now() - begin, kPromptly);
}

}  // namespace handoff

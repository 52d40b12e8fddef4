// SPDX-License-Identifier: Apache-2.0
// What becomes of the memory of segments that were removed while somebody used them.
#include <unistd.h>

#include <atomic>
#include <memory>

#include "absl/time/time.h"
#include "allocator/management_layout.h"
#include "allocator/member.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

std::unique_ptr<Member> MustJoin(const TestSession& session) {
  SessionOptions options;
  options.names.session = session.name();
  options.names.shm_dir = session.directory();
  options.main_segment_bytes = 4 << 20;
  options.watch_period = absl::Milliseconds(5);
  auto member = Member::Join(options);
  EXPECT_TRUE(member.ok()) << member.status().ToString();
  return member.ok() ? *std::move(member) : nullptr;
}

class RemovedSegmentTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kId = 7;

  // A segment that `first_` has made and used.
  void MakeSegment() {
    const auto made = first_->CreateSegment({.id = kId, .size_bytes = 1 << 20});
    ASSERT_TRUE(made.ok()) << made.status().ToString();
    segment_ = *made;
    Block block;
    ASSERT_EQ(segment_->TryAllocate(1000, 64, &block), AllocateResult::kOk);
    mark_ = block.data;
    *mark_ = std::byte{5};
    segment_->Release(block);
  }
  Block MustAllocate(uint64_t size_bytes) {
    Block block;
    EXPECT_EQ(segment_->TryAllocate(size_bytes, 64, &block), AllocateResult::kOk);
    return block;
  }
  PartName NameOf(const Block& block) const {
    return {PartKind::kBlock, segment_->row(), block.id, block.hold.generation(), 10};
  }
  // Whether its memory has gone back to the file system: it reads as zeros then.
  bool IsGone() const { return *static_cast<volatile std::byte*>(mark_) == std::byte{0}; }

  TestSession session_;
  std::unique_ptr<Member> first_ = MustJoin(session_);
  Segment* segment_ = nullptr;
  std::byte* mark_ = nullptr;
};

TEST_F(RemovedSegmentTest, GoesBackThoughTheSlotOfOneThatHadItMappedIsInUseAgain) {
  MakeSegment();
  auto second = MustJoin(session_);
  ASSERT_TRUE(second->FindSegment(kId).ok());
  const MemberId former = second->self();
  second.reset();
  auto third = MustJoin(session_);
  ASSERT_EQ(third->self().slot, former.slot);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

TEST_F(RemovedSegmentTest, StaysAsLongAsALivingMemberHasItMapped) {
  MakeSegment();
  auto second = MustJoin(session_);
  const auto theirs = second->FindSegment(kId);
  ASSERT_TRUE(theirs.ok());
  Block block;
  ASSERT_EQ((*theirs)->TryAllocate(1000, 64, &block), AllocateResult::kOk);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  ASSERT_TRUE(WaitFor([&] { return first_->SegmentAt(segment_->row()) != nullptr; }));
  EXPECT_FALSE(IsGone());
  (*theirs)->Release(block);
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

// Receivers that had not mapped the segment when it was removed, and cannot any more.

TEST_F(RemovedSegmentTest, ABlockSentToOneThatCannotMapItIsFreedThere) {
  MakeSegment();
  auto second = MustJoin(session_);
  const Block block = MustAllocate(100000);
  PartName name = NameOf(block);
  name.generation = segment_->Mark(block, second->self().slot).generation();
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  ASSERT_EQ(second->SegmentAt(name.segment), nullptr);
  second->AcceptAndRelease({PartKind::kBlock, name.segment, name.row, name.generation + 1, 10});
  EXPECT_EQ(segment_->Usage().used_blocks, 1u);
  second->AcceptAndRelease(name);
  EXPECT_EQ(segment_->Usage().used_blocks, 0u);
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

TEST_F(RemovedSegmentTest, ASharedBlockIsFreedByOneThatCannotMapIt) {
  MakeSegment();
  auto second = MustJoin(session_);
  Reference references[2];
  ASSERT_TRUE(first_->Share(*segment_, MustAllocate(1000), references).ok());
  const HoldWord sent = first_->Mark(references[0], second->self().slot);
  first_->Release(references[1]);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  EXPECT_FALSE(second
                   ->AcceptReference(PartName::Reference(references[0].row, references[0].index,
                                                         sent.generation(), 10))
                   .has_value());
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

TEST_F(RemovedSegmentTest, AnUnreadBundleIsFreedByOneThatCannotMapItsParts) {
  MakeSegment();
  auto second = MustJoin(session_);
  const PartName parts[] = {NameOf(MustAllocate(1000)), NameOf(MustAllocate(2000))};
  const auto bundle = first_->Bundle(parts);
  ASSERT_TRUE(bundle.ok());
  const HoldWord sent = first_->MarkBundle(*bundle, second->self().slot);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  const auto taken =
      second->AcceptBundle({PartKind::kBundle, 0, bundle->row, sent.generation(), 0});
  ASSERT_TRUE(taken.has_value());
  second->Release(*taken);
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

// As if `victim` had been killed, and `by` were the one to notice.
void Bury(Member& victim, Member& by) {
  ASSERT_TRUE(by.session().members().MarkDead(victim.self()));
  by.ReclaimDead();
  ASSERT_FALSE(by.session().members().Word(victim.self().slot) ==
               (MemberWord{victim.self().epoch, MemberState::kDead}));
}

TEST_F(RemovedSegmentTest, WhatTheDeadHadComesBackThoughItsReclaimerCannotMapIt) {
  MakeSegment();
  auto victim = MustJoin(session_);
  const auto theirs = victim->FindSegment(kId);
  ASSERT_TRUE(theirs.ok());
  Block block;
  ASSERT_EQ((*theirs)->TryAllocate(1000, 64, &block), AllocateResult::kOk);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  auto second = MustJoin(session_);
  Bury(*victim, *second);
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

TEST_F(RemovedSegmentTest, WhatTheDeadHadElsewhereComesBackThoughASegmentCannotBeMapped) {
  MakeSegment();
  ASSERT_EQ(unlink((session_.directory() + "/" + segment_->name()).c_str()), 0);  // by hand
  auto second = MustJoin(session_);
  auto victim = MustJoin(session_);
  Block block;
  ASSERT_EQ(victim->main_segment().TryAllocate(1000, 64, &block), AllocateResult::kOk);
  Bury(*victim, *second);
  EXPECT_EQ(second->main_segment().Usage().used_blocks, 0u);
}

TEST_F(RemovedSegmentTest, NonsenseInTheRowOfASegmentKeepsNobodyFromTheEndOfAReclaim) {
  MakeSegment();
  auto& row = const_cast<ManagementLayout&>(first_->session().layout()).segments[5];
  const uint64_t word = row.word.load(std::memory_order_relaxed);
  row.id.store(55, std::memory_order_relaxed);
  row.size_bytes.store(~uint64_t{0}, std::memory_order_relaxed);
  row.area_offset_bytes.store(12345, std::memory_order_relaxed);
  row.area_size_bytes.store(1, std::memory_order_relaxed);
  row.word.store(SegmentWord{.generation = 3, .state = SegmentState::kLive}.Packed(),
                 std::memory_order_release);
  auto second = MustJoin(session_);
  auto victim = MustJoin(session_);
  Bury(*victim, *second);
  row.word.store(word, std::memory_order_release);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/member.h"

#include <signal.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "allocator/audit.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::IsEmpty;

SessionOptions Options(const TestSession& session) {
  SessionOptions options;
  options.names.session = session.name();
  options.names.shm_dir = session.directory();
  options.main_segment_bytes = 4 << 20;
  options.watch_period = absl::Milliseconds(5);
  return options;
}

std::unique_ptr<Member> MustJoin(const TestSession& session) {
  auto member = Member::Join(Options(session));
  EXPECT_TRUE(member.ok()) << member.status().ToString();
  return member.ok() ? *std::move(member) : nullptr;
}

Block MustAllocate(Member& member, uint64_t size_bytes) {
  Block block;
  EXPECT_EQ(member.main_segment().TryAllocate(size_bytes, 64, &block), AllocateResult::kOk);
  return block;
}

PartName NameOf(Member& member, const Block& block, uint64_t used_bytes) {
  return {PartKind::kBlock, member.main_segment().row(), block.id, block.hold.generation(),
          used_bytes};
}

bool AllFree(Member& member) { return member.main_segment().Usage().used_blocks == 0; }

// How many rows of the member table are in use.
int MembersOf(Member& member) {
  int count = 0;
  member.session().members().ForEach([&](auto, auto) { ++count; });
  return count;
}

TEST(MemberTest, LastOneToLeaveRemovesEverything) {
  TestSession session;
  auto first = MustJoin(session);
  auto second = MustJoin(session);
  EXPECT_NE(first->self(), second->self());
  EXPECT_EQ(first->nonce(), second->nonce());
  first.reset();
  EXPECT_FALSE(session.Objects().empty());
  second.reset();
  EXPECT_THAT(session.Objects(), IsEmpty());
}

TEST(MemberTest, WhatALeavingMemberHoldsIsFreed) {
  TestSession session;
  auto survivor = MustJoin(session);
  {
    auto leaving = MustJoin(session);
    for (int i = 0; i < 100; ++i) MustAllocate(*leaving, 1000);
    Reference references[3];
    ASSERT_TRUE(
        leaving->Share(leaving->main_segment(), MustAllocate(*leaving, 10), references).ok());
  }
  EXPECT_TRUE(AllFree(*survivor));
  EXPECT_THAT(AuditSegment(survivor->main_segment().view(), survivor->session().members()),
              IsEmpty());
}

TEST(MemberTest, WhatAKilledMemberHeldComesBack) {
  TestSession session;
  auto survivor = MustJoin(session);
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    auto victim = MustJoin(session);
    for (int i = 0; i < 500; ++i) MustAllocate(*victim, static_cast<uint64_t>(1 + i * 3));
    std::vector<Reference> references(200);
    EXPECT_TRUE(victim->Share(victim->main_segment(), MustAllocate(*victim, 10), references).ok());
    std::vector<PartName> parts;
    for (int i = 0; i < 300; ++i) parts.push_back(NameOf(*victim, MustAllocate(*victim, 100), 100));
    EXPECT_TRUE(victim->Bundle(parts).ok());
    ready.Signal();
    pause();
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  EXPECT_EQ(survivor->main_segment().Usage().used_blocks, 801u);
  child.Kill();
  // Its row is the last that comes back: before that, spans are on their way whose blocks are free.
  EXPECT_TRUE(WaitFor([&] { return MembersOf(*survivor) == 1; }));
  EXPECT_TRUE(AllFree(*survivor));
  EXPECT_THAT(AuditSegment(survivor->main_segment().view(), survivor->session().members()),
              IsEmpty());
}

TEST(MemberTest, SharedBlockLivesAsLongAsItsLastReference) {
  TestSession session;
  auto sender = MustJoin(session);
  auto receiver = MustJoin(session);
  const Block block = MustAllocate(*sender, 5000);
  std::memcpy(block.data, "shared", 6);
  std::vector<Reference> references(64);
  ASSERT_TRUE(sender->Share(sender->main_segment(), block, references).ok());
  for (const Reference& reference : references) {
    const HoldWord sent = sender->Mark(reference, receiver->self().slot);
    const PartName name = PartName::Reference(reference.row, reference.index, sent.generation(), 6);
    auto taken = receiver->AcceptReference(name);
    ASSERT_TRUE(taken.has_value());
    EXPECT_FALSE(receiver->AcceptReference(name).has_value());
    const auto view = receiver->View(*taken);
    ASSERT_TRUE(view.has_value());
    EXPECT_EQ(std::memcmp(view->data, "shared", 6), 0);
    EXPECT_EQ(sender->main_segment().Usage().used_blocks, 1u);
    receiver->Release(*taken);
  }
  EXPECT_TRUE(AllFree(*sender));
}

TEST(MemberTest, CopiesOfAReferenceGoOnWhenItsGroupIsFull) {
  TestSession session;
  auto member = MustJoin(session);
  const Block block = MustAllocate(*member, 5000);
  std::memcpy(block.data, "shared", 6);
  std::vector<Reference> references(1);
  ASSERT_TRUE(member->Share(member->main_segment(), block, references).ok());
  for (int i = 0; i < 3000; ++i) {
    auto copy = member->Copy(&references[0]);
    ASSERT_TRUE(copy.ok()) << i << ": " << copy.status().ToString();
    references.push_back(*copy);
  }
  for (const Reference& reference : references) {
    const auto view = member->View(reference);
    ASSERT_TRUE(view.has_value());
    ASSERT_EQ(std::memcmp(view->data, "shared", 6), 0);
    EXPECT_FALSE(AllFree(*member));
    member->Release(reference);
  }
  EXPECT_TRUE(AllFree(*member));
}

TEST(MemberTest, BundleArrivesWholeOrIsFreedWhole) {
  TestSession session;
  auto sender = MustJoin(session);
  auto receiver = MustJoin(session);
  for (const bool read : {true, false}) {
    std::vector<PartName> parts;
    for (uint64_t i = 0; i < 1000; ++i) {
      parts.push_back(NameOf(*sender, MustAllocate(*sender, 64 + i), i + 1));
    }
    parts.push_back(PartName{});
    const auto bundle = sender->Bundle(parts);
    ASSERT_TRUE(bundle.ok());
    const HoldWord sent = sender->MarkBundle(*bundle, receiver->self().slot);
    const PartName name{PartKind::kBundle, 0, bundle->row, sent.generation(), 0};
    const auto taken = receiver->AcceptBundle(name);
    ASSERT_TRUE(taken.has_value());
    if (!read) {
      receiver->Release(*taken);
      EXPECT_TRUE(AllFree(*sender));
      continue;
    }
    std::vector<PartName> got;
    ASSERT_TRUE(receiver->Unpack(*taken, &got));
    EXPECT_EQ(got, parts);
    for (const PartName& part : got) {
      if (part.kind != PartKind::kBlock) continue;
      receiver->main_segment().Release(Block{
          nullptr, 0, HoldWord::Of(HoldState::kHeld, part.generation, receiver->self().slot, 0),
          part.row, receiver->main_segment().view().Locate(part.row)->span});
    }
    EXPECT_TRUE(AllFree(*sender));
  }
}

TEST(MemberTest, OthersFindFurtherSegments) {
  TestSession session;
  auto first = MustJoin(session);
  auto second = MustJoin(session);
  const auto made = first->CreateSegment({.id = 7, .size_bytes = 1 << 20});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  Block block;
  ASSERT_EQ((*made)->TryAllocate(300000, 4096, &block), AllocateResult::kOk);
  block.data[299999] = std::byte{5};
  Segment* theirs = second->SegmentAt((*made)->row());
  ASSERT_NE(theirs, nullptr);
  EXPECT_EQ(theirs->id(), 7u);
  const HoldWord sent = (*made)->Mark(block, second->self().slot);
  const auto taken = theirs->Accept(block.id, sent.generation(), 300000);
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(taken->data[299999], std::byte{5});
  theirs->Release(*taken);
  EXPECT_EQ(second->SegmentAt(63), nullptr);
  EXPECT_EQ(second->SegmentAt(1000), nullptr);
}

TEST(MemberTest, AllocationThatFailsTakesFromTheDeadFirst) {
  TestSession session;
  SessionOptions options = Options(session);
  options.watch_period = absl::Seconds(1);
  auto survivor = Member::Join(options);
  ASSERT_TRUE(survivor.ok());
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    auto victim = MustJoin(session);
    MustAllocate(*victim, 3 << 20);
    ready.Signal();
    pause();
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  Block block;
  EXPECT_EQ((*survivor)->main_segment().TryAllocate(3 << 20, 64, &block), AllocateResult::kFull);
  child.Kill();
  ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
  EXPECT_EQ((*survivor)->main_segment().TryAllocate(3 << 20, 64, &block), AllocateResult::kOk);
  (*survivor)->main_segment().Release(block);
}

TEST(MemberTest, OneThatWasDeclaredDeadAllocatesNothingMore) {
  TestSession session;
  std::atomic<bool> noticed{false};
  SessionOptions options = Options(session);
  options.on_notice = [&](const SessionNotice& notice) {
    if (notice.kind == SessionNotice::Kind::kOwnLockLost) noticed = true;
  };
  auto joined = Member::Join(options);
  ASSERT_TRUE(joined.ok());
  std::unique_ptr<Member> member = *std::move(joined);
  auto other = MustJoin(session);
  // So that all that it needs is in its caches.
  for (const uint64_t size : {1000, 100000}) {
    member->main_segment().Release(MustAllocate(*member, size));
  }
  Reference references[2];
  ASSERT_TRUE(member->Share(member->main_segment(), MustAllocate(*member, 10), references).ok());
  const Block held = MustAllocate(*member, 10);
  ASSERT_TRUE(other->session().members().MarkDead(member->self()));
  ASSERT_TRUE(WaitFor([&] { return noticed.load(); }));
  EXPECT_FALSE(member->Usable().ok());
  Segment& segment = member->main_segment();
  Block block;
  for (const uint64_t size : {1000, 100000, 5000}) {
    EXPECT_EQ(segment.TryAllocate(size, 64, &block), AllocateResult::kUnusable) << size;
    EXPECT_TRUE(absl::IsFailedPrecondition(
        segment.Allocate(size, 64, Deadline::After(absl::InfiniteDuration())).status()));
  }
  const PartName parts[] = {NameOf(*member, held, 10)};
  EXPECT_TRUE(absl::IsFailedPrecondition(member->Bundle(parts).status()));
  member.reset();
  EXPECT_TRUE(WaitFor([&] { return AllFree(*other); }));
}

TEST(MemberTest, ForkedChildIsToldSo) {
  TestSession session;
  auto member = MustJoin(session);
  EXPECT_TRUE(member->Usable().ok());
  ChildProcess child =
      ChildProcess::Start([&] { return absl::IsFailedPrecondition(member->Usable()) ? 0 : 1; });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

}  // namespace
}  // namespace handoff

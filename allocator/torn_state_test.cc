// SPDX-License-Identifier: Apache-2.0
// What a member leaves in a segment when it is killed after each step of the
// protocol, written by hand; then a survivor reclaims, and everything must be
// as if nothing had been.
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>

#include "allocator/hold.h"
#include "allocator/page_word.h"
#include "allocator/segment.h"
#include "allocator/segment_view.h"
#include "allocator/size_class.h"
#include "allocator/testing/plain_segment.h"
#include "allocator/testing/segment_checks.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr uint64_t kBytes = uint64_t{1} << 20;
constexpr uint32_t kSurvivor = 1;
constexpr uint32_t kVictim = 2;
constexpr uint32_t kHead = 40;  // of the victim's span
constexpr uint32_t kPages = 4;
constexpr uint32_t kSmall = 0;  // a class of one-page spans would do as well
constexpr uint32_t kSmallPages = kSizeClasses[kSmall].pages;

// The words of a segment, to be written as a killed member leaves them.
struct Torn {
  SegmentView<RealSync> view;

  void Page(uint32_t page, PageWord word) const {
    view.page_word(page).store(word.raw(), std::memory_order_relaxed);
  }
  void Run(uint32_t pages) const {
    view.run(kHead).store(RunWord::Of(view.LoadPage(kHead), pages).raw(),
                          std::memory_order_relaxed);
  }
  void LargeHold(HoldWord word) const {
    view.large_hold(kHead).store(word.raw(), std::memory_order_relaxed);
  }
  void SmallHold(uint32_t index, HoldWord word) const {
    view.small_hold(kHead * kWordsPerPage + index).store(word.raw(), std::memory_order_relaxed);
  }
  // A span of the victim whose tails from the first to `tails` are there.
  void Span(uint32_t head_class, uint32_t class_id, uint32_t run, uint32_t tails) const {
    Page(kHead, PageWord().ClaimedAsHead(kVictim).WithClass(head_class));
    if (run > 0) Run(run);
    for (uint32_t i = 1; i <= tails; ++i) {
      Page(kHead + i, PageWord().ClaimedAsTail(class_id, class_id == kLargeClass ? 0 : i));
    }
  }
  void LargeSpan() const { Span(kLargeClass, kLargeClass, kPages, kPages - 1); }
  void SmallSpan() const { Span(kSmall, kSmall, kSmallPages, kSmallPages - 1); }
  // The victim was the reclaimer of somebody: the span has no owner any more.
  void Ownerless() const {
    Page(kHead, view.LoadPage(kHead).Ownerless());
    view.header().ownerless.store(1, std::memory_order_relaxed);
  }
};

HoldWord Held(uint32_t member) {
  return HoldWord::Of(HoldState::kHeld, HoldWord::kFirstLargeGeneration + 1, member, 0);
}
HoldWord Sent(uint32_t from, uint32_t to) {
  return HoldWord::Of(HoldState::kSent, HoldWord::kFirstLargeGeneration + 2, from, to);
}

struct TornCase {
  std::string name;
  std::function<void(const Torn&)> write;

  friend void PrintTo(const TornCase& torn, std::ostream* out) { *out << torn.name; }
};

class TornStateTest : public ::testing::TestWithParam<TornCase> {};

TEST_P(TornStateTest, IsWholeAfterAReclaim) {
  PlainSegmentMemory memory(kBytes);
  const std::unique_ptr<Segment> survivor = memory.Join(kSurvivor);
  const MemberId victim = *memory.members().Publish(kVictim, MemberIdentity{});
  memory.view().header().backed_pages.store(kBytes / kPageBytes, std::memory_order_relaxed);
  GetParam().write(Torn{memory.view()});
  memory.Reclaim(*survivor, victim);
  Segment* const members[] = {survivor.get()};
  ExpectWhole(memory, kBytes, members);
  EXPECT_EQ(memory.members().Word(kVictim), (MemberWord{1, MemberState::kFree}));
}

// The same, where the first reclaimer is killed after each of its own steps:
// every prefix of its writes was made, so here it is enough that it is all done
// twice.
TEST_P(TornStateTest, IsWholeAfterTwoReclaims) {
  PlainSegmentMemory memory(kBytes);
  const std::unique_ptr<Segment> first = memory.Join(kSurvivor);
  const std::unique_ptr<Segment> second = memory.Join(3);
  const MemberId victim = *memory.members().Publish(kVictim, MemberIdentity{});
  memory.view().header().backed_pages.store(kBytes / kPageBytes, std::memory_order_relaxed);
  GetParam().write(Torn{memory.view()});
  ReclaimCount count;
  memory.members().MarkDead(victim);
  EXPECT_TRUE(first->Reclaim(victim, &count));
  EXPECT_TRUE(second->Reclaim(victim, &count));
  EXPECT_TRUE(memory.members().Free(victim));
  EXPECT_FALSE(first->Reclaim(victim, &count)) << "its slot may have a new tenant";
  Segment* const members[] = {first.get(), second.get()};
  ExpectWhole(memory, kBytes, members);
}

INSTANTIATE_TEST_SUITE_P(Allocate, TornStateTest,
                         ::testing::Values(TornCase{"SmallHeld",
                                                    [](const Torn& torn) {
                                                      torn.SmallSpan();
                                                      torn.SmallHold(3,
                                                                     HoldWord().Allocated(kVictim));
                                                    }},
                                           TornCase{"SmallNothingHeld",
                                                    [](const Torn& torn) { torn.SmallSpan(); }},
                                           TornCase{"LargeHeld",
                                                    [](const Torn& torn) {
                                                      torn.LargeSpan();
                                                      torn.LargeHold(Held(kVictim));
                                                    }},
                                           TornCase{"LargeStillInSmallGenerations",
                                                    [](const Torn& torn) { torn.LargeSpan(); }}),
                         [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Claim, TornStateTest,
    ::testing::Values(
        TornCase{"AfterHead",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, 0, 0); }},
        TornCase{"AfterHeadWithTheRunOfAnEarlierUse",
                 [](const Torn& torn) {
                   torn.Span(kPendingClass, kLargeClass, kPages, 0);
                   torn.Page(kHead, torn.view.LoadPage(kHead).GivenBack().ClaimedAsHead(kVictim));
                 }},
        TornCase{"AfterFirstRun",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, 2, 0); }},
        TornCase{"AfterFirstRunBeforeAPageOfAnother",
                 [](const Torn& torn) {
                   torn.Span(kPendingClass, kLargeClass, 2, 0);
                   torn.Page(kHead + 1, PageWord().ClaimedAsHead(kVictim).WithClass(kLargeClass));
                 }},
        TornCase{"AfterFirstTail",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, 2, 1); }},
        TornCase{"AfterLastRun",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, kPages, 2); }},
        TornCase{"AfterLastTail",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, kPages, 3); }},
        TornCase{"AfterLastTailOfASmallSpan",
                 [](const Torn& torn) {
                   torn.Span(kPendingClass, kSmall, kSmallPages, kSmallPages - 1);
                 }},
        TornCase{"AfterClass", [](const Torn& torn) { torn.LargeSpan(); }}),
    [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(
    GiveBack, TornStateTest,
    ::testing::Values(
        TornCase{"AfterPending",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, kPages, 3); }},
        TornCase{"AfterFirstTail",
                 [](const Torn& torn) {
                   torn.Span(kPendingClass, kLargeClass, kPages, 3);
                   torn.Page(kHead + 3, torn.view.LoadPage(kHead + 3).GivenBack());
                 }},
        TornCase{"AfterFirstRun",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, 3, 2); }},
        TornCase{"AfterLastRun",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, 1, 0); }},
        TornCase{"AfterHead", [](const Torn& torn) { torn.Page(kHead, PageWord().GivenBack()); }},
        TornCase{"WithARunThatIsNonsense",
                 [](const Torn& torn) { torn.Span(kPendingClass, kLargeClass, 1 << 20, 3); }}),
    [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(Shrink, TornStateTest,
                         ::testing::Values(TornCase{"AfterFirstRun",
                                                    [](const Torn& torn) {
                                                      torn.Span(kLargeClass, kLargeClass,
                                                                kPages - 1, kPages - 1);
                                                      torn.LargeHold(Held(kVictim));
                                                    }},
                                           TornCase{"AfterFirstTail",
                                                    [](const Torn& torn) {
                                                      torn.Span(kLargeClass, kLargeClass,
                                                                kPages - 1, kPages - 2);
                                                      torn.LargeHold(Held(kVictim));
                                                    }},
                                           TornCase{"OfASpanWithoutOwner",
                                                    [](const Torn& torn) {
                                                      torn.Span(kLargeClass, kLargeClass, 1, 1);
                                                      torn.Ownerless();
                                                      torn.LargeHold(Held(kVictim));
                                                    }}),
                         [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(Holds, TornStateTest,
                         ::testing::Values(TornCase{"ReleasedBeforeTheHint",
                                                    [](const Torn& torn) {
                                                      torn.SmallSpan();
                                                      torn.SmallHold(
                                                          0, HoldWord().Allocated(kVictim).Freed());
                                                    }},
                                           TornCase{"MarkedAndInNoRing",
                                                    [](const Torn& torn) {
                                                      torn.LargeSpan();
                                                      torn.LargeHold(Sent(kVictim, kSurvivor));
                                                    }},
                                           TornCase{"AcceptedFromADeadSender",
                                                    [](const Torn& torn) {
                                                      torn.LargeSpan();
                                                      torn.Ownerless();
                                                      torn.LargeHold(Held(kVictim));
                                                    }},
                                           TornCase{"SentToTheVictimByADeadSender",
                                                    [](const Torn& torn) {
                                                      torn.LargeSpan();
                                                      torn.Ownerless();
                                                      torn.LargeHold(Sent(kNobody, kVictim));
                                                    }},
                                           TornCase{"TakenBack",
                                                    [](const Torn& torn) {
                                                      torn.LargeSpan();
                                                      torn.LargeHold(
                                                          Sent(kVictim, kSurvivor).TakenBack());
                                                    }}),
                         [](const auto& tested) { return tested.param.name; });

// The victim was a reclaimer itself.
INSTANTIATE_TEST_SUITE_P(
    Reclaim, TornStateTest,
    ::testing::Values(TornCase{"WithoutOwnerAndNothingHeld",
                               [](const Torn& torn) {
                                 torn.LargeSpan();
                                 torn.Ownerless();
                               }},
                      TornCase{"SweepHasClearedTheHint",
                               [](const Torn& torn) {
                                 torn.LargeSpan();
                                 torn.Ownerless();
                                 torn.view.header().ownerless.store(0, std::memory_order_relaxed);
                               }},
                      TornCase{"SweepHasMadeItPending",
                               [](const Torn& torn) {
                                 torn.Span(kPendingClass, kLargeClass, kPages, 3);
                                 torn.Ownerless();
                               }},
                      TornCase{"SweepHasFreedOneTail",
                               [](const Torn& torn) {
                                 torn.Span(kPendingClass, kLargeClass, kPages, 2);
                                 torn.Ownerless();
                               }},
                      TornCase{"HalfTheWordsAreFree",
                               [](const Torn& torn) {
                                 torn.SmallSpan();
                                 for (uint32_t i = 0; i < 8; ++i) {
                                   const HoldWord held = HoldWord().Allocated(kVictim);
                                   torn.SmallHold(i, i < 4 ? held.Freed() : held);
                                 }
                               }},
                      TornCase{"TheVictimWasWaitingForMemory",
                               [](const Torn& torn) { torn.view.Wait(kVictim); }}),
    [](const auto& tested) { return tested.param.name; });

// What the dead must not take along: a block that the living has sent, and one
// that it holds.
TEST(TornStateOfTheLivingTest, KeepsWhatASurvivorHoldsInASpanOfTheDead) {
  PlainSegmentMemory memory(kBytes);
  const std::unique_ptr<Segment> survivor = memory.Join(kSurvivor);
  const MemberId victim = *memory.members().Publish(kVictim, MemberIdentity{});
  memory.view().header().backed_pages.store(kBytes / kPageBytes, std::memory_order_relaxed);
  const Torn torn{memory.view()};
  torn.LargeSpan();
  torn.LargeHold(Held(kSurvivor));
  const Block own = MustAllocate(*survivor, 100);
  const HoldWord sent = survivor->Mark(own, kVictim);
  memory.Reclaim(*survivor, victim);
  EXPECT_EQ(memory.view().LoadPage(kHead).state(), PageState::kOwnerless);
  const auto back = survivor->TakeBack(own.id, sent.generation());
  ASSERT_TRUE(back.has_value());
  survivor->Release(*back);
  Block kept;
  kept.data = survivor->payload() + kHead * kPageBytes;
  kept.size_bytes = kPages * kPageBytes;
  kept.hold = Held(kSurvivor);
  kept.id = kHead * kWordsPerPage;
  kept.span = BlockSpan(kHead, /*large=*/true);
  survivor->Release(kept);
  EXPECT_TRUE(memory.view().LoadPage(kHead).IsFree());
  Segment* const members[] = {survivor.get()};
  ExpectWhole(memory, kBytes, members);
}

}  // namespace
}  // namespace handoff

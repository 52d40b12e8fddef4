// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "allocator/hold_moves.h"
#include "allocator/page_map.h"
#include "allocator/page_word.h"
#include "allocator/reclaim.h"
#include "allocator/segment.h"
#include "allocator/segment_view.h"
#include "allocator/size_class.h"
#include "allocator/testing/kill_harness.h"
#include "allocator/testing/segment_checks.h"
#include "allocator/testing/segment_stage.h"
#include "base/clock.h"
#include "control_queue/member_table.h"

// Each operation of a member on a segment, killed and stopped everywhere.

namespace handoff {
namespace {

constexpr uint64_t kPages = 256;  // of most stages' segments

// How many of an operation's kill points are tried with a process each.
constexpr uint64_t kSamples = 4;

void Release(SegmentStage& stage, Segment& segment) {
  for (const Block& block : stage.blocks) segment.Release(block);
}

void AcceptAll(SegmentStage& stage, Segment& segment) {
  for (const auto& [sender, block] : stage.sent) {
    const auto taken = segment.Accept(block.id, block.hold.generation(), 1);
    ASSERT_TRUE(taken.has_value());
    stage.blocks.push_back(*taken);
  }
}

// So that the first call of the operation is not the first of the thread.
void WarmUp(SegmentStage&, Segment& segment) { segment.Release(MustAllocate(segment, 1024)); }

// A member allocates `size_bytes`, or finds that it cannot.
SegmentScript Allocates(std::string name, uint64_t size_bytes, uint64_t alignment = 64) {
  return {
      .name = std::move(name), .set_up = WarmUp, .operate = [=](SegmentStage&, Segment& segment) {
        Block block;
        (void)segment.TryAllocate(size_bytes, alignment, &block);
      }};
}

std::vector<SegmentScript> Allocations() {
  std::vector<SegmentScript> scripts;
  scripts.push_back(Allocates("AllocateSmallFromTheCurrentSpan", 1024));

  scripts.push_back(Allocates("AllocateFirstOfTheProcess", 64));
  scripts.back().set_up = [](SegmentStage&, Segment&) {};

  scripts.push_back(Allocates("AllocateFirstOfItsClass", 2048));

  scripts.push_back(Allocates("AllocateSmallThatNeedsANewSpan", 4096));
  scripts.back().set_up = [](SegmentStage&, Segment& segment) {
    for (uint32_t i = 0; i < kSizeClasses[SmallClassFor(4096)].count; ++i) {
      MustAllocate(segment, 4096);
    }
  };

  scripts.push_back(Allocates("AllocateSmallThatOthersHaveReleased", 1024));
  scripts.back().set_up = [](SegmentStage& stage, Segment& segment) {
    for (int i = 0; i < 64; ++i) stage.blocks.push_back(MustAllocate(segment, 1024));
    // As if by others: the heap of this thread does not know.
    for (const Block& block : stage.blocks) {
      HoldMoves<RealSync>::Release(*segment.view().Locate(block.id)->hold, block.hold);
    }
  };

  scripts.push_back(Allocates("AllocateLargeThatIsKnownToBeFree", 10 * kPageBytes));
  scripts.back().set_up = [](SegmentStage&, Segment& segment) {
    segment.Release(MustAllocate(segment, 10 * kPageBytes));
  };

  scripts.push_back(Allocates("AllocateLarge", 10 * kPageBytes));
  scripts.push_back(Allocates("AllocateNearlyEverything", 200 * kPageBytes));
  scripts.push_back(Allocates("AllocateAligned", 9 * kPageBytes, 16 * kPageBytes));

  scripts.push_back(Allocates("AllocateWhereTheSegmentGrows", 100 * kPageBytes));
  scripts.back().segment_bytes = 2 * kPages * kPageBytes;
  scripts.back().prepare = [](SegmentStage& stage) {
    stage.Keep(*stage.survivor, 200 * kPageBytes);
  };

  scripts.push_back(Allocates("AllocateWhereTheFileSystemIsFull", 100 * kPageBytes));
  scripts.back().segment_bytes = 2 * kPages * kPageBytes;
  scripts.back().payload_limit_bytes = kPages * kPageBytes;
  scripts.back().prepare = [](SegmentStage& stage) {
    stage.Keep(*stage.survivor, 200 * kPageBytes);
  };

  scripts.push_back(Allocates("AllocateWhereNothingIsFree", 200 * kPageBytes));
  scripts.back().segment_bytes = 2 * kPages * kPageBytes;
  scripts.back().prepare = [](SegmentStage& stage) {
    stage.Keep(*stage.survivor, 250 * kPageBytes);
    stage.Keep(*stage.bystander, 5000);
    stage.LeaveADeadMember();
  };
  scripts.back().set_up = [](SegmentStage&, Segment& segment) {
    // What it keeps goes back first.
    segment.Release(MustAllocate(segment, 10 * kPageBytes));
    segment.Release(MustAllocate(segment, 1024));
  };

  scripts.push_back(
      {.name = "AllocateAndWait",
       .prepare = [](SegmentStage& stage) { stage.Keep(*stage.survivor, 200 * kPageBytes); },
       .set_up =
           [](SegmentStage& stage, Segment& segment) {
             WarmUp(stage, segment);
             // Ends the wait during its first slice.
             static std::atomic<bool> interrupted{false};
             stage.interrupted = &interrupted;
             const auto& waiting = segment.view().header().waiting[SegmentStage::kVictim];
             std::thread([&waiting] {
               while (waiting.load(std::memory_order_relaxed) == 0) std::this_thread::yield();
               interrupted.store(true, std::memory_order_release);
             }).detach();
           },
       .operate =
           [](SegmentStage& stage, Segment& segment) {
             (void)segment.Allocate(100 * kPageBytes, 64, Deadline::Infinite(), stage.interrupted);
           }});
  return scripts;
}

std::vector<SegmentScript> Releases() {
  std::vector<SegmentScript> scripts;
  for (const auto& [name, size_bytes] : {std::pair<const char*, uint64_t>{"Small", 64},
                                         {"LastOfASpan", 32768},
                                         {"Large", 10 * kPageBytes},
                                         {"NearlyEverything", 200 * kPageBytes}}) {
    // Its own, which it keeps or gives back.
    scripts.push_back({.name = std::string("Release") + name,
                       .set_up =
                           [size = size_bytes](SegmentStage& stage, Segment& segment) {
                             stage.blocks = {MustAllocate(segment, size)};
                           },
                       .operate = Release});
    // That of a living member.
    scripts.push_back(
        {.name = std::string("ReleaseForeign") + name,
         .prepare = [size = size_bytes](
                        SegmentStage& stage) { stage.SendToVictim(*stage.survivor, size); },
         .set_up = AcceptAll,
         .operate = Release});
    // The last block of a span whose owner has died.
    scripts.push_back({.name = std::string("ReleaseOwnerless") + name,
                       .prepare =
                           [size = size_bytes](SegmentStage& stage) {
                             auto owner = stage.memory.Join(SegmentStage::kDead);
                             stage.SendToVictim(*owner, size);
                             stage.others.push_back(std::move(owner));
                           },
                       .set_up =
                           [](SegmentStage& stage, Segment& segment) {
                             AcceptAll(stage, segment);
                             stage.memory.Reclaim(segment, stage.others[0]->self());
                           },
                       .operate = Release});
  }
  scripts.push_back(
      {.name = "ReleaseWhileSomebodyWaits",
       .prepare =
           [](SegmentStage& stage) {
             stage.memory.view().Wait(SegmentStage::kDead);
             stage.others.push_back(stage.memory.Join(SegmentStage::kDead));
           },
       .set_up =
           [](SegmentStage& stage, Segment& segment) {
             segment.Release(MustAllocate(segment, 10 * kPageBytes));
             stage.blocks = {MustAllocate(segment, 1024), MustAllocate(segment, 50000)};
           },
       .operate = Release});
  return scripts;
}

std::vector<SegmentScript> OtherMoves() {
  const auto shrink = [](SegmentStage& stage, Segment& segment) {
    EXPECT_EQ(segment.Shrink(&stage.blocks[0], 3 * kPageBytes), ShrinkResult::kOk);
  };
  std::vector<SegmentScript> scripts;
  scripts.push_back(
      {.name = "ShrinkItsOwn",
       .set_up = [](SegmentStage& stage,
                    Segment& segment) { stage.blocks = {MustAllocate(segment, 40 * kPageBytes)}; },
       .operate = shrink});
  scripts.push_back(
      {.name = "ShrinkForeign",
       .prepare = [](SegmentStage& stage) { stage.SendToVictim(*stage.survivor, 40 * kPageBytes); },
       .set_up = AcceptAll,
       .operate = shrink});
  scripts.push_back({.name = "Mark",
                     .set_up =
                         [](SegmentStage& stage, Segment& segment) {
                           for (uint64_t size : {64, 50000}) {
                             stage.blocks.push_back(MustAllocate(segment, size));
                           }
                         },
                     .operate =
                         [](SegmentStage& stage, Segment& segment) {
                           for (const Block& block : stage.blocks) {
                             (void)segment.Mark(block, SegmentStage::kSurvivor);
                           }
                         }});
  scripts.push_back({.name = "Accept",
                     .prepare =
                         [](SegmentStage& stage) {
                           stage.SendToVictim(*stage.survivor, 64);
                           stage.SendToVictim(*stage.bystander, 50000);
                         },
                     .operate = AcceptAll});
  scripts.push_back(
      {.name = "AcceptOfALie",
       .prepare = [](SegmentStage& stage) { stage.SendToVictim(*stage.survivor, 64); },
       .operate =
           [](SegmentStage& stage, Segment& segment) {
             const Block& block = stage.sent[0].second;
             EXPECT_FALSE(segment.Accept(block.id, block.hold.generation(), 100000).has_value());
           }});
  scripts.push_back({.name = "TakeBack",
                     .set_up =
                         [](SegmentStage& stage, Segment& segment) {
                           for (uint64_t size : {64, 50000}) {
                             stage.blocks.push_back(MustAllocate(segment, size));
                             stage.blocks.back().hold =
                                 segment.Mark(stage.blocks.back(), SegmentStage::kSurvivor);
                           }
                         },
                     .operate =
                         [](SegmentStage& stage, Segment& segment) {
                           for (const Block& block : stage.blocks) {
                             EXPECT_TRUE(
                                 segment.TakeBack(block.id, block.hold.generation()).has_value());
                           }
                         }});
  scripts.push_back({.name = "TrimThatGivesSpansBack",
                     .set_up =
                         [](SegmentStage& stage, Segment& segment) {
                           for (uint64_t size : {1024, 9000, 40000}) {
                             stage.blocks.push_back(MustAllocate(segment, size));
                           }
                           Release(stage, segment);
                         },
                     .operate = [](SegmentStage&, Segment& segment) { segment.Trim(); }});
  return scripts;
}

// Reclaim of a member in slot kDead, which then is free, or has a new tenant by the time the
// stopped reclaimer goes on.
std::vector<SegmentScript> Reclaims() {
  const auto leave_a_dead_member = [](SegmentStage& stage) {
    stage.LeaveADeadMember();
    stage.memory.view().Wait(SegmentStage::kDead);
  };
  const auto reclaim = [](SegmentStage& stage, Segment& segment) {
    stage.memory.Reclaim(segment, stage.dead);
  };
  // The victim looks like a late reclaimer to whoever joins in the slot next.
  const auto reuse_the_slot = [](SegmentStage& stage) {
    stage.memory.Reclaim(*stage.survivor, stage.dead);
    const auto tenant = stage.memory.members().Publish(SegmentStage::kDead, MemberIdentity{});
    if (!tenant.has_value()) return;
    stage.others.push_back(stage.memory.Attach(*tenant));
    for (int round = 0; round < 3; ++round) {
      for (uint64_t size : {1024, 9000, 40000}) {
        (void)MustAllocate(*stage.others.back(), size);
        (void)stage.others.back()->Mark(MustAllocate(*stage.others.back(), size),
                                        SegmentStage::kBystander);
      }
    }
    stage.tenants = WordsOf(stage.memory, SegmentStage::kDead);
  };
  std::vector<SegmentScript> scripts;
  scripts.push_back({.name = "Reclaim",
                     .prepare = leave_a_dead_member,
                     .set_up = WarmUp,
                     .operate = reclaim,
                     .use_while_stopped = reuse_the_slot});
  scripts.push_back({.name = "ReclaimAfterAnotherDidHalf",
                     .prepare = leave_a_dead_member,
                     .set_up =
                         [](SegmentStage& stage, Segment& segment) {
                           WarmUp(stage, segment);
                           // What one leaves that was killed between the words and the pages, and
                           // one that had begun with the pages.
                           const SegmentView<RealSync>& view = segment.view();
                           const SegmentReclaim<RealSync> other(view, stage.memory.members());
                           for (uint32_t page = 0; page < view.backed_pages() / 2; ++page) {
                             const PageWord head = view.LoadPage(page);
                             if (!head.IsOwnedBy(SegmentStage::kDead)) continue;
                             for (uint32_t i = 0; i < view.BlockCount(page, head); ++i) {
                               HoldMoves<RealSync>::Word& word = view.HoldAt(page, head, i);
                               (void)other.Word(word, stage.dead, [&](HoldWord& seen) {
                                 return HoldMoves<RealSync>::Swap(word, seen, seen.Freed());
                               });
                             }
                             if (page % 2 == 0) continue;
                             PageWord seen = head;
                             PageMap<RealSync>::Swap(view, page, seen, head.Ownerless());
                           }
                         },
                     .operate = reclaim,
                     .use_while_stopped = reuse_the_slot});
  scripts.push_back({.name = "TickThatSweeps",
                     .prepare =
                         [](SegmentStage& stage) {
                           stage.others.push_back(stage.memory.Join(SegmentStage::kDead));
                           for (uint64_t size : {1024, 9000, 50000}) {
                             stage.SendToVictim(*stage.others[0], size);
                           }
                         },
                     .set_up =
                         [](SegmentStage& stage, Segment& segment) {
                           AcceptAll(stage, segment);
                           stage.memory.Reclaim(segment, stage.others[0]->self());
                           // Released, and stopped before the look at the page.
                           for (const Block& block : stage.blocks) {
                             HoldMoves<RealSync>::Release(*segment.view().Locate(block.id)->hold,
                                                          block.hold);
                           }
                         },
                     .operate = [](SegmentStage&, Segment& segment) { segment.Tick(); }});
  return scripts;
}

std::vector<SegmentScript> Scripts() {
  std::vector<SegmentScript> scripts;
  for (const auto& part : {Allocations(), Releases(), OtherMoves(), Reclaims()}) {
    scripts.insert(scripts.end(), part.begin(), part.end());
  }
  return scripts;
}

class KillTest : public ::testing::TestWithParam<SegmentScript> {
 protected:
  KillStageFactory Make() const {
    return [] { return std::make_unique<SegmentStage>(GetParam()); };
  }
  // Stepping through an operation takes long: once for all tests of it.
  static InstructionTrace* Trace() {
    static std::map<std::string, InstructionTrace> traces;
    return &traces[GetParam().name];
  }
  static void Report(const char* what, const KillReport& report) {
    handoff::Report(GetParam().name, what, report);
  }
};

TEST_P(KillTest, LeavesNothingBehindAfterAnyInstruction) {
  const KillReport report = ExpectWholeAfterEveryStore(Make(), Trace());
  Report("instructions, all covered", report);
  EXPECT_GT(report.tried, 1u);
}

TEST_P(KillTest, LeavesNothingBehindAfterARealKill) {
  Report("instructions to be killed after", ExpectWholeAfterKills(Make(), kSamples, Trace()));
}

TEST_P(KillTest, LeavesNothingBehindAfterAKillAtACrashPoint) {
  Report("passes of crash points", ExpectWholeAfterCrashPoints(Make(), kSamples));
}

TEST_P(KillTest, DelaysNobodyWhileItStandsStill) {
  Report("instructions to stand still after", ExpectWholeAfterStops(Make(), kSamples, Trace()));
}

INSTANTIATE_TEST_SUITE_P(Segment, KillTest, ::testing::ValuesIn(Scripts()),
                         [](const auto& script) { return script.param.name; });

}  // namespace
}  // namespace handoff

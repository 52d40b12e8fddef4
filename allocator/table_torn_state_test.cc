// SPDX-License-Identifier: Apache-2.0
// What a member leaves of a share group or a bundle when it is killed after each step, written by
// hand; then a survivor reclaims, and the blocks, the group and the bundle must be free and usable.
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "allocator/bundle.h"
#include "allocator/hold.h"
#include "allocator/hold_moves.h"
#include "allocator/page_map.h"
#include "allocator/page_word.h"
#include "allocator/part_name.h"
#include "allocator/reclaim.h"
#include "allocator/segment_layout.h"
#include "allocator/segment_view.h"
#include "allocator/share_group.h"
#include "allocator/size_class.h"
#include "allocator/table_reclaim.h"
#include "base/cache_line.h"
#include "base/mutation.h"
#include "base/sync.h"
#include "control_queue/member_table.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using Moves = HoldMoves<RealSync>;

constexpr uint32_t kSurvivor = 1;
constexpr uint32_t kVictim = 2;
constexpr uint32_t kBlocks = 2;

template <class Sync>
class WorldOf;

template <class Sync>
class Names {
 public:
  explicit Names(const WorldOf<Sync>& world) : world_(&world) {}
  typename HoldMoves<Sync>::Word* Find(const PartName& name) const;
  void Freed(const PartName& name) const;
  void FreedGroup(uint32_t row) const;
  void FreedBundle(uint32_t row) const;
  bool ReleaseReference(const PartName& name, HoldWord seen) const;

 private:
  const WorldOf<Sync>* world_;
};

// Two blocks of a page each, a group and a bundle, all of pages that the victim owns; and two
// members.
template <class Sync>
class WorldOf {
 public:
  using Moves = HoldMoves<Sync>;
  using Word = typename Moves::Word;
  using View = SegmentView<Sync>;

  WorldOf()
      : blocks(segment_, kBlocks),
        group_view(group_table_, 1),
        bundle_view(bundle_table_, 1),
        members(rows_),
        groups(group_view, &target_, Names<Sync>(*this)),
        bundles(bundle_view, list_, Names<Sync>(*this)) {
    (void)members.Publish(kSurvivor, MemberIdentity{});
    victim = *members.Publish(kVictim, MemberIdentity{});
    for (const View* view : {&blocks, &group_view, &bundle_view}) {
      view->header().backed_pages.store(view->page_count(), std::memory_order_relaxed);
      for (uint32_t page = 0; page < view->page_count(); ++page) {
        EXPECT_FALSE(PageMap<Sync>::Claim(*view, page, 1, kVictim, kLargeClass).has_value());
      }
    }
    for (uint32_t i = 0; i < kBlocks; ++i) {
      names[i] = {.kind = PartKind::kBlock, .row = i * kWordsPerPage, .used_bytes = 1};
      names[i].generation = Take(Block(i)).generation();
    }
  }

  Word& Block(uint32_t i) const { return blocks.large_hold(i); }
  Word& Group() const { return groups.GroupWord(0); }
  Word& Reference(uint32_t i) const { return groups.ReferenceWord(0, i); }
  Word& Bundle() const { return bundles.BundleWord(0); }

  static HoldWord Take(Word& word) { return *Moves::Allocate(word, kVictim); }
  static void Put(Word& word, HoldWord hold) { word.store(hold.raw(), std::memory_order_relaxed); }

  // Steps 1 to `steps` of sharing block 0 by two references; a half step does one of the two.
  void Share(double steps) {
    if (steps >= 1) Take(Group());
    if (steps >= 2) {
      target_.name[0].store(names[0].Packed().word, std::memory_order_relaxed);
      target_.name[1].store(names[0].Packed().tag, std::memory_order_relaxed);
      target_.word_count.store(2, std::memory_order_relaxed);
    }
    if (steps >= 2.5) Take(Reference(0));
    if (steps >= 3) Take(Reference(1));
    if (steps >= 4) Put(Group(), Moves::Load(Group()).MadeLive());
    if (steps >= 5) Put(Block(0), Moves::Load(Block(0)).SharedBy(0));
  }
  void RaiseWordCount() { target_.word_count.store(3, std::memory_order_relaxed); }

  // Steps 1 to `steps` of bundling both blocks; 2.5: one part of two.
  void Build(double steps) {
    if (steps >= 1) Take(Bundle());
    if (steps >= 2) {
      auto& list = *reinterpret_cast<PartList<Sync>*>(list_);
      auto* parts = reinterpret_cast<typename Sync::template Atomic<uint64_t>*>(list_ + 8);
      for (uint32_t i = 0; i < kBlocks; ++i) {
        parts[2 * i].store(names[i].Packed().word, std::memory_order_relaxed);
        parts[2 * i + 1].store(names[i].Packed().tag, std::memory_order_relaxed);
      }
      list.count.store(kBlocks, std::memory_order_relaxed);
    }
    if (steps >= 2.5) Put(Block(0), Moves::Load(Block(0)).BundledIn(0));
    if (steps >= 3) Put(Block(1), Moves::Load(Block(1)).BundledIn(0));
  }

  // The list names block 0 in place of block 1, which is not in the bundle then.
  void ListTwice() {
    auto* words = reinterpret_cast<typename Sync::template Atomic<uint64_t>*>(list_ + 8);
    words[2].store(names[0].Packed().word, std::memory_order_relaxed);
    words[3].store(names[0].Packed().tag, std::memory_order_relaxed);
    Moves::Release(Block(1), Moves::Load(Block(1)));
  }

  // As Member::ReclaimMember does.
  void Reclaim() {
    members.MarkDead(victim);
    EXPECT_TRUE(ReclaimGroups(group_view, groups, members, victim));
    EXPECT_TRUE(ReclaimBundles(bundle_view, bundles, members, victim));
    ReclaimCount count;
    EXPECT_TRUE(SegmentReclaim<Sync>(blocks, members).Member(victim, &count));
    SweepGroups(group_view, groups);
    EXPECT_TRUE(members.Free(victim));
  }

  void ExpectWhole() {
    for (uint32_t i = 0; i < kBlocks; ++i) {
      EXPECT_TRUE(Moves::Load(Block(i)).IsFree()) << "block " << i;
      EXPECT_TRUE(blocks.LoadPage(i).IsFree()) << "page of block " << i;
      EXPECT_TRUE(Moves::Load(Reference(i)).IsFree()) << "reference " << i;
    }
    EXPECT_TRUE(Moves::Load(Group()).IsFree());
    EXPECT_TRUE(Moves::Load(Bundle()).IsFree());
    EXPECT_TRUE(group_view.LoadPage(0).IsFree());
    EXPECT_TRUE(bundle_view.LoadPage(0).IsFree());
  }

 private:
  alignas(kPageBytes) std::byte segment_[SegmentAreaLayout(kBlocks).end] = {};
  alignas(kPageBytes) std::byte group_table_[SegmentAreaLayout(1).end] = {};
  alignas(kPageBytes) std::byte bundle_table_[SegmentAreaLayout(1).end] = {};
  alignas(kPageBytes) std::byte list_[kPageBytes] = {};
  alignas(2 * kCacheLineSize) std::byte rows_[MemberTable<Sync>::BytesNeeded()] = {};
  GroupTarget<Sync> target_ = {};

 public:
  const View blocks;
  const View group_view;
  const View bundle_view;
  MemberTable<Sync> members;
  const ShareGroups<Sync, Names<Sync>> groups;
  const Bundles<Sync, Names<Sync>> bundles;
  MemberId victim;
  std::array<PartName, kBlocks> names;
};

template <class Sync>
typename HoldMoves<Sync>::Word* Names<Sync>::Find(const PartName& name) const {
  if (name.kind == PartKind::kReference) {
    return world_->groups.Find(name.group(), name.reference());
  }
  const auto location = world_->blocks.Locate(name.row);
  return name.kind == PartKind::kBlock && location.has_value() ? location->hold : nullptr;
}
template <class Sync>
void Names<Sync>::Freed(const PartName& name) const {
  const uint32_t page = name.row / kWordsPerPage;
  PageMap<Sync>::FreeOwnerless(world_->blocks, page, world_->blocks.LoadPage(page));
}
template <class Sync>
void Names<Sync>::FreedGroup(uint32_t row) const {
  PageMap<Sync>::FreeOwnerless(world_->group_view, row, world_->group_view.LoadPage(row));
}
template <class Sync>
void Names<Sync>::FreedBundle(uint32_t row) const {
  PageMap<Sync>::FreeOwnerless(world_->bundle_view, row, world_->bundle_view.LoadPage(row));
}
template <class Sync>
bool Names<Sync>::ReleaseReference(const PartName& name, HoldWord seen) const {
  return world_->groups.ReleaseOfNobody(name.group(), name.reference(), seen);
}

using World = WorldOf<RealSync>;

struct TornCase {
  std::string name;
  std::function<void(World&)> write;

  friend void PrintTo(const TornCase& torn, std::ostream* out) { *out << torn.name; }
};

class TableTornStateTest : public ::testing::TestWithParam<TornCase> {};

TEST_P(TableTornStateTest, IsWholeAfterAReclaim) {
  World world;
  GetParam().write(world);
  world.Reclaim();
  world.ExpectWhole();
}

HoldWord Free(Moves::Word& word) { return Moves::Load(word).Freed(); }

INSTANTIATE_TEST_SUITE_P(
    Share, TableTornStateTest,
    ::testing::Values(TornCase{"BeforeTheGroup", [](World&) {}},
                      TornCase{"AfterTheGroup", [](World& world) { world.Share(1); }},
                      TornCase{"AfterTheTarget", [](World& world) { world.Share(2); }},
                      TornCase{"AfterOneReference", [](World& world) { world.Share(2.5); }},
                      TornCase{"AfterTheReferences", [](World& world) { world.Share(3); }},
                      TornCase{"AfterLive", [](World& world) { world.Share(4); }},
                      TornCase{"AfterShared", [](World& world) { world.Share(5); }},
                      TornCase{"CopyAfterTheWordCount",
                               [](World& world) {
                                 world.Share(5);
                                 world.RaiseWordCount();
                               }},
                      TornCase{"CopyAfterItsWord",
                               [](World& world) {
                                 world.Share(5);
                                 world.RaiseWordCount();
                                 World::Take(world.Reference(2));
                               }},
                      TornCase{"ReferenceMarkedAndInNoRing",
                               [](World& world) {
                                 world.Share(5);
                                 World::Put(world.Reference(1),
                                            Moves::Load(world.Reference(1)).Marked(kSurvivor));
                               }}),
    [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Release, TableTornStateTest,
    ::testing::Values(TornCase{"AfterOneReference",
                               [](World& world) {
                                 world.Share(5);
                                 World::Put(world.Reference(0), Free(world.Reference(0)));
                               }},
                      TornCase{"AfterTheLastReference",
                               [](World& world) {
                                 world.Share(5);
                                 World::Put(world.Reference(0), Free(world.Reference(0)));
                                 World::Put(world.Reference(1), Free(world.Reference(1)));
                               }},
                      TornCase{"AfterTheBlock",
                               [](World& world) {
                                 world.Share(5);
                                 World::Put(world.Reference(0), Free(world.Reference(0)));
                                 World::Put(world.Reference(1), Free(world.Reference(1)));
                                 World::Put(world.Block(0), Free(world.Block(0)));
                               }},
                      TornCase{"AfterTheGroup",
                               [](World& world) {
                                 world.Share(5);
                                 for (Moves::Word* word : {&world.Reference(0), &world.Reference(1),
                                                           &world.Block(0), &world.Group()}) {
                                   World::Put(*word, Free(*word));
                                 }
                               }}),
    [](const auto& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Bundle, TableTornStateTest,
    ::testing::Values(
        TornCase{"AfterTheRow", [](World& world) { world.Build(1); }},
        TornCase{"AfterTheList", [](World& world) { world.Build(2); }},
        TornCase{"AfterOnePart", [](World& world) { world.Build(2.5); }},
        TornCase{"AfterTheParts", [](World& world) { world.Build(3); }},
        TornCase{"MarkedAndInNoRing",
                 [](World& world) {
                   world.Build(3);
                   World::Put(world.Bundle(), Moves::Load(world.Bundle()).Marked(kSurvivor));
                 }},
        TornCase{"UnpackedByHalf",
                 [](World& world) {
                   world.Build(3);
                   World::Put(world.Block(0), Moves::Load(world.Block(0)).Unpacked(kVictim));
                 }},
        TornCase{"UnpackedButForItsRow",
                 [](World& world) {
                   world.Build(3);
                   World::Put(world.Block(0), Moves::Load(world.Block(0)).Unpacked(kVictim));
                   World::Put(world.Block(1), Moves::Load(world.Block(1)).Unpacked(kVictim));
                 }},
        TornCase{"UnpackedWhole",
                 [](World& world) {
                   world.Build(3);
                   World::Put(world.Block(0), Moves::Load(world.Block(0)).Unpacked(kVictim));
                   World::Put(world.Block(1), Moves::Load(world.Block(1)).Unpacked(kVictim));
                   World::Put(world.Bundle(), Free(world.Bundle()));
                 }},
        TornCase{"FreedByHalf",
                 [](World& world) {
                   world.Build(3);
                   World::Put(world.Block(0), Free(world.Block(0)));
                 }},
        TornCase{"FreedButForItsRow",
                 [](World& world) {
                   world.Build(3);
                   World::Put(world.Block(0), Free(world.Block(0)));
                   World::Put(world.Block(1), Free(world.Block(1)));
                 }}),
    [](const auto& tested) { return tested.param.name; });

TEST(DamagedTableTest, ABundleOfNoPagesHasNoParts) {
  WorldOf<RealSync> world;
  world.Build(3);
  world.bundle_view.run(0).store(RunWord::Of(world.bundle_view.LoadPage(0), 0).raw(),
                                 std::memory_order_relaxed);  // nonsense
  std::vector<PartName> parts;
  world.bundles.PartsOf(0, &parts);
  EXPECT_TRUE(parts.empty());
}

TEST(DamagedTableTest, ABundleThatListsAPartTwiceIsFreed) {
  WorldOf<RealSync> world;
  world.Build(3);
  world.ListTwice();
  std::vector<PartName> parts;
  EXPECT_FALSE(world.bundles.Unpack(0, Moves::Load(world.Bundle()), &parts));
  EXPECT_TRUE(Moves::Load(world.Block(0)).IsFree());
  EXPECT_TRUE(Moves::Load(world.Bundle()).IsFree());
}

// With a wrong shortcut taken by hand.
template <Mutation kTaken>
struct MutatedSync : RealSync {
  static bool Mutated(Mutation mutation) { return mutation == kTaken; }
};

// A reclaimer that has found a bundle of the dead is stopped; others free it, and its row is that
// of the next bundle when it goes on. True if that one stays whole.
template <class Sync>
bool NextBundleStaysWhole() {
  using SyncMoves = HoldMoves<Sync>;
  WorldOf<Sync> world;
  world.Build(3);
  const HoldWord found = SyncMoves::Load(world.Bundle());
  world.bundles.Free(0, found);
  for (uint32_t i = 0; i < kBlocks; ++i) {
    world.names[i].generation = world.Take(world.Block(i)).generation();
  }
  world.Build(3);
  world.bundles.Free(0, found);  // the late one
  return SyncMoves::Load(world.Block(0)).state() == HoldState::kBundled &&
         SyncMoves::Load(world.Block(1)).state() == HoldState::kBundled &&
         SyncMoves::Load(world.Bundle()).IsHeldBy(kVictim);
}

TEST(LateReclaimerTest, LeavesTheNextBundleOfTheRowAlone) {
  EXPECT_TRUE(NextBundleStaysWhole<RealSync>());
  EXPECT_FALSE(NextBundleStaysWhole<MutatedSync<Mutation::kFreePartsBlindly>>())
      << "the shortcut is not seen here";
}

// A reclaimer is stopped before it frees the head of a span that the dead was giving back; others
// free it, and the next tenant of the slot has it in the same state. True if that one keeps it.
template <class Sync>
bool NextOwnerKeepsThePage() {
  using Pages = PageMap<Sync>;
  WorldOf<Sync> world;
  const SegmentView<Sync>& view = world.blocks;
  PageWord head = view.LoadPage(0);
  const PageWord pending = head.WithClass(kPendingClass);
  EXPECT_TRUE(Pages::Swap(view, 0, head, pending));
  PageWord next;
  bool stopped = false;
  Pages::FreePending(view, 0, pending, [&] {
    if (stopped) return true;
    stopped = true;
    Pages::FreePending(view, 0, pending, [] { return true; });
    EXPECT_TRUE(view.LoadPage(0).IsFree());
    EXPECT_FALSE(Pages::Claim(view, 0, 1, kVictim, kLargeClass).has_value());
    PageWord owned = view.LoadPage(0);
    next = owned.WithClass(kPendingClass);
    EXPECT_TRUE(Pages::Swap(view, 0, owned, next));
    return true;
  });
  return view.LoadPage(0) == next;
}

TEST(LateReclaimerTest, LeavesThePageOfTheNextTenantAlone) {
  EXPECT_TRUE(NextOwnerKeepsThePage<RealSync>());
  EXPECT_FALSE(NextOwnerKeepsThePage<MutatedSync<Mutation::kNoPageGeneration>>())
      << "the shortcut is not seen here";
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_EXPLORED_WORLD_H_
#define HANDOFF_ALLOCATOR_TESTING_EXPLORED_WORLD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "allocator/bundle.h"
#include "allocator/hold_moves.h"
#include "allocator/page_map.h"
#include "allocator/part_name.h"
#include "allocator/segment_layout.h"
#include "allocator/segment_view.h"
#include "allocator/share_group.h"
#include "allocator/size_class.h"
#include "allocator/testing/explored_session.h"
#include "control_queue/spsc_ring.h"
#include "control_queue/testing/state_space.h"

namespace handoff {

// What the members of an ExploredWorld may do, at most, in one history.
struct ExploredBudget {
  int allocations = 1;
  int kills = 1;
  int newcomers = 0;  // who take the slot of somebody dead
  int claims = 0;     // of the page, when it is free
  int gives = 0;      // of the page, by its owner
  int closes = 0;     // of the consumer's end of a ring that is open
  int recalls = 0;    // taking back from a living receiver
  int shares = 0;
  int copies = 0;
  int sweeps = 0;  // of groups
  int bundles = 0;
  uint64_t capacity = 2;  // of each ring
  uint32_t rings = 0;     // a bit for each of kExploredTopology
  int members = 3;
  int messages = 1;                 // that a member has at a time, 1 or 2
  uint32_t mortals = ~uint32_t{0};  // a bit for each slot - 1 whose first member may be killed
};

// Producer and consumer of each ring, by slot. Slot 1 has the page at first, and the only row of
// the group table and that of the bundle table.
inline constexpr std::array<std::array<uint32_t, 2>, 4> kExploredTopology = {
    {{1, 2}, {1, 3}, {3, 2}, {3, 4}}};
inline constexpr uint32_t kNoRing = 0;
inline constexpr uint32_t kRing1To2 = 0b0001;
inline constexpr uint32_t kRing1To3 = 0b0010;
inline constexpr uint32_t kRing3To2 = 0b0100;
inline constexpr uint32_t kRing3To4 = 0b1000;

// One page of two blocks, one share group, one bundle, a few rings, and members who do with them
// whatever can be done, in any order: the protocol's own code, made of steps. Members are killed
// after any of them; all others reclaim.
class ExploredWorld {
 public:
  static constexpr uint32_t kBlocks = 2;
  static constexpr uint32_t kReferences = 4;
  static constexpr uint32_t kRings = 4;
  static constexpr uint32_t kMostCapacity = 2;
  // Everything that has a hold: blocks, references, the bundle.
  static constexpr uint32_t kThings = kBlocks + kReferences + 1;

  using Ring = SpscRing<ExploredSync>;

  // How the protocol's code finds holds, as MemberNames does.
  class Names {
   public:
    explicit Names(ExploredWorld& world) : world_(&world) {}
    ExploredMoves::Word* Find(const PartName& name) const;
    void Freed(const PartName& name) const;
    void FreedGroup(uint32_t row) const;
    void FreedBundle(uint32_t row) const;
    bool ReleaseReference(const PartName& name, HoldWord seen) const;
    bool Release(const PartName& name, HoldWord seen) const;

   private:
    ExploredWorld* world_;
  };

  // One at a time: the shared bytes are static.
  explicit ExploredWorld(const ExploredBudget& budget);

  StateSpaceResult Explore(Mutation mutation);

 private:
  class Actor;

  // The class of the largest small blocks: two of them in a span. Of its sixteen pages only the
  // first is in use here, as if the run of the span had been cut to one.
  static constexpr uint32_t kClass = kSmallClassCount - 1;
  static constexpr uint32_t kPages = 16;
  static_assert(kSizeClasses[kClass].count == kBlocks && kSizeClasses[kClass].pages == kPages);

  struct Counters {
    Ghost<int> allocations, newcomers, claims, gives, closes, recalls, shares, copies, sweeps,
        bundles;
  };
  struct Shared {
    alignas(kPageBytes) std::byte segment[SegmentAreaLayout(kPages).end] = {};
    std::byte group_table[SegmentAreaLayout(1).end] = {};
    std::byte bundle_table[SegmentAreaLayout(1).end] = {};
    std::byte bundle_list[kPageBytes] = {};
    GroupTarget<ExploredSync> target = {};
    ExploredSession session;
    RingHeader<ExploredSync> headers[kRings];
    RingEntry<ExploredSync> entries[kRings][kMostCapacity];
    Counters left;
    // The actor + 1 that has a message of the thing, and its hold.
    Ghost<uint32_t> owner[kThings];
    Ghost<uint64_t> owners_hold[kThings];
    // Where and how the thing was published; 0: it is not.
    Ghost<uint64_t> published_in[kThings];  // generation of the ring << 8 | ring + 1
    Ghost<uint64_t> published_as[kThings];  // hold
    Ghost<uint32_t> closing;  // a bit for each ring whose reader frees what is unread, and goes
  };

  bool Has(uint32_t ring) const { return (budget_.rings >> ring & 1) != 0; }
  Ring RingAt(uint32_t k) {
    return Ring(shared_.headers[k], {shared_.entries[k], budget_.capacity});
  }
  HoldWord BlockHold(uint32_t block) { return ExploredMoves::Load(view_.small_hold(block)); }
  HoldWord GroupHold() { return ExploredMoves::Load(groups_.GroupWord(0)); }
  HoldWord BundleHold() { return ExploredMoves::Load(bundles_.BundleWord(0)); }

  static uint32_t ThingOf(const PartName& name);
  HoldWord ThingHold(uint32_t thing);
  void Own(size_t actor, uint32_t thing, HoldWord hold);
  void Disown(uint32_t thing) { shared_.owner[thing].Set(0); }

  void OnKill(size_t actor);
  void Check();
  void CheckThing(uint32_t thing);
  void CheckAtRest();

  alignas(kPageBytes) static std::byte memory_[sizeof(Shared)];
  const ExploredBudget budget_;
  Shared& shared_;
  const ExploredView view_;
  const ExploredView group_view_;
  const ExploredView bundle_view_;
  const ExploredMembers members_;
  const ShareGroups<ExploredSync, Names> groups_;
  const Bundles<ExploredSync, Names> bundles_;
  MemberId selves_[kExploredSlots];
};

// Every state is right; prints how many there are.
void ExpectRight(const ExploredBudget& budget);
// With the shortcut `mutation` taken by hand, something is seen to go wrong.
void ExpectWrong(Mutation mutation, const ExploredBudget& budget);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_EXPLORED_WORLD_H_

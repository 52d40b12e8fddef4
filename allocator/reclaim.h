// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_RECLAIM_H_
#define HANDOFF_ALLOCATOR_RECLAIM_H_

#include <atomic>
#include <cstdint>

#include "allocator/hold_moves.h"
#include "allocator/page_map.h"
#include "allocator/segment_view.h"
#include "base/barrier.h"
#include "base/crash_point.h"
#include "base/mutation.h"
#include "control_queue/member_table.h"

namespace handoff {

// What one reclaim has brought back, for events and people.
struct ReclaimCount {
  uint64_t blocks = 0;
  uint64_t bytes = 0;

  ReclaimCount& operator+=(const ReclaimCount& other) {
    blocks += other.blocks;
    bytes += other.bytes;
    return *this;
  }
};

// The rare side's half of an asymmetric fence; a Sync that has one of its own brings it.
template <class Sync>
void RareBarrier() {
  if constexpr (requires { Sync::RareBarrier(); }) {
    Sync::RareBarrier();
  } else {
    (void)RareSideBarrier();  // without it the second lines do: ticks and slices
  }
}

// Takes back what the dead member `victim` had in one segment: the steps of a reclaim that concern
// its blocks and pages. By anybody, any number at a time, without a lock; each may be killed or
// stopped anywhere, another goes on.
//
//   1. each word of each span that names the victim: load it - look at the row: still (epoch,
//   dead)? - CAS.
//      held(v), sent(v -> any) in no ring, sent(none -> v): -> free.  posted(v -> c): ->
//      posted(none -> c). sent(x -> v) of a living x stays: x takes it back.
//   2. each head that the victim owns: load - row - CAS -> ownerless; a pending one is freed.
//   3. barrier, so that whoever releases its last block sees "ownerless" or is seen, then Sweep.
// Why the look at the row between load and CAS: a value that names the victim can only be left
// while the row is dead, never be come back to; after the row is free the slot has a new tenant,
// whose words look the same.
template <class Sync>
class SegmentReclaim {
 public:
  using View = SegmentView<Sync>;
  using Moves = HoldMoves<Sync>;

  SegmentReclaim(const View& view, const MemberTable<Sync>& members)
      : view_(view), members_(members) {}

  // The row of `victim` is dead. False: it is not any more, somebody else has finished.
  bool Member(MemberId victim, ReclaimCount* count) const {
    return Member(victim, [this, count](uint32_t page, PageWord head, typename Moves::Word& word,
                                        HoldWord& seen) {
      const uint64_t bytes = BlockBytes(page, head);
      if (!Moves::Swap(word, seen, seen.Freed())) return false;
      *count += {1, bytes};
      return true;
    });
  }

  // The same for a table whose words are not freed alone: `free(page, head, word, seen)` frees the
  // word that was seen as `seen`, with all that hangs on it. False: it is not that any more, and
  // `seen` is what it is.
  template <class Free>
  bool Member(MemberId victim, Free free) const {
    const uint32_t backed = view_.backed_pages();
    for (uint32_t page = 0; page < backed; ++page) {  // 1
      const PageWord head = view_.LoadPage(page);
      if (!head.IsHead()) continue;
      const uint32_t blocks = view_.BlockCount(page, head);
      for (uint32_t i = 0; i < blocks; ++i) {
        typename Moves::Word& word = view_.HoldAt(page, head, i);
        const auto free_word = [&](HoldWord& seen) { return free(page, head, word, seen); };
        if (!Word(word, victim, free_word)) return false;
      }
    }
    HANDOFF_CRASH_POINT("reclaim.after_words");
    for (uint32_t page = 0; page < backed; ++page) {  // 2
      PageWord head = view_.LoadPage(page);
      if (!head.IsOwnedBy(victim.slot)) continue;
      if (!StillDead(victim)) return false;
      if (head.IsPending()) {
        PageMap<Sync>::FreePending(view_, page, head, [&] { return StillDead(victim); });
      } else {
        view_.header().ownerless.store(1, std::memory_order_release);
        PageMap<Sync>::Swap(view_, page, head, head.Ownerless());
      }
      HANDOFF_CRASH_POINT("reclaim.after_page");
    }
    if (!StillDead(victim)) return false;
    view_.StopWaiting(victim.slot);
    RareBarrier<Sync>();
    Sweep();  // 3
    return StillDead(victim);
  }

  // Frees the ownerless spans whose blocks are all free, and pages that a killed Shrink left
  // behind. By anybody, at any time. True while ownerless spans are left.
  bool Sweep() const {
    view_.header().ownerless.store(0, std::memory_order_release);
    bool left = false;
    const uint32_t backed = view_.backed_pages();
    for (uint32_t page = 0; page < backed; ++page) {
      const PageWord head = view_.LoadPage(page);
      if (!head.IsHead()) continue;
      if (head.size_class() == kLargeClass) PageMap<Sync>::FreeCutOff(view_, page, head);
      if (head.state() != PageState::kOwnerless) continue;
      if (!PageMap<Sync>::FreeOwnerless(view_, page, head)) left = true;
    }
    // Set again at the end: one that was found after the flag was cleared must not be forgotten.
    if (left) view_.header().ownerless.store(1, std::memory_order_release);
    return left;
  }

  // Step 1 for one word; `free(seen)` as above. False: the row has moved on.
  template <class Free>
  bool Word(typename Moves::Word& word, MemberId victim, Free free) const {
    HoldWord seen = Moves::Load(word);
    for (;;) {
      bool relabel = false;
      switch (seen.state()) {
        case HoldState::kHeld:
          if (seen.holder() != victim.slot) return true;
          break;
        case HoldState::kSent:
          if (seen.holder() != victim.slot &&
              !(seen.holder() == kNobody && seen.receiver() == victim.slot)) {
            return true;
          }
          break;
        case HoldState::kPosted:
          if (seen.holder() != victim.slot) return true;
          relabel = true;
          break;
        default:
          return true;
      }
      if (!Mutated<Sync>(Mutation::kNoRowLook) && !StillDead(victim)) return false;
      if (relabel ? Moves::Swap(word, seen, seen.Relabelled()) : free(seen)) {
        HANDOFF_CRASH_POINT("reclaim.after_word");
        return true;
      }
    }
  }

  bool StillDead(MemberId victim) const {
    return members_.Word(victim.slot) == MemberWord{victim.epoch, MemberState::kDead};
  }

 private:
  uint64_t BlockBytes(uint32_t page, PageWord head) const {
    return head.size_class() == kLargeClass ? view_.LoadRun(page).PagesOf(head) * kPageBytes
                                            : kSizeClasses[head.size_class()].block_bytes;
  }

  const View view_;
  const MemberTable<Sync>& members_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_RECLAIM_H_

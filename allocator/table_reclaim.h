// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TABLE_RECLAIM_H_
#define HANDOFF_ALLOCATOR_TABLE_RECLAIM_H_

#include <cstdint>

#include "allocator/bundle.h"
#include "allocator/hold_moves.h"
#include "allocator/page_word.h"
#include "allocator/reclaim.h"
#include "allocator/segment_view.h"
#include "allocator/share_group.h"
#include "base/mutation.h"
#include "control_queue/member_table.h"

namespace handoff {

// The steps of a reclaim that concern share groups and bundles; the row of `victim` is dead. By
// anybody, any number at a time. `view` is that of the table. False: the row has moved on.

// The words of references first: the pages of their groups are freed only with their last word.
template <class Sync, class Names>
bool ReclaimGroups(const SegmentView<Sync>& view, const ShareGroups<Sync, Names>& groups,
                   const MemberTable<Sync>& members, MemberId victim) {
  using Moves = HoldMoves<Sync>;
  const SegmentReclaim<Sync> reclaim(view, members);
  for (uint32_t page = 0; page < view.backed_pages(); ++page) {
    const PageWord head = view.LoadPage(page);
    if (!head.IsHead() || head.size_class() != kLargeClass) continue;
    const uint32_t count = groups.WordCount(page);
    for (uint32_t i = 0; i < count; ++i) {
      const auto free_word = [&](HoldWord& seen) {
        if (groups.ReleaseOfNobody(page, i, seen)) return true;
        seen = Moves::Load(groups.ReferenceWord(page, i));
        return false;
      };
      if (!reclaim.Word(groups.ReferenceWord(page, i), victim, free_word)) return false;
    }
  }
  ReclaimCount rows;
  return reclaim.Member(victim, &rows);
}

template <class Sync, class Names>
bool ReclaimBundles(const SegmentView<Sync>& view, const Bundles<Sync, Names>& bundles,
                    const MemberTable<Sync>& members, MemberId victim) {
  using Moves = HoldMoves<Sync>;
  const SegmentReclaim<Sync> reclaim(view, members);
  return reclaim.Member(victim,
                        [&](uint32_t page, PageWord, typename Moves::Word& word, HoldWord& seen) {
                          const auto still_dead = [&] { return reclaim.StillDead(victim); };
                          bundles.Free(page, seen, still_dead);
                          const HoldWord now = Moves::Load(word);
                          if (now == seen) return !still_dead();
                          seen = now;
                          return now.IsFree();
                        });
}

// Frees the groups that nobody has a reference of.
template <class Sync, class Names>
void SweepGroups(const SegmentView<Sync>& view, const ShareGroups<Sync, Names>& groups) {
  if (Mutated<Sync>(Mutation::kNoGroupSweep)) return;
  for (uint32_t page = 0; page < view.backed_pages(); ++page) {
    const PageWord head = view.LoadPage(page);
    if (!head.IsHead() || head.size_class() != kLargeClass) continue;
    if (HoldMoves<Sync>::Load(view.large_hold(page)).state() == HoldState::kLive) {
      groups.Sweep(page);
    }
  }
}

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TABLE_RECLAIM_H_

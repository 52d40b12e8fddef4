// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SHARE_GROUP_H_
#define HANDOFF_ALLOCATOR_SHARE_GROUP_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>

#include "allocator/hold.h"
#include "allocator/hold_moves.h"
#include "allocator/page_word.h"
#include "allocator/part_name.h"
#include "allocator/segment_layout.h"
#include "allocator/segment_view.h"
#include "allocator/size_class.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "base/mutation.h"

namespace handoff {

// The group table is an area like that of a segment, without payload: a group is a span, its row
// number the span's first page. The group's own word is the span's large hold, its references are
// the small holds of its pages, kWordsPerPage a page. A section behind holds the targets, which are
// reserved with the pages.
inline constexpr uint32_t kGroupPages = 1 << 16;
inline constexpr uint32_t kMaxReferences = 64 * kWordsPerPage;

// What a group stands for: a PartName without used bytes, and how many of its words may be in use.
template <class Sync>
struct GroupTarget {
  template <class T>
  using Atomic = typename Sync::template Atomic<T>;

  Atomic<uint64_t> name[2];
  Atomic<uint64_t> word_count;
  uint64_t spare;
};

constexpr uint64_t GroupTableBytes() {
  return SegmentAreaLayout(kGroupPages).end + kGroupPages * 32;
}

// One block (or one reference of another group) with many owners, each of which has a word of its
// own.
//
// Share, by m that holds the target; all plain, because every word is m's own:
//   1. a row of an own span: free -> held(m), generation + 1     (the caller)
//   2. target := (name, generation), word count
//   3. reference words 0 .. n - 1: free -> held(m), generation + 1
//   4. group word -> live           5. target's word held(m) -> shared(row)
//   Killed after 1 to 4: references, group and target are m's: freed. A live group with all words
//   free is garbage for the sweep. After 5: as references die.
// Copy, by m that holds a reference: CAS of a free word -> held(m), generation + 1. Raises the word
// count first if it must. Release of a reference:
//   1. load group word (live, g) and target, while still holding     2. word -> free     3. full
//   fence
//   4. look at all words twice: all free, the same generations and word count both times
//   5. group word still (live, g)    6. CAS target's word shared(row) -> free    7. CAS group word
//   -> free Two last releasers: the fences make one see the other. Killed or stopped anywhere: the
//   sweep does 1 and 4 to 7. Twice in 4, because a copy 1 -> 0 and a release of 1 may fall between
//   the looks at 0 and 1. The word count is looked at after the words: who raises it does so before
//   it gives up the reference it copies. 5 is needed because a sweeper loads word and target apart:
//   an old group with a new target.
// Accept and take back work on a reference's word as on that of a block.
//
// `Names` finds the words of other tables:
//   Word* Find(const PartName&)        null if there is no such word now
//   void Freed(const PartName&)        its word was freed by us: look after the page
template <class Sync, class Names>
class ShareGroups {
 public:
  using View = SegmentView<Sync>;
  using Moves = HoldMoves<Sync>;
  using Word = typename Moves::Word;

  struct Reference {
    uint32_t row = 0;
    uint32_t index = 0;
    HoldWord hold;
  };

  ShareGroups(const View& view, GroupTarget<Sync>* targets, Names names)
      : view_(view), targets_(targets), names_(names) {}

  // How many references the span of a row has room for.
  uint32_t Capacity(uint32_t row) const {
    const uint64_t run = view_.LoadRun(row).PagesOf(view_.LoadPage(row));
    const uint64_t pages = std::min<uint64_t>(run, view_.backed_pages() - row);
    return static_cast<uint32_t>(std::min<uint64_t>(pages * kWordsPerPage, kMaxReferences));
  }

  Word& GroupWord(uint32_t row) const { return view_.large_hold(row); }
  Word& ReferenceWord(uint32_t row, uint32_t index) const {
    return view_.small_hold(row * kWordsPerPage + index);
  }

  // Share 2 to 5. `group` is held(m) in an own row with room for `count` references; `target_word`
  // holds `target_hold`, held(m) too. `references[i]` becomes reference i.
  void Build(uint32_t row, HoldWord group, const PartName& target, Word& target_word,
             HoldWord target_hold, uint32_t count, Reference* references) const {
    const uint32_t m = group.holder();
    const PartName::Words packed = Named(target, target_hold).Packed();
    targets_[row].name[0].store(packed.word, std::memory_order_relaxed);  // 2
    targets_[row].name[1].store(packed.tag, std::memory_order_relaxed);
    targets_[row].word_count.store(count, std::memory_order_release);
    HANDOFF_CRASH_POINT("share.after_target");
    for (uint32_t i = 0; i < count; ++i) {  // 3
      const std::optional<HoldWord> held = Moves::Allocate(ReferenceWord(row, i), m);
      HANDOFF_CHECK(held.has_value()) << "reference " << i << " of a free group is in use";
      references[i] = {row, i, *held};
      HANDOFF_CRASH_POINT("share.after_reference");
    }
    if (Mutated<Sync>(Mutation::kShareBeforeLive)) {
      Moves::Replace(target_word, target_hold, target_hold.SharedBy(row));
      HANDOFF_CRASH_POINT("share.after_shared");
      Moves::Replace(GroupWord(row), group, group.MadeLive());
      return;
    }
    Moves::Replace(GroupWord(row), group, group.MadeLive());  // 4
    HANDOFF_CRASH_POINT("share.after_live");
    Moves::Replace(target_word, target_hold, target_hold.SharedBy(row));  // 5
    HANDOFF_CRASH_POINT("share.after_shared");
  }

  // A further reference for `m`, which holds `of`. Nothing when every word of the group is in use.
  std::optional<Reference> Copy(const Reference& of, uint32_t m) const {
    const uint32_t capacity = Capacity(of.row);
    for (uint32_t i = 0; i < capacity; ++i) {
      HoldWord seen = Moves::Load(ReferenceWord(of.row, i));
      if (!seen.IsFree()) continue;
      uint64_t count = targets_[of.row].word_count.load(std::memory_order_acquire);
      while (count <= i &&
             !targets_[of.row].word_count.compare_exchange_weak(
                 count, i + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      }
      const HoldWord held = seen.Allocated(m);
      if (Moves::Swap(ReferenceWord(of.row, i), seen, held)) return Reference{of.row, i, held};
    }
    return std::nullopt;
  }

  // By the holder.
  void Release(const Reference& reference) const {
    const Group group = Look(reference.row);                                        // 1
    Moves::Release(ReferenceWord(reference.row, reference.index), reference.hold);  // 2
    HANDOFF_CRASH_POINT("reference.release.after_free");
    Sync::FullFence();  // 3
    FreeUnused(reference.row, group);
  }

  // By a reclaimer or whoever frees a bundle: the reference's word as `seen` -> free. False: it is
  // not that any more.
  bool ReleaseOfNobody(uint32_t row, uint32_t index, HoldWord seen) const {
    const Group group = Look(row);
    if (!Moves::Swap(ReferenceWord(row, index), seen, seen.Freed())) return false;
    HANDOFF_CRASH_POINT("reference.release.after_free");
    Sync::FullFence();
    FreeUnused(row, group);
    return true;
  }

  // For the sweep: frees the group if nobody has a reference any more.
  void Sweep(uint32_t row) const { FreeUnused(row, Look(row)); }

  // What the group stands for; asked by who holds a reference, so that it stays. Nothing when the
  // tables make no sense.
  std::optional<PartName> Target(uint32_t row) const {
    const Group group = Look(row);
    if (group.word.state() != HoldState::kLive) return std::nullopt;
    return group.target;
  }

  // The word of a reference however wrong the name: null when there can be none.
  Word* Find(uint32_t row, uint32_t index) const {
    if (row >= view_.backed_pages()) return nullptr;
    const PageWord head = view_.LoadPage(row);
    if (!head.IsHead() || head.size_class() != kLargeClass || index >= Capacity(row)) {
      return nullptr;
    }
    return &ReferenceWord(row, index);
  }

  uint32_t WordCount(uint32_t row) const {
    return static_cast<uint32_t>(std::min<uint64_t>(
        targets_[row].word_count.load(std::memory_order_acquire), Capacity(row)));
  }

 private:
  struct Group {
    HoldWord word;
    PartName target;
  };

  static PartName Named(PartName target, HoldWord hold) {
    target.generation = hold.generation();
    return target;
  }

  Group Look(uint32_t row) const {
    Group group;
    group.word = Moves::Load(GroupWord(row));
    group.target = PartName::FromPacked({targets_[row].name[0].load(std::memory_order_acquire),
                                         targets_[row].name[1].load(std::memory_order_acquire)});
    return group;
  }

  // One look at all words: the sum of their generations and the word count, or nothing if one is in
  // use. Generations only grow, so equal sums are equal generations.
  std::optional<uint64_t> SumIfFree(uint32_t row) const {
    const uint32_t count = WordCount(row);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const HoldWord word = Moves::Load(ReferenceWord(row, i));
      if (!word.IsFree()) return std::nullopt;
      sum += word.generation();
    }
    // After the words, see above.
    return sum + (uint64_t{WordCount(row)} << 48);
  }

  // Release 4 to 7.
  void FreeUnused(uint32_t row, const Group& group) const {
    if (group.word.state() != HoldState::kLive) return;
    for (;;) {
      const std::optional<uint64_t> first = SumIfFree(row);
      if (!first.has_value()) return;
      if (Mutated<Sync>(Mutation::kReadGroupOnce)) break;
      const std::optional<uint64_t> second = SumIfFree(row);
      if (!second.has_value()) return;
      if (*first == *second) break;
    }
    if (!Mutated<Sync>(Mutation::kNoSecondLookAtGroup) &&
        Moves::Load(GroupWord(row)) != group.word) {  // 5
      return;
    }
    if (Mutated<Sync>(Mutation::kGroupFreedFirst)) {
      HoldWord word = group.word;
      Moves::Swap(GroupWord(row), word, word.Freed());
      HANDOFF_CRASH_POINT("share.free.after_group");
      FreeTarget(row, group);
      return;
    }
    FreeTarget(row, group);  // 6
    HANDOFF_CRASH_POINT("share.free.after_target");
    HoldWord seen = group.word;
    if (Moves::Swap(GroupWord(row), seen, seen.Freed())) {  // 7
      HANDOFF_CRASH_POINT("share.free.after_group");
      names_.FreedGroup(row);
    }
  }

  void FreeTarget(uint32_t row, const Group& group) const {
    Word* word = names_.Find(group.target);
    if (word == nullptr) return;
    const HoldWord shared = HoldWord::Of(HoldState::kShared, group.target.generation,
                                         (row >> 12) & HoldWord::kIdMask, row);
    if (group.target.kind == PartKind::kReference) {
      ReleaseOfNobody(group.target.group(), group.target.reference(), shared);
      return;
    }
    HoldWord seen = shared;
    if (Moves::Swap(*word, seen, shared.Freed())) names_.Freed(group.target);
  }

  const View view_;
  GroupTarget<Sync>* const targets_;
  Names names_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SHARE_GROUP_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_BUNDLE_H_
#define HANDOFF_ALLOCATOR_BUNDLE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

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

// The bundle table is an area like that of a segment whose payload lies behind it, in the
// management object: a bundle is a span, its row number the span's first page, its word the span's
// large hold, its part list the payload.
inline constexpr uint32_t kBundlePages = 1 << 14;
inline constexpr uint32_t kMaxParts = 4096;

template <class Sync>
struct PartList {
  typename Sync::template Atomic<uint64_t> count;
  struct Part {
    typename Sync::template Atomic<uint64_t> words[2];  // PartName
  };
  Part parts[1];  // as many as the row has room for

  static constexpr uint64_t BytesFor(uint64_t part_count) { return 8 + part_count * sizeof(Part); }
};

constexpr uint64_t BundleTableBytes() {
  return SegmentAreaLayout(kBundlePages).end + kBundlePages * kPageBytes;
}

// A message of many parts, handed on by the one word of its bundle: all parts or none.
//
// Build, by m that holds the parts; plain, because every word is m's own:
//   1. a row of an own span: free -> held(m), generation + 1     (the caller)
//   2. the part list, then its length     3. each part held(m) -> bundled(row)
//   Killed before 2's length: the parts are m's. Later: Free.
// Send, accept, take back: the bundle's word only.
// Unpack, by r that holds the bundle:  1. each part bundled(row) -> held(r)    2. bundle's word ->
// free Free, by anybody, any number at a time; E is the value of the bundle's word that was found
// to be nobody's (or one's own):
//   for each listed part  1. load it; not bundled(row): the next     2. the bundle's word is not E
//   any more: stop, somebody has finished    3. CAS -> free at the end  4. CAS bundle's word E ->
//   free. The word keeps E until then, so that a reclaimer killed or stopped half way is replaced
//   by the next; without 2 a late one frees parts of the next bundle in the row. The bundle
//   outlives its last part, always.
//
// `Names` as in ShareGroups; also bool ReleaseReference(name, HoldWord seen) frees a reference by
// CAS and looks after its group.
template <class Sync, class Names>
class Bundles {
 public:
  using View = SegmentView<Sync>;
  using Moves = HoldMoves<Sync>;
  using Word = typename Moves::Word;

  Bundles(const View& view, std::byte* payload, Names names)
      : view_(view), payload_(payload), names_(names) {}

  Word& BundleWord(uint32_t row) const { return view_.large_hold(row); }

  // Build 2 and 3. `bundle` is held(m) in an own row with room for the parts; each part's word
  // holds what its name says, held(m).
  void Build(uint32_t row, HoldWord bundle, std::span<const PartName> parts) const {
    PartList<Sync>& list = ListOf(row);
    for (size_t i = 0; i < parts.size(); ++i) {  // 2
      const PartName::Words words = parts[i].Packed();
      list.parts[i].words[0].store(words.word, std::memory_order_relaxed);
      list.parts[i].words[1].store(words.tag, std::memory_order_relaxed);
    }
    list.count.store(parts.size(), std::memory_order_release);
    HANDOFF_CRASH_POINT("bundle.after_list");
    for (const PartName& part : parts) {  // 3
      if (part.kind == PartKind::kEmpty) continue;
      Word* word = names_.Find(part);
      HANDOFF_CHECK(word != nullptr) << "part of a bundle that is no block";
      const HoldWord held = HoldWord::Of(HoldState::kHeld, part.generation, bundle.holder(), 0);
      Moves::Replace(*word, held, held.BundledIn(row));
      HANDOFF_CRASH_POINT("bundle.after_part");
    }
  }

  // Unpacks a bundle that the caller holds: `parts` becomes its parts, in order, which are held by
  // the caller afterwards; the bundle is gone. False, and everything freed, when the list was
  // damaged.
  [[nodiscard]] bool Unpack(uint32_t row, HoldWord bundle, std::vector<PartName>* parts) const {
    PartsOf(row, parts);
    for (const PartName& part : *parts) {
      if (part.kind == PartKind::kEmpty) continue;
      Word* word = names_.Find(part);
      if (word == nullptr || Moves::Load(*word) != Bundled(row, part)) {
        Free(row, bundle);
        return false;
      }
    }
    for (size_t i = 0; i < parts->size(); ++i) {
      const PartName& part = (*parts)[i];
      if (part.kind == PartKind::kEmpty) continue;
      Word& word = *names_.Find(part);
      if (Moves::Load(word) != Bundled(row, part)) {  // listed twice
        PackAgain(row, bundle, std::span(*parts).first(i));
        Free(row, bundle);
        return false;
      }
      Moves::Replace(word, Bundled(row, part), Bundled(row, part).Unpacked(bundle.holder()));
      HANDOFF_CRASH_POINT("bundle.unpack.after_part");
    }
    Moves::Release(BundleWord(row), bundle);
    HANDOFF_CRASH_POINT("bundle.unpack.after_bundle");
    return true;
  }

  // Frees the bundle whose word was found to be `expected`, and all its parts. `still_dead` is
  // asked before each CAS; false ends it.
  template <class StillDead>
  void Free(uint32_t row, HoldWord expected, StillDead still_dead) const {
    if (!Mutated<Sync>(Mutation::kBundleWordOnly)) {
      std::vector<PartName> parts;
      PartsOf(row, &parts);
      for (const PartName& part : parts) {
        if (part.kind == PartKind::kEmpty) continue;
        Word* word = names_.Find(part);
        if (word == nullptr) continue;
        HoldWord seen = Moves::Load(*word);  // 1
        if (seen != Bundled(row, part)) continue;
        if (!Mutated<Sync>(Mutation::kFreePartsBlindly) &&
            Moves::Load(BundleWord(row)) != expected) {  // 2
          return;
        }
        if (!still_dead()) return;
        if (part.kind == PartKind::kReference) {
          names_.ReleaseReference(part, seen);
        } else if (Moves::Swap(*word, seen, seen.Freed())) {  // 3
          names_.Freed(part);
        }
        HANDOFF_CRASH_POINT("bundle.free.after_part");
      }
    }
    if (!still_dead()) return;
    HoldWord seen = expected;
    if (Moves::Swap(BundleWord(row), seen, seen.Freed())) names_.FreedBundle(row);  // 4
  }
  void Free(uint32_t row, HoldWord expected) const {
    Free(row, expected, [] { return true; });
  }

  // The word of a bundle however wrong the row: null when there can be none.
  Word* Find(uint32_t row) const {
    if (row >= view_.backed_pages()) return nullptr;
    const PageWord head = view_.LoadPage(row);
    if (!head.IsHead() || head.size_class() != kLargeClass) return nullptr;
    return &BundleWord(row);
  }

  // What is listed, at most as many parts as the row has room for, whatever the list says. Asked by
  // who knows that the row is in use.
  void PartsOf(uint32_t row, std::vector<PartName>* parts) const {
    const PartList<Sync>& list = ListOf(row);
    const uint64_t count = std::min<uint64_t>(list.count.load(std::memory_order_acquire),
                                              std::min<uint64_t>(Capacity(row), kMaxParts));
    parts->clear();
    for (uint64_t i = 0; i < count; ++i) {
      parts->push_back(
          PartName::FromPacked({list.parts[i].words[0].load(std::memory_order_relaxed),
                                list.parts[i].words[1].load(std::memory_order_relaxed)}));
    }
  }

 private:
  // Undoes what Unpack has done to these parts.
  void PackAgain(uint32_t row, HoldWord bundle, std::span<const PartName> parts) const {
    for (const PartName& part : parts) {
      if (part.kind == PartKind::kEmpty) continue;
      Moves::Replace(*names_.Find(part), Bundled(row, part).Unpacked(bundle.holder()),
                     Bundled(row, part));
    }
  }

  static HoldWord Bundled(uint32_t row, const PartName& part) {
    return HoldWord::Of(HoldState::kBundled, part.generation, (row >> 12) & HoldWord::kIdMask, row);
  }

  uint64_t Capacity(uint32_t row) const {
    const uint64_t run = view_.LoadRun(row).PagesOf(view_.LoadPage(row));
    const uint64_t pages = std::min<uint64_t>(run, view_.backed_pages() - row);
    if (pages == 0) return 0;  // nonsense
    return (pages * kPageBytes - 8) / sizeof(typename PartList<Sync>::Part);
  }
  PartList<Sync>& ListOf(uint32_t row) const {
    return *reinterpret_cast<PartList<Sync>*>(payload_ + row * kPageBytes);
  }

  const View view_;
  std::byte* const payload_;
  Names names_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_BUNDLE_H_

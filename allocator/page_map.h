// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_PAGE_MAP_H_
#define HANDOFF_ALLOCATOR_PAGE_MAP_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>

#include "allocator/page_word.h"
#include "allocator/segment_view.h"
#include "base/crash_point.h"
#include "base/mutation.h"

namespace handoff {

// Spans: runs of pages that change hands as one, without a lock. A span is a head and `run` - 1
// tails.
//
// Claim(head, n)   1. head: free -> owned, pending, generation + 1
//                  2. for each further page i, upwards:  run := i + 1;  page: free -> tail
//                  3. head: pending -> its class
// Give back(head)  1. head: class -> pending   2. free the pending span
// Shrink(head, n)  for the last page, downwards until n are left:  run := run - 1;  page: tail ->
// free
//
// Free the pending span (by its owner, or by anybody once that is dead; any number at a time):
//   1. r = run; head has changed: done by another.   2. r = 1: head -> free, generation + 1. Done.
//   3. page r - 1: load. A tail, and run still r: CAS -> free.   4. CAS run r -> r - 1. Again
//   from 1.
// Why 3 is right: while run is r, the pages below r - 1 are tails of this span. A tail directly
// above them has no other head. What becomes of the page later has another generation, so that a
// late CAS fails.
//
// Killed in Claim or Give back: a pending head whose owner is dead; Free the pending span goes on
// from there. Killed in Shrink: one tail behind the run of a head; FreeCutOff frees it.
template <class Sync>
class PageMap {
 public:
  using View = SegmentView<Sync>;

  // Claims `pages` pages from `head` on, all below backed_pages(), as a span of `class_id` (a small
  // class or kLargeClass). On conflict nothing stays claimed, and the page that was in the way is
  // returned.
  static std::optional<uint32_t> Claim(const View& view, uint32_t head, uint32_t pages,
                                       uint32_t owner, uint32_t class_id) {
    PageWord seen = view.LoadPage(head);
    if (!seen.IsFree()) return head;
    PageWord pending = seen.ClaimedAsHead(owner);
    if (Mutated<Sync>(Mutation::kNoPageGeneration)) pending = SameGeneration(pending, seen);
    if (!Swap(view, head, seen, pending)) return head;  // Claim 1
    HANDOFF_CRASH_POINT("page_map.claim.after_head");
    for (uint32_t i = 1; i < pages; ++i) {  // Claim 2
      view.run(head).store(RunWord::Of(pending, i + 1).raw(), std::memory_order_release);
      HANDOFF_CRASH_POINT("page_map.claim.after_run");
      PageWord tail = view.LoadPage(head + i);
      if (!tail.IsFree() ||
          !Swap(view, head + i, tail, tail.ClaimedAsTail(class_id, TailDistance(class_id, i)))) {
        FreePending(view, head, pending, [] { return true; });
        return head + i;
      }
      HANDOFF_CRASH_POINT("page_map.claim.after_tail");
    }
    seen = pending;
    Swap(view, head, seen, pending.WithClass(class_id));  // Claim 3
    HANDOFF_CRASH_POINT("page_map.claim.after_class");
    return std::nullopt;
  }

  // By the living owner, who has taken the span out of its caches and has seen all its blocks free.
  static void GiveBack(const View& view, uint32_t head) {
    PageWord seen = view.LoadPage(head);
    FreeCutOff(view, head, seen);
    const PageWord pending = seen.WithClass(kPendingClass);
    if (!Swap(view, head, seen, pending)) return;
    HANDOFF_CRASH_POINT("page_map.give_back.after_pending");
    FreePending(view, head, pending, [] { return true; });
  }

  // By the holder of the large block at `head`, whoever owns the span. `pages`: at least 1.
  static void Shrink(const View& view, uint32_t head, uint32_t pages) {
    for (;;) {
      const PageWord head_word = view.LoadPage(head);  // may become ownerless between two pages
      FreeCutOff(view, head, head_word);
      const uint32_t run = view.LoadRun(head).PagesOf(head_word);
      if (run <= pages) return;
      view.run(head).store(RunWord::Of(head_word, run - 1).raw(), std::memory_order_release);
      HANDOFF_CRASH_POINT("page_map.shrink.after_run");
    }
  }

  // Frees the tail directly behind the run of the large span at `head`, if its holder was killed
  // while it shrank the block. By anybody. While the head has this generation and its class, the
  // pages of the run are its tails, so that a tail directly behind them is one that was cut off.
  static void FreeCutOff(const View& view, uint32_t head, PageWord head_word) {
    if (!head_word.IsHead() || head_word.size_class() != kLargeClass) return;
    const RunWord run = view.LoadRun(head);
    const uint64_t page = uint64_t{head} + run.PagesOf(head_word);
    if (page >= view.backed_pages()) return;
    PageWord tail = view.LoadPage(static_cast<uint32_t>(page));
    if (!tail.IsTail()) return;
    const PageWord again = view.LoadPage(head);
    if (again.generation() != head_word.generation() || again.size_class() != kLargeClass ||
        view.LoadRun(head) != run) {
      return;
    }
    Swap(view, static_cast<uint32_t>(page), tail, GivenBack(tail));
  }

  // Frees the pending span at `head`, seen with the word `pending`; see above. `still_dead` is
  // asked between each look and its CAS; false ends it.
  template <class StillDead>
  static void FreePending(const View& view, uint32_t head, PageWord pending, StillDead still_dead) {
    for (;;) {
      const RunWord run = view.LoadRun(head);  // 1
      if (view.LoadPage(head) != pending || !still_dead()) return;
      const uint32_t pages = run.PagesOf(pending);
      if (pages <= 1) {  // 2
        PageWord seen = pending;
        Swap(view, head, seen, GivenBack(pending));
        HANDOFF_CRASH_POINT("page_map.free_pending.after_head");
        return;
      }
      const uint64_t page = uint64_t{head} + pages - 1;
      if (page < view.backed_pages()) {  // 3
        PageWord tail = view.LoadPage(static_cast<uint32_t>(page));
        if (tail.IsTail()) {
          if (view.LoadRun(head) != run) continue;
          if (!still_dead()) return;
          Swap(view, static_cast<uint32_t>(page), tail, GivenBack(tail));
          HANDOFF_CRASH_POINT("page_map.free_pending.after_tail");
        }
      }
      uint64_t expected = run.raw();  // 4, at once to the end of the segment if it says nonsense
      const uint32_t next = std::min(pages - 1, view.page_count() - head);
      view.run(head).compare_exchange_strong(expected, RunWord::Of(pending, next).raw(),
                                             std::memory_order_acq_rel, std::memory_order_acquire);
      HANDOFF_CRASH_POINT("page_map.free_pending.after_run");
    }
  }

  // Frees the ownerless span at `head` if all its blocks are free; true when it did. By anybody:
  // nobody allocates there, so what was seen free stays free.
  static bool FreeOwnerless(const View& view, uint32_t head, PageWord seen) {
    if (seen.state() != PageState::kOwnerless) return false;
    if (!seen.IsPending()) {
      if (!view.AllFree(head, seen)) return false;
      FreeCutOff(view, head, seen);
      const PageWord pending = seen.WithClass(kPendingClass);
      if (!Swap(view, head, seen, pending)) return false;
      HANDOFF_CRASH_POINT("page_map.free_ownerless.after_pending");
      seen = pending;
    }
    FreePending(view, head, seen, [] { return true; });
    return true;
  }

  // CAS of the whole word; `seen` is what the page has on failure.
  static bool Swap(const View& view, uint32_t page, PageWord& seen, PageWord next) {
    uint64_t raw = seen.raw();
    if (view.page_word(page).compare_exchange_strong(raw, next.raw(), std::memory_order_acq_rel,
                                                     std::memory_order_acquire)) {
      return true;
    }
    seen = PageWord(raw);
    return false;
  }

 private:
  static constexpr uint32_t TailDistance(uint32_t class_id, uint32_t i) {
    return class_id == kLargeClass ? 0 : i;
  }
  static PageWord GivenBack(PageWord word) {
    const PageWord free = word.GivenBack();
    return Mutated<Sync>(Mutation::kNoPageGeneration) ? SameGeneration(free, word) : free;
  }
  static PageWord SameGeneration(PageWord word, PageWord as) {
    return PageWord((word.raw() & ((uint64_t{1} << 27) - 1)) | (as.generation() << 27));
  }
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_PAGE_MAP_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_LOCAL_SPAN_H_
#define HANDOFF_ALLOCATOR_LOCAL_SPAN_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "allocator/segment_view.h"
#include "allocator/size_class.h"
#include "allocator/zero_table.h"
#include "base/cache_line.h"
#include "base/sync.h"

namespace handoff {

class LocalHeap;

// What this process remembers of a span that it owns: hints only, the holds are the truth. A free
// block is in the stack, or it was freed by somebody else and waits for the next look at the holds.
//
// The first line is what looks at the holds touch.
struct alignas(kCacheLineSize) LocalSpan {
  std::atomic<LocalHeap*> heap;        // who allocates from it; null: not in use
  SegmentView<RealSync>::Word* holds;  // of block 0, the others behind it
  uint16_t* free;                      // [count], of which `free_count` are in use
  uint64_t run;  // of a large one: RunWord when last looked at; a block that shrinks changes it
  BlockId first_block;  // of block 0, the others behind it
  uint32_t pages;
  // Of a large one: another once what was remembered of it elsewhere is void. Changed by the heap
  // that has the span; one that had it before may look at the same time, and finds another number
  // in any case, because it has left the one that it knows itself.
  std::atomic<uint32_t> serial;
  BlockSpan span;  // of its blocks
  uint16_t count;
  uint16_t free_count;
  uint16_t list;  // small class, or kSmallClassCount + bin

  alignas(kCacheLineSize) LocalSpan* next;  // of a small one
  LocalSpan* previous;

  uint32_t head_page() const { return first_block / kWordsPerPage; }
};

// A doubly linked list of spans, linked through the spans.
class SpanList {
 public:
  bool empty() const { return front_ == nullptr; }
  LocalSpan* front() const { return front_; }
  size_t size() const { return size_; }

  void PushFront(LocalSpan* span) {
    span->previous = nullptr;
    span->next = front_;
    (front_ != nullptr ? front_->previous : back_) = span;
    front_ = span;
    ++size_;
  }
  void PushBack(LocalSpan* span) {
    span->next = nullptr;
    span->previous = back_;
    (back_ != nullptr ? back_->next : front_) = span;
    back_ = span;
    ++size_;
  }
  void Remove(LocalSpan* span) {
    (span->previous != nullptr ? span->previous->next : front_) = span->next;
    (span->next != nullptr ? span->next->previous : back_) = span->previous;
    --size_;
  }

 private:
  LocalSpan* front_ = nullptr;
  LocalSpan* back_ = nullptr;
  size_t size_ = 0;
};

// Heaps of a pool have numbers from 1 on; those beyond have no number, and tags say so.
inline constexpr uint8_t kLastHeapNumber = 254;
constexpr uint8_t TagNumber(uint8_t heap_number) {
  return heap_number != 0 ? heap_number : kLastHeapNumber + 1;
}
// Names a heap of a pool and one of its lists: small class, or kSmallClassCount + bin.
constexpr uint16_t HeapTag(uint8_t tag_number, uint32_t list) {
  return static_cast<uint16_t>(tag_number << 8 | list);
}
static_assert(kSmallClassCount + kLargeBinCount <= 256);

// The LocalSpans of one segment, and the way from a page to its span. Spans are used again but
// never deleted before the pool, so that any thread may look at `heap` of what For() returns.
class SpanPool {
 public:
  explicit SpanPool(uint32_t page_count);

  // The span that this process remembers for the page, or null. Any thread; it is the caller's own
  // if `heap` says so.
  LocalSpan* For(uint32_t page) const { return spans_[page].load(std::memory_order_acquire); }

  // Which heap has the span of the page (of a large span: its first), and in which list, in a table
  // that is dense enough for the caches where the spans themselves are not: see HeapTag(). Zero: no
  // heap of this process. Any thread; the answer is the caller's own if the heap is.
  uint16_t TagOf(uint32_t page) const { return tags_[page].load(std::memory_order_relaxed); }
  void SetTag(const LocalSpan& span, uint16_t tag);

  // A span for `pages` pages from `head_page` with `count` blocks, entered for all its pages
  // (small) or its first (large). One thread at a time.
  LocalSpan* Make(uint32_t head_page, uint32_t pages, uint16_t count, bool small);
  void Delete(LocalSpan* span, bool small);

 private:
  ZeroTable<std::atomic<LocalSpan*>> spans_;
  ZeroTable<std::atomic<uint16_t>> tags_;
  std::deque<LocalSpan> all_;
  std::vector<std::unique_ptr<uint16_t[]>> stacks_;
  std::vector<std::vector<LocalSpan*>> free_by_count_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_LOCAL_SPAN_H_

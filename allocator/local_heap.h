// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_LOCAL_HEAP_H_
#define HANDOFF_ALLOCATOR_LOCAL_HEAP_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "allocator/block.h"
#include "allocator/hold_moves.h"
#include "allocator/local_span.h"
#include "allocator/page_source.h"
#include "base/biased_lock.h"

namespace handoff {

struct LocalHeapLimits {
  // Wholly free spans that the heap keeps for the next allocation; what is above goes back at once.
  uint64_t retained_bytes;
  // How much of one class goes round before blocks that others have freed are used again: their
  // lines are in the caches of the others. All classes together four times as much.
  uint64_t rotation_bytes;
};

// Allocates from spans that this heap owns: one for each thread that allocates. The page words say
// that the member owns the spans; which heap of the member, only this process knows.
//
// Blocks that are freed through the heap are used again last in, first out. Blocks that somebody
// else frees are found by looking at the holds of the spans without free blocks, the longest not
// looked at first.
//
// `lock` is held by the caller of every function: OwnerLock by the thread whose heap it is.
class LocalHeap {
 public:
  LocalHeap(PageSource& source, const LocalHeapLimits& limits);
  LocalHeap(const LocalHeap&) = delete;
  LocalHeap& operator=(const LocalHeap&) = delete;

  BiasedLock lock;

  // The fast path: a block of the small class, or a large one of exactly so many pages, if it is
  // known to be free in the span that was used last.
  [[nodiscard]] bool AllocateKnown(uint32_t size_class, Block* out)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    return Pop(current_[size_class], out);
  }
  [[nodiscard]] bool AllocateKnownLarge(uint32_t pages, Block* out)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    LocalSpan* span = current_[kSmallClassCount + LargeBinFor(pages)];
    return span->pages == pages && Pop(span, out);
  }

  // A block with room for `size_bytes` (1 up to the segment) at a multiple of `alignment` (a power
  // of two, 64 to kMaxAlignment). False: neither own blocks nor pages are left, after a look at
  // everything; `why` says if the file system refused.
  [[nodiscard]] bool Allocate(uint64_t size_bytes, uint64_t alignment, Block* out,
                              absl::Status* why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock);

  // A block that is a span of `pages` pages, or a little more, whatever its size.
  [[nodiscard]] bool AllocateSpan(uint32_t pages, Block* out, absl::Status* why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    return AllocateKnownLarge(pages, out) ||
           AllocateLarge(pages * kPageBytes, kPageBytes, out, why);
  }

  // Releases a block of one of this heap's spans.
  void Release(LocalSpan* span, const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    HoldMoves<RealSync>::Release(span->holds[IndexOf(*span, block.id)], block.hold);
    Push(span, IndexOf(*span, block.id));
  }

  // Gives back wholly free spans until at most `keep_bytes` of them are left. `look_at` spans
  // without known free blocks are looked at for what others have freed. Returns the bytes given
  // back.
  uint64_t Trim(uint64_t keep_bytes, size_t look_at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock);

  // Any thread, with or without the lock.
  uint64_t allocations() const { return allocations_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kListCount = kSmallClassCount + kLargeBinCount;

  static uint32_t IndexOf(const LocalSpan& span, BlockId id) {
    return id - span.head_page * kWordsPerPage;
  }

  bool Pop(LocalSpan* span, Block* out) {
    while (span->free_count > 0) {
      if (span->free_count == span->count) retained_bytes_ -= SpanBytes(*span);
      const uint32_t index = span->free[--span->free_count];
      const auto held = HoldMoves<RealSync>::Allocate(span->holds[index], source_.member());
      if (!held.has_value()) continue;
      out->data = span->data + index * span->block_bytes;
      out->size_bytes = span->block_bytes;
      out->hold = *held;
      out->id = span->head_page * kWordsPerPage + index;
      out->span = span->span;
      allocations_.store(allocations() + 1, std::memory_order_relaxed);
      return true;
    }
    return false;
  }

  void Push(LocalSpan* span, uint32_t index) {
    span->free[span->free_count++] = static_cast<uint16_t>(index);
    if (span->listed_as_full || span->free_count == span->count) Relist(span);
  }

  static uint64_t SpanBytes(const LocalSpan& span) { return span.pages * kPageBytes; }

  bool AllocateSmall(uint32_t size_class, Block* out, absl::Status* why);
  bool AllocateLarge(uint64_t size_bytes, uint64_t alignment, Block* out, absl::Status* why);
  // A large span with room that is free by what we know (`available`), or that others have freed.
  LocalSpan* FindLarge(uint32_t pages, uint64_t size_bytes, uint64_t alignment, size_t look_at);
  // Puts the current span of the list where it belongs.
  void RetireCurrent(uint32_t list);
  LocalSpan* ClaimSpan(uint32_t list, uint32_t pages, uint32_t align_pages, uint32_t class_id,
                       absl::Status* why);
  // Fills the stack of a span without known free blocks from its holds. Returns how many are free.
  uint32_t Collect(LocalSpan* span);
  // A span of the class with free blocks, at least `least` (in 1/8 of the span), among the first
  // `look_at` in `full_`.
  LocalSpan* CollectSmall(uint32_t size_class, size_t look_at, uint32_t least_eighths);
  // After a block came back: to the list where it belongs, or back to the segment.
  void Relist(LocalSpan* span);
  // A block that shrank has left its span shorter.
  void UpdateRun(LocalSpan* span);
  void GiveBack(LocalSpan* span);
  // Looks at the holds of up to `*look_at` spans of the list that are not wholly free, and counts
  // it down.
  void LookAgain(uint32_t list, size_t* look_at);
  // Whether to claim a further span of a class of which so many bytes go round.
  bool MayRotate(uint64_t class_bytes) const {
    return class_bytes < limits_.rotation_bytes && span_bytes_ < 4 * limits_.rotation_bytes;
  }

  PageSource& source_;
  const LocalHeapLimits limits_;
  LocalSpan none_{};                            // stands for "no current span"
  std::array<LocalSpan*, kListCount> current_;  // in no list; `none_` if there is none
  std::array<SpanList, kListCount> available_;  // with known free blocks
  std::array<SpanList, kListCount> full_;       // without; the longest not looked at first
  uint64_t retained_bytes_ = 0;                 // in wholly free spans
  uint64_t span_bytes_ = 0;                     // in all spans
  std::atomic<uint64_t> allocations_{0};        // written by the owner only
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_LOCAL_HEAP_H_

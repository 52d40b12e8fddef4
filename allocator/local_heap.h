// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_LOCAL_HEAP_H_
#define HANDOFF_ALLOCATOR_LOCAL_HEAP_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "allocator/block.h"
#include "allocator/hold_moves.h"
#include "allocator/large_blocks.h"
#include "allocator/local_span.h"
#include "allocator/page_source.h"
#include "base/biased_lock.h"

namespace handoff {

// Allocates from spans that this heap owns: one for each thread that allocates. The page words say
// that the member owns the spans; which heap of the member, only this process knows.
//
// Blocks that are freed through the heap are used again last in, first out: small ones wait in a
// stack for each class, whatever their span, and go back to their spans when it overflows. Blocks
// that somebody else frees are found by looking at the holds of the spans without known free
// blocks, the longest not looked at first. Blocks that are spans: see LargeBlocks.
//
// `lock` is held by the caller of every function: OwnerLock by the thread whose heap it is.
class LocalHeap {
 public:
  // `number`: of the heap in its pool, 1 to kLastHeapNumber, or 0 where there are more.
  LocalHeap(PageSource& source, const LocalHeapLimits& limits, uint8_t number);
  LocalHeap(const LocalHeap&) = delete;
  LocalHeap& operator=(const LocalHeap&) = delete;

  BiasedLock lock;

  // The fast path: the block of the small class that was freed last, or one of about so many pages.
  [[nodiscard]] bool AllocateKnown(uint32_t size_class, Block* out)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    const uint32_t known = known_[size_class];
    if (__builtin_expect(known == 0, 0)) return false;
    known_[size_class] = known - 1;
    const FreeBlock& block = small_[size_class][known - 1];
    const uint32_t first_block = block.span.head_page() * kWordsPerPage;
    const uint64_t block_bytes = kSizeClasses[size_class].block_bytes;
    return Take(
        view_.small_hold(block.id), block.id, block.span,
        payload_ + block.span.head_page() * kPageBytes + (block.id - first_block) * block_bytes,
        block_bytes, out);
  }
  [[nodiscard]] bool AllocateKnownLarge(uint32_t pages, uint64_t size_bytes, Block* out)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    if (!large_.AllocateKnown(pages, size_bytes, out)) return false;
    used_.store(true, std::memory_order_relaxed);
    return true;
  }

  // A block with room for `size_bytes` (1 up to the segment) at a multiple of `alignment` (a power
  // of two, 64 to kMaxAlignment). False: neither own blocks nor pages are left, after a look at
  // everything; `why` says if the file system refused.
  [[nodiscard]] bool Allocate(uint64_t size_bytes, uint64_t alignment, Block* out,
                              absl::Status* why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock);

  // A block that is a span of `pages` pages, or a little more, whatever its size.
  [[nodiscard]] bool AllocateSpan(uint32_t pages, Block* out, absl::Status* why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    const uint64_t bytes = pages * kPageBytes;
    return AllocateKnownLarge(pages, bytes, out) || AllocateLarge(bytes, kPageBytes, out, why);
  }

  // Releases a block of one of this heap's spans.
  void Release(LocalSpan* span, const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    if (span->list < kSmallClassCount) {
      ReleaseSmall(span->list, block);
    } else {
      large_.Release(span, block);
    }
  }

  // What PageSource::TagOf() says of the blocks of this heap; 0: nothing by which to know them. The
  // lower byte is their small class, or kSmallClassCount + bin.
  uint8_t number() const { return number_; }
  // The same for a block of that class, without a look at its span.
  void ReleaseSmall(uint32_t size_class, const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    HoldMoves<RealSync>::Release(view_.small_hold(block.id), block.hold);
    uint32_t known = known_[size_class];
    if (__builtin_expect(known == most_known_[size_class], 0)) {
      Forget(size_class, (known + 1) / 2);
      known = known_[size_class];
    }
    small_[size_class][known] = {block.id, block.span};
    known_[size_class] = known + 1;
  }

  // The same for a large block of that bin; false, and nothing is done, if it has shrunk.
  [[nodiscard]] bool ReleaseLarge(uint32_t bin, const Block& block)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    return large_.ReleaseAsItWas(bin, block);
  }

  // Gives back wholly free spans until at most `keep_bytes` of them are left. `look_at` spans
  // without known free blocks are looked at for what others have freed. Returns the bytes given
  // back.
  uint64_t Trim(uint64_t keep_bytes, size_t look_at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock);

  // Whether the heap has allocated since the last call. One thread, with or without the lock.
  bool WasUsed() {
    if (!used_.load(std::memory_order_relaxed)) return false;
    used_.store(false, std::memory_order_relaxed);
    return true;
  }

 private:
  static constexpr uint32_t kMostKnown = 64;

  struct FreeBlock {
    BlockId id;
    BlockSpan span;
  };

  // A block that is free as far as is known; false if it is not.
  bool Take(HoldMoves<RealSync>::Word& word, BlockId id, BlockSpan span, std::byte* data,
            uint64_t size_bytes, Block* out) {
    const HoldWord seen = HoldMoves<RealSync>::Load(word);
    if (__builtin_expect(!seen.IsFree(), 0)) return false;
    out->hold = HoldMoves<RealSync>::AllocateSeen(word, seen, member_);
    out->data = data;
    out->size_bytes = size_bytes;
    out->id = id;
    out->span = span;
    used_.store(true, std::memory_order_relaxed);
    return true;
  }
  static uint64_t SpanBytes(const LocalSpan& span) { return span.pages * kPageBytes; }

  bool AllocateSmall(uint32_t size_class, Block* out, absl::Status* why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock);
  // From the span's own stack of free blocks to that of the class, which is empty.
  void Refill(uint32_t size_class, LocalSpan* span);
  // The oldest blocks in the stack of the class go back to their spans.
  void Forget(uint32_t size_class, uint32_t count);
  // A span with free blocks, at least `least_eighths` of it, among the first `look_at` in `full_`.
  LocalSpan* CollectSmall(uint32_t size_class, size_t look_at, uint32_t least_eighths);
  // Fills the stack of a span without known free blocks from its holds. Returns how many are free.
  uint32_t Collect(LocalSpan* span);

  bool AllocateLarge(uint64_t size_bytes, uint64_t alignment, Block* out, absl::Status* why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    if (!large_.Allocate(size_bytes, alignment, out, why)) return false;
    used_.store(true, std::memory_order_relaxed);
    return true;
  }

  LocalSpan* ClaimSpan(uint32_t size_class, absl::Status* why);
  void GiveBack(LocalSpan* span);
  // Looks at the holds of up to `*look_at` spans of the list that are not wholly free, and counts
  // it down.
  void LookAgainSmall(uint32_t size_class, size_t* look_at);
  // Whether to claim a further span of a class of which so many bytes go round.
  bool MayRotate(uint64_t class_bytes) const {
    return class_bytes < limits_.rotation_bytes && bytes_.spans < 4 * limits_.rotation_bytes;
  }

  PageSource& source_;
  const SegmentView<RealSync> view_;
  std::byte* const payload_;
  const uint32_t member_;
  const uint8_t number_;
  std::atomic<bool> used_{false};  // since the last WasUsed()
  const LocalHeapLimits limits_;
  // Free blocks of small classes that are in no span's stack.
  std::array<uint32_t, kSmallClassCount> known_{};
  std::array<uint32_t, kSmallClassCount> most_known_;
  // Small spans with free blocks in their own stacks.
  std::array<SpanList, kSmallClassCount> available_;
  // The others, the longest not looked at first.
  std::array<SpanList, kSmallClassCount> full_;
  LocalHeapBytes bytes_;
  LargeBlocks large_;
  // Of the stack of a class as much as was ever used takes memory.
  std::array<std::array<FreeBlock, kMostKnown>, kSmallClassCount> small_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_LOCAL_HEAP_H_

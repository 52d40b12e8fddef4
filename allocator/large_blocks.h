// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_LARGE_BLOCKS_H_
#define HANDOFF_ALLOCATOR_LARGE_BLOCKS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "allocator/block.h"
#include "allocator/hold_moves.h"
#include "allocator/local_span.h"
#include "allocator/page_source.h"
#include "allocator/segment_view.h"
#include "allocator/size_class.h"
#include "allocator/zero_table.h"
#include "base/sync.h"

namespace handoff {

struct LocalHeapLimits {
  // Wholly free spans that the heap keeps for the next allocation; what is above goes back at once.
  uint64_t retained_bytes;
  // How much of one class goes round before blocks that others have freed are used again: their
  // lines are in the caches of the others. All classes together four times as much.
  uint64_t rotation_bytes;
};

// What a heap has, of both sizes.
struct LocalHeapBytes {
  uint64_t retained = 0;  // in wholly free spans
  uint64_t spans = 0;     // in all spans
};

// The part of a LocalHeap that has the blocks which are spans, under the heap's lock.
//
// Free ones are in a stack for each bin of lengths, and used again last in, first out. The others
// are in a queue for each bin, the longest not looked at first; there it is seen that somebody else
// has freed one. Entries of the queue stay when the heap's own thread releases the block and
// allocates it again, so that neither touches more than the row of the block, the top of a stack
// and two bits: where many blocks live, each further line is one that no cache has.
class LargeBlocks {
 public:
  // `heap` is what its spans name as theirs, `number` what their tags do.
  LargeBlocks(PageSource& source, const LocalHeapLimits& limits, LocalHeap* heap, uint8_t number,
              LocalHeapBytes& bytes);

  // A block of `pages` pages, or so many more that an eighth is not used, that is known to be free.
  [[nodiscard]] bool AllocateKnown(uint32_t pages, uint64_t size_bytes, Block* out) {
    std::vector<FreeSpan>& known = free_[LargeBinFor(pages)];
    if (__builtin_expect(known.empty() || known.back().pages != pages, 0)) {
      return AllocateFitting(pages, size_bytes, kPageBytes, out);
    }
    const FreeSpan span = known.back();
    known.pop_back();
    return TakeKnown(span, out);
  }

  // See LocalHeap::Allocate().
  [[nodiscard]] bool Allocate(uint64_t size_bytes, uint64_t alignment, Block* out,
                              absl::Status* why);

  // Releases a block of a span of this heap in that bin. False, and nothing is done: it has shrunk.
  [[nodiscard]] bool ReleaseAsItWas(uint32_t bin, const Block& block) {
    const uint32_t head = block.span.head_page();
    const uint64_t pages = block.size_bytes / kPageBytes;
    if (__builtin_expect(view_.LoadRun(head).stored_pages() != pages || LargeBinFor(pages) != bin,
                         0)) {
      return false;
    }
    HoldMoves<RealSync>::Release(view_.large_hold(head), block.hold);
    Keep(bin, {head, static_cast<uint32_t>(pages)});
    return true;
  }
  // The same, whatever its length.
  void Release(LocalSpan* span, const Block& block);

  // Looks at up to `*look_at` blocks in use, and counts it down.
  void LookAgain(size_t* look_at);
  // Gives back free spans while more than `keep_bytes` are retained, the longest unused first.
  // Returns the bytes given back.
  uint64_t Trim(uint64_t keep_bytes);

 private:
  struct FreeSpan {
    uint32_t head;
    uint32_t pages;
  };
  // A span that was in use when it was entered. It says nothing once the serial is another.
  struct UsedSpan {
    LocalSpan* span;
    uint32_t head;
    uint32_t serial;
  };

  // First in, first out, in one piece of memory.
  class Queue {
   public:
    size_t size() const { return size_; }
    // The entry that is `index` behind the first.
    const UsedSpan& operator[](size_t index) const {
      return entries_[(first_ + index) & (entries_.size() - 1)];
    }
    void Push(const UsedSpan& entry) {
      if (size_ == entries_.size()) Grow();
      entries_[(first_ + size_++) & (entries_.size() - 1)] = entry;
    }
    UsedSpan Pop() {
      const UsedSpan entry = entries_[first_];
      first_ = (first_ + 1) & (entries_.size() - 1);
      --size_;
      return entry;
    }

   private:
    void Grow();

    std::vector<UsedSpan> entries_;  // a power of two, or none
    size_t first_ = 0;
    size_t size_ = 0;
  };

  // What is remembered of a page where a span of this heap begins, in two bits.
  class Marks {
   public:
    explicit Marks(uint32_t page_count) : words_(page_count / kPagesPerWord + 1) {}
    bool IsFree(uint32_t head) const { return (words_[head / kPagesPerWord] & Free(head)) != 0; }
    void SetFree(uint32_t head) { words_[head / kPagesPerWord] |= Free(head); }
    // It is in use, and in the queue. Returns whether it was there before.
    bool SetQueued(uint32_t head) {
      uint64_t& word = words_[head / kPagesPerWord];
      const bool was = (word & Queued(head)) != 0;
      word = (word & ~Free(head)) | Queued(head);
      return was;
    }
    void ClearQueued(uint32_t head) { words_[head / kPagesPerWord] &= ~Queued(head); }
    void Clear(uint32_t head) { words_[head / kPagesPerWord] &= ~(Free(head) | Queued(head)); }

   private:
    static constexpr uint32_t kPagesPerWord = 32;
    static constexpr uint64_t Free(uint32_t head) {
      return uint64_t{1} << (head % kPagesPerWord * 2);
    }
    static constexpr uint64_t Queued(uint32_t head) { return Free(head) << 1; }

    ZeroTable<uint64_t> words_;
  };

  static uint64_t BytesOf(const FreeSpan& span) { return span.pages * kPageBytes; }

  // Relaxed: it orders nothing, what is remembered of a span is this heap's own.
  static uint32_t SerialOf(const LocalSpan* span) {
    return span->serial.load(std::memory_order_relaxed);
  }
  // By the heap that has the span.
  static void NextSerial(LocalSpan* span) {
    span->serial.store(SerialOf(span) + 1, std::memory_order_relaxed);
  }

  // A span that was in the stack and is free as far as is known; false if it is not.
  bool TakeKnown(const FreeSpan& span, Block* out) {
    bytes_.retained -= BytesOf(span);
    if (__builtin_expect(!marks_.SetQueued(span.head), 0)) Enqueue(source_.For(span.head));
    return Take(span, out);
  }
  // The same of a span that is in the queue, and marked so.
  bool Take(const FreeSpan& span, Block* out) {
    HoldMoves<RealSync>::Word& word = view_.large_hold(span.head);
    const HoldWord seen = HoldMoves<RealSync>::Load(word);
    if (__builtin_expect(!seen.IsFree(), 0)) return false;
    out->hold = HoldMoves<RealSync>::AllocateSeen(word, seen, member_);
    out->data = payload_ + span.head * kPageBytes;
    out->size_bytes = BytesOf(span);
    out->id = span.head * kWordsPerPage;
    out->span = BlockSpan(span.head, true);
    return true;
  }
  // A span that is free and in no stack: to be used again, or back to the segment.
  void Keep(uint32_t bin, const FreeSpan& span) {
    bytes_.retained += BytesOf(span);
    // The last one of a bin is kept in any case, so that messages of one size find it again.
    if (__builtin_expect(bytes_.retained > limits_.retained_bytes, 0) && !free_[bin].empty()) {
      GiveBack(span);
      return;
    }
    marks_.SetFree(span.head);
    free_[bin].push_back(span);
  }

  bool AllocateFitting(uint32_t pages, uint64_t size_bytes, uint64_t alignment, Block* out);
  // One that others have freed, among the first `look_at` in the queue; it is in the queue again.
  std::optional<FreeSpan> Collect(uint32_t pages, uint64_t size_bytes, uint64_t alignment,
                                  size_t look_at);
  // The first entry of a queue that is not empty, if it is still one of a span in use. Then it is
  // in no queue, but marked so.
  LocalSpan* PopUsed(uint32_t bin);
  std::optional<FreeSpan> Claim(uint32_t pages, uint32_t align_pages, absl::Status* why);
  void Enqueue(LocalSpan* span) {
    queues_[span->list - kSmallClassCount].Push({span, span->head_page(), SerialOf(span)});
  }
  // The block has perhaps left its span shorter. If that puts it in another bin, the span is in no
  // queue any more.
  void UpdateRun(LocalSpan* span);
  void GiveBack(const FreeSpan& span);
  bool MayRotate(uint64_t bin_bytes) const {
    return bin_bytes < limits_.rotation_bytes && bytes_.spans < 4 * limits_.rotation_bytes;
  }

  PageSource& source_;
  const SegmentView<RealSync> view_;
  std::byte* const payload_;
  const uint32_t member_;
  const LocalHeapLimits limits_;
  LocalHeap* const heap_;
  const uint8_t number_;
  LocalHeapBytes& bytes_;
  Marks marks_;
  std::array<std::vector<FreeSpan>, kLargeBinCount> free_;
  std::array<Queue, kLargeBinCount> queues_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_LARGE_BLOCKS_H_

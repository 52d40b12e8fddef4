// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_VIEW_H_
#define HANDOFF_ALLOCATOR_SEGMENT_VIEW_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "allocator/hold.h"
#include "allocator/page_word.h"
#include "allocator/segment_layout.h"
#include "allocator/size_class.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff {

// Names one block of a segment in any process: the page where its span begins times kWordsPerPage,
// plus its place in the span. 64 GiB of segment are 2^30 of them.
using BlockId = uint32_t;

// The span of a block in use: the page where it begins, and whether the block is all of it. Tells
// where the hold is without a look at the tables.
class BlockSpan {
 public:
  constexpr BlockSpan() = default;
  constexpr BlockSpan(uint32_t head_page, bool large) : raw_(head_page << 1 | (large ? 1 : 0)) {}

  constexpr uint32_t head_page() const { return raw_ >> 1; }
  constexpr bool large() const { return (raw_ & 1) != 0; }

 private:
  uint32_t raw_ = 0;
};

// Where one block is. `hold` stays valid as long as the segment is mapped, the rest as long as the
// caller knows that the block is in use.
template <class Sync>
struct BlockLocation {
  typename Sync::template Atomic<uint64_t>* hold;
  uint64_t offset_bytes;  // of the payload
  uint64_t size_bytes;    // room of the block
  BlockSpan span;
};

// The mapped tables of one segment, and the arithmetic on them. A value of pointers; owns nothing.
template <class Sync>
class SegmentView {
 public:
  using Word = typename Sync::template Atomic<uint64_t>;

  SegmentView() = default;
  // `area` are SegmentAreaBytes() of zeros or of an area used before.
  SegmentView(std::byte* area, uint64_t page_count)
      : header_(reinterpret_cast<SegmentHeader<Sync>*>(area)),
        page_count_(static_cast<uint32_t>(page_count)) {
    const SegmentAreaLayout layout(page_count);
    page_words_ = reinterpret_cast<Word*>(area + layout.page_words);
    large_rows_ = reinterpret_cast<LargeRow<Sync>*>(area + layout.large_rows);
    small_holds_ = reinterpret_cast<Word*>(area + layout.small_holds);
  }

  SegmentHeader<Sync>& header() const { return *header_; }
  uint32_t page_count() const { return page_count_; }
  // Pages whose tables and payload are reserved. Never more than page_count(), whatever is written
  // there.
  uint32_t backed_pages() const {
    const uint32_t backed = header_->backed_pages.load(std::memory_order_acquire);
    return backed < page_count_ ? backed : page_count_;
  }
  Word& page_word(uint32_t page) const { return page_words_[page]; }
  Word& large_hold(uint32_t page) const { return large_rows_[page].hold; }
  Word& run(uint32_t page) const { return large_rows_[page].run; }
  Word& small_hold(BlockId id) const { return small_holds_[id]; }
  // Of a block in use.
  Word& HoldOf(BlockId id, BlockSpan span) const {
    return span.large() ? large_rows_[span.head_page()].hold : small_holds_[id];
  }

  PageWord LoadPage(uint32_t page) const {
    return PageWord(page_words_[page].load(std::memory_order_acquire));
  }
  RunWord LoadRun(uint32_t page) const {
    return RunWord(large_rows_[page].run.load(std::memory_order_acquire));
  }

  // The number of blocks in the span with this head word, and the hold of block `index` of it.
  // Never more than have holds, whatever is written there.
  uint32_t BlockCount(uint32_t head_page, PageWord head) const {
    if (head.size_class() >= kSmallClassCount) return head.size_class() == kLargeClass ? 1 : 0;
    const SizeClass& size_class = kSizeClasses[head.size_class()];
    return size_class.pages <= page_count_ - head_page ? size_class.count : 0;
  }
  Word& HoldAt(uint32_t head_page, PageWord head, uint32_t index) const {
    return head.size_class() == kLargeClass ? large_rows_[head_page].hold
                                            : small_holds_[head_page * kWordsPerPage + index];
  }

  // The block of this id, however wrong the id: nothing when no block can be there now. The answer
  // holds while the block is in use; who does not know that yet has the hold checked by generation
  // and locates again.
  std::optional<BlockLocation<Sync>> Locate(BlockId id) const {
    const PageWord page = PageOf(id);
    BlockLocation<Sync> location;
    location.hold = FindHold(id, page);
    if (location.hold == nullptr || !FindPlace(id, page, &location)) return std::nullopt;
    return location;
  }

  // The same in steps. The word of the page that the id names: free if there is no such page.
  [[gnu::always_inline]] PageWord PageOf(BlockId id) const {
    const uint32_t page = id / kWordsPerPage;
    return page < backed_pages() ? LoadPage(page) : PageWord();
  }
  // The word that is the hold of the block if there is one with this id; null: there is none.
  [[gnu::always_inline]] Word* FindHold(BlockId id, PageWord page) const {
    if (page.IsFree()) return nullptr;
    if (__builtin_expect(page.size_class() < kSmallClassCount, 1)) return &small_holds_[id];
    if (page.size_class() != kLargeClass || !page.IsHead() || id % kWordsPerPage != 0) {
      return nullptr;
    }
    return &large_rows_[id / kWordsPerPage].hold;
  }
  // Everything but the hold, where FindHold() has found one. False: there is no such block.
  [[gnu::always_inline]] bool FindPlace(BlockId id, PageWord page,
                                        BlockLocation<Sync>* location) const {
    const uint32_t number = id / kWordsPerPage;
    if (__builtin_expect(page.size_class() < kSmallClassCount, 1)) {
      const SizeClass& size_class = kSizeClasses[page.size_class()];
      const uint32_t head = number - page.distance();
      const uint32_t index = id - head * kWordsPerPage;
      if (page.distance() > number || index >= size_class.count) return false;
      location->offset_bytes = head * kPageBytes + uint64_t{index} * size_class.block_bytes;
      location->size_bytes = size_class.block_bytes;
      location->span = BlockSpan(head, false);
    } else {
      const uint32_t pages = LoadRun(number).PagesOf(page);
      location->offset_bytes = number * kPageBytes;
      location->size_bytes = pages * kPageBytes;
      location->span = BlockSpan(number, true);
    }
    return location->offset_bytes + location->size_bytes <= page_count_ * kPageBytes;
  }

  // The block that begins at this byte of the payload, if one can be there now; as Locate().
  std::optional<BlockId> IdAt(uint64_t offset_bytes) const {
    const uint64_t page = offset_bytes / kPageBytes;
    if (page >= backed_pages()) return std::nullopt;
    const PageWord word = LoadPage(static_cast<uint32_t>(page));
    uint64_t id = page * kWordsPerPage;
    if (!word.IsFree() && word.size_class() < kSmallClassCount && word.distance() <= page) {
      const uint64_t head = page - word.distance();
      id = head * kWordsPerPage +
           (offset_bytes - head * kPageBytes) / kSizeClasses[word.size_class()].block_bytes;
    }
    const auto location = Locate(static_cast<BlockId>(id));
    if (!location.has_value() || location->offset_bytes != offset_bytes) return std::nullopt;
    return static_cast<BlockId>(id);
  }

  // Whether every block of the span is free. Lasting only for who alone may allocate there, or if
  // nobody may.
  bool AllFree(uint32_t head_page, PageWord head) const {
    const uint32_t count = BlockCount(head_page, head);
    for (uint32_t i = 0; i < count; ++i) {
      const HoldState state =
          HoldWord(HoldAt(head_page, head, i).load(std::memory_order_acquire)).state();
      if (state != HoldState::kFree) return false;
    }
    return true;
  }

  // Waiting for memory: a member that waits says so in its own byte, and in `waiters` for those who
  // release. Not waiting any more, or dead: its byte is cleared, and `waiters` with the last one.
  //   1. waiters := 0   2. full fence   3. look at the bytes again: anybody? waiters := 1
  // pairs with Wait(), which stores the byte first: who is not seen in 3 stores its 1 after our 0.
  // Killed between 1 and 3, somebody sleeps unseen until the end of its slice, and then says so
  // again.
  void Wait(uint32_t slot) const {
    header_->waiting[slot].store(1, std::memory_order_relaxed);
    header_->waiters.store(1, std::memory_order_release);
  }
  void StopWaiting(uint32_t slot) const {
    header_->waiting[slot].store(0, std::memory_order_release);
    ForgetWaiters();
  }
  void ForgetWaiters() const {
    if (header_->waiters.load(std::memory_order_acquire) == 0 || AnyWaiting()) return;
    header_->waiters.store(0, std::memory_order_release);                    // 1
    Sync::FullFence();                                                       // 2
    if (AnyWaiting()) header_->waiters.store(1, std::memory_order_release);  // 3
  }

  // A removed segment's row may be used again once no member can take the next segment of the row
  // for this one.
  //   Mapping:  1. mapped := 1   2. full fence   3. the row still says this segment: use it, or
  //             mapped := 0
  //   Removing: 4. the row says removed (byte 0 held)
  //   Row used again: 5. full fence   6. nobody alive has `mapped` set (byte 0 held)
  // 1 and 3 against 4 and 6: who is not seen in 6 sees 4. A member that needs nothing of a removed
  // segment any more sets 0, after the last use of its row's number. `mapped` says whose it is, by
  // the epoch. Killed anywhere, or gone: its byte stays, and does not count once the row of its
  // slot has moved on (but for one in kMappedTags members of the slot, for whom it is as good as
  // mapped).
  void SetMapped(MemberId member, bool mapped) const {
    header_->mapped[member.slot].store(mapped ? MappedTag(member.epoch) : 0,
                                       std::memory_order_release);  // 1
    Sync::FullFence();                                              // 2
  }
  template <class Members>
  bool MappedByAny(const Members& members) const {
    Sync::FullFence();  // 5
    for (uint32_t slot = 1, end = members.SlotsUsed(); slot < end; ++slot) {
      const uint8_t tag = header_->mapped[slot].load(std::memory_order_acquire);
      if (tag == 0) continue;
      const MemberWord word = members.Word(slot);
      if (word.state != MemberState::kFree && tag == MappedTag(word.epoch)) return true;  // 6
    }
    return false;
  }

 private:
  static constexpr uint8_t MappedTag(uint32_t epoch) {
    return static_cast<uint8_t>(1 + epoch % kMappedTags);
  }

  bool AnyWaiting() const {
    for (const auto& byte : header_->waiting) {
      if (byte.load(std::memory_order_acquire) != 0) return true;
    }
    return false;
  }

  SegmentHeader<Sync>* header_ = nullptr;
  uint32_t page_count_ = 0;
  Word* page_words_ = nullptr;
  LargeRow<Sync>* large_rows_ = nullptr;
  Word* small_holds_ = nullptr;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_VIEW_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_PAGE_WORD_H_
#define HANDOFF_ALLOCATOR_PAGE_WORD_H_

#include <cstdint>

namespace handoff {

enum class PageState : uint32_t {
  kFree = 0,
  kOwned = 1,  // first page of a span; `owner` alone allocates from it
  kOwnerless =
      2,      // the same, its owner is dead, blocks of it may be in use: nobody allocates from it
  kTail = 3,  // a further page of the span whose head is the next one below
};

// What a span is, in the word of its head; its tails repeat it, but for kPendingClass.
// 0 .. kSmallClassCount - 1: a span of small blocks.
inline constexpr uint32_t kPendingClass = 254;  // it is being claimed or given back
inline constexpr uint32_t kLargeClass = 255;    // it is one block

// The word of one page of a segment:
//
//   generation 37 | state 3 | owner 12 | class 8 | distance 4
//
// All zero is (free, generation 0). The generation goes up by one at claim and at give-back.
// Changed by CAS only. `distance` is that of a small span's tail from its head, in pages.
class PageWord {
 public:
  static constexpr uint64_t kGenerationMask = (uint64_t{1} << 37) - 1;

  constexpr PageWord() = default;
  explicit constexpr PageWord(uint64_t raw) : raw_(raw) {}

  constexpr uint64_t raw() const { return raw_; }
  constexpr uint64_t generation() const { return raw_ >> 27; }
  constexpr PageState state() const { return static_cast<PageState>((raw_ >> 24) & 7); }
  constexpr uint32_t owner() const { return static_cast<uint32_t>(raw_ >> 12) & 0xFFF; }
  constexpr uint32_t size_class() const { return static_cast<uint32_t>(raw_ >> 4) & 0xFF; }
  constexpr uint32_t distance() const { return static_cast<uint32_t>(raw_) & 0xF; }

  constexpr bool IsFree() const { return state() == PageState::kFree; }
  // A page of a span of small blocks, unless the class is nonsense.
  constexpr bool IsBelowClass(uint32_t class_count) const {
    return size_class() < class_count && !IsFree();
  }
  constexpr bool IsTail() const { return state() == PageState::kTail; }
  constexpr bool IsHead() const {
    return state() == PageState::kOwned || state() == PageState::kOwnerless;
  }
  constexpr bool IsPending() const { return IsHead() && size_class() == kPendingClass; }
  constexpr bool IsOwnedBy(uint32_t member) const {
    return state() == PageState::kOwned && owner() == member;
  }

  // free -> pending head of `owner_id`, generation + 1.
  constexpr PageWord ClaimedAsHead(uint32_t owner_id) const {
    return Of(PageState::kOwned, generation() + 1, owner_id, kPendingClass, 0);
  }
  // free -> tail, generation + 1.
  constexpr PageWord ClaimedAsTail(uint32_t class_id, uint32_t distance_pages) const {
    return Of(PageState::kTail, generation() + 1, 0, class_id, distance_pages);
  }
  // A head under another class: pending -> its class, and back.
  constexpr PageWord WithClass(uint32_t class_id) const {
    return Of(state(), generation(), owner(), class_id, 0);
  }
  // A head whose owner is dead -> ownerless.
  constexpr PageWord Ownerless() const {
    return Of(PageState::kOwnerless, generation(), 0, size_class(), 0);
  }
  // -> free, generation + 1.
  constexpr PageWord GivenBack() const { return Of(PageState::kFree, generation() + 1, 0, 0, 0); }

  friend constexpr bool operator==(PageWord, PageWord) = default;

 private:
  static constexpr PageWord Of(PageState state, uint64_t generation, uint32_t owner_id,
                               uint32_t class_id, uint32_t distance_pages) {
    return PageWord(((generation & kGenerationMask) << 27) |
                    (uint64_t{static_cast<uint32_t>(state)} << 24) |
                    (uint64_t{owner_id & 0xFFF} << 12) | (uint64_t{class_id & 0xFF} << 4) |
                    (distance_pages & 0xF));
  }

  uint64_t raw_ = 0;
};

// How many pages a span has, beside the word of its head: generation of the head 37 | pages 27. It
// says nothing while the generations differ.
class RunWord {
 public:
  constexpr RunWord() = default;
  explicit constexpr RunWord(uint64_t raw) : raw_(raw) {}
  static constexpr RunWord Of(PageWord head, uint32_t pages) {
    return RunWord((head.generation() << 27) | pages);
  }

  constexpr uint64_t raw() const { return raw_; }
  // The number in it, of whichever span.
  constexpr uint32_t stored_pages() const { return static_cast<uint32_t>(raw_) & 0x7FFFFFF; }
  // Of the span with this head word; 1 when no length was written for it yet.
  constexpr uint32_t PagesOf(PageWord head) const {
    return (raw_ >> 27) == head.generation() ? stored_pages() : 1;
  }

  friend constexpr bool operator==(RunWord, RunWord) = default;

 private:
  uint64_t raw_ = 0;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_PAGE_WORD_H_

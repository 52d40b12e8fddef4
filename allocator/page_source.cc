// SPDX-License-Identifier: Apache-2.0
#include "allocator/page_source.h"

#include <algorithm>
#include <optional>

#include "allocator/hold_moves.h"
#include "allocator/page_map.h"
#include "base/check.h"

namespace handoff {

namespace {

// The file grows by at least a mebibyte, so that growing costs few calls.
constexpr uint32_t kGrowPages = 256;

constexpr uint32_t kHoldsPerFilePage = kPageBytes / sizeof(uint64_t);

}  // namespace

PageSource::PageSource(const SegmentView<RealSync>& view, std::byte* payload,
                       SegmentBacking& backing, uint32_t member, bool large_spans_use_holds)
    : view_(view),
      payload_(payload),
      backing_(backing),
      member_(member),
      large_spans_use_holds_(large_spans_use_holds),
      pool_(view.page_count()),
      holds_reserved_((uint64_t{view.page_count()} * kWordsPerPage + kHoldsPerFilePage - 1) /
                      kHoldsPerFilePage) {}

LocalSpan* PageSource::Claim(uint32_t pages, uint32_t align_pages, uint32_t class_id,
                             absl::Status* why) {
  if (pages > view_.page_count()) return nullptr;
  absl::MutexLock lock(&mutex_);
  uint32_t head = 0;
  for (;;) {
    const uint32_t backed = view_.backed_pages();
    const uint32_t from = std::min(rover_, backed);
    if (ClaimBetween(from, backed, pages, align_pages, class_id, &head, why)) break;
    // Again from the start; a run may begin before the rover and end behind it.
    if (why->ok() && ClaimBetween(0, backed, pages, align_pages, class_id, &head, why)) break;
    if (!why->ok() || !Grow(pages + align_pages - 1, why)) return nullptr;
  }
  rover_ = head + pages;
  const bool small = class_id < kSmallClassCount;
  const uint16_t count = small ? kSizeClasses[class_id].count : uint16_t{1};
  LocalSpan* span = pool_.Make(head, pages, count, small);
  if (!small) HoldMoves<RealSync>::LeaveSmallGenerations(view_.large_hold(head));
  span->holds = small ? &view_.small_hold(head * kWordsPerPage) : &view_.large_hold(head);
  return span;
}

bool PageSource::ClaimBetween(uint32_t from, uint32_t to, uint32_t pages, uint32_t align_pages,
                              uint32_t class_id, uint32_t* head, absl::Status* why) {
  while (from < to) {
    *head = FindRun(from, to, pages, align_pages);
    if (*head == to) return false;
    // Before the claim: a page word that says "small" stands for holds that can be read, also those
    // behind the last block, which a forged handle may name.
    const uint32_t holds =
        class_id < kSmallClassCount || large_spans_use_holds_ ? pages * kWordsPerPage : 0;
    if (holds > 0) {
      *why = ReserveHolds(*head, holds);
      if (!why->ok()) return false;
    }
    const std::optional<uint32_t> conflict =
        PageMap<RealSync>::Claim(view_, *head, pages, member_, class_id);
    if (!conflict.has_value()) return true;
    from = *conflict + 1;
  }
  return false;
}

uint32_t PageSource::FindRun(uint32_t from, uint32_t to, uint32_t pages,
                             uint32_t align_pages) const {
  const auto aligned = [align_pages](uint64_t page) {
    return (page + align_pages - 1) & ~uint64_t{align_pages - 1};
  };
  uint64_t head = aligned(from);
  while (head + pages <= to) {
    // Backwards, so that a page that is taken moves the search furthest.
    uint64_t page = head + pages;
    while (page > head && view_.LoadPage(static_cast<uint32_t>(page - 1)).IsFree()) --page;
    if (page == head) return static_cast<uint32_t>(head);
    head = aligned(page);
  }
  return to;
}

bool PageSource::Grow(uint32_t pages, absl::Status* why) {
  const uint32_t backed = view_.backed_pages();
  const uint32_t left = view_.page_count() - backed;
  if (left == 0) return false;
  // Free pages at the end of what is backed count too.
  uint32_t tail = 0;
  while (tail < backed && tail < pages && view_.LoadPage(backed - 1 - tail).IsFree()) ++tail;
  const uint32_t least = std::min(left, std::max(pages - tail, uint32_t{1}));
  const SegmentAreaLayout layout(view_.page_count());
  for (uint32_t more : {std::min(left, std::max(least, kGrowPages)), least}) {
    *why = backing_.ReservePayload(backed * kPageBytes, more * kPageBytes);
    if (why->ok()) {
      *why = backing_.ReserveArea(layout.page_words + uint64_t{backed} * sizeof(PageWord),
                                  uint64_t{more} * sizeof(PageWord));
    }
    if (why->ok()) {
      *why = backing_.ReserveArea(layout.large_rows + uint64_t{backed} * sizeof(LargeRow<RealSync>),
                                  uint64_t{more} * sizeof(LargeRow<RealSync>));
    }
    if (!why->ok()) continue;
    uint32_t seen = backed;
    // Release: who sees the number (acquire) may touch the pages. Another process may have grown it
    // further.
    while (seen < backed + more &&
           !view_.header().backed_pages.compare_exchange_weak(
               seen, backed + more, std::memory_order_acq_rel, std::memory_order_acquire)) {
    }
    return true;
  }
  return false;
}

absl::Status PageSource::ReserveHolds(uint32_t head, uint32_t count) {
  const uint64_t first = uint64_t{head} * kWordsPerPage / kHoldsPerFilePage;
  const uint64_t last = (uint64_t{head} * kWordsPerPage + count - 1) / kHoldsPerFilePage;
  bool reserved = true;
  for (uint64_t i = first; i <= last; ++i) reserved = reserved && holds_reserved_[i];
  if (reserved) return absl::OkStatus();
  const SegmentAreaLayout layout(view_.page_count());
  absl::Status status = backing_.ReserveArea(
      layout.small_holds + uint64_t{head} * kWordsPerPage * 8, uint64_t{count} * 8);
  if (!status.ok()) return status;
  for (uint64_t i = first; i <= last; ++i) holds_reserved_[i] = true;
  return status;
}

void PageSource::GiveBack(LocalSpan* span) {
  absl::MutexLock lock(&mutex_);
  const uint32_t head = span->head_page();
  const bool small = span->list < kSmallClassCount;
  pool_.Delete(span, small);
  // Others have it if this member was declared dead.
  if (view_.LoadPage(head).IsOwnedBy(member_)) PageMap<RealSync>::GiveBack(view_, head);
}

}  // namespace handoff

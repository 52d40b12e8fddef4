// SPDX-License-Identifier: Apache-2.0
#include "allocator/local_heap.h"

#include <algorithm>

#include "base/check.h"

namespace handoff {

namespace {

// How many spans an allocation looks at for blocks that others have freed, before it claims pages.
// Each gives an eighth of its blocks or is left alone, so that looking stays cheap for each block
// found.
constexpr size_t kLooksBeforeClaim = 4;
constexpr uint32_t kLeastEighths = 1;
constexpr size_t kAllSpans = SIZE_MAX;

}  // namespace

LocalHeap::LocalHeap(PageSource& source, const LocalHeapLimits& limits)
    : source_(source), limits_(limits) {
  none_.count = 1;  // never wholly free
  current_.fill(&none_);
}

bool LocalHeap::AllocateSmall(uint32_t size_class, Block* out, absl::Status* why) {
  for (;;) {
    RetireCurrent(size_class);
    LocalSpan* span = available_[size_class].front();
    if (span != nullptr) available_[size_class].Remove(span);
    const SizeClass& sizes = kSizeClasses[size_class];
    if (span == nullptr && MayRotate(full_[size_class].size() * sizes.pages * kPageBytes)) {
      span = ClaimSpan(size_class, sizes.pages, 1, size_class, why);
    }
    if (span == nullptr) span = CollectSmall(size_class, kLooksBeforeClaim, kLeastEighths);
    if (span == nullptr) span = ClaimSpan(size_class, sizes.pages, 1, size_class, why);
    if (span == nullptr) span = CollectSmall(size_class, kAllSpans, 0);
    if (span == nullptr) return false;
    current_[size_class] = span;
    if (Pop(span, out)) return true;
  }
}

void LocalHeap::RetireCurrent(uint32_t list) {
  LocalSpan* span = current_[list];
  if (span == &none_) return;
  current_[list] = &none_;
  if (span->free_count > 0) {
    available_[list].PushFront(span);
    return;
  }
  span->listed_as_full = true;
  full_[list].PushBack(span);
}

LocalSpan* LocalHeap::CollectSmall(uint32_t size_class, size_t look_at, uint32_t least_eighths) {
  SpanList& full = full_[size_class];
  look_at = std::min(look_at, full.size());
  for (size_t i = 0; i < look_at; ++i) {
    LocalSpan* span = full.front();
    full.Remove(span);
    const uint32_t found = Collect(span);
    if (found > 0 && found * 8 >= span->count * least_eighths) {
      span->listed_as_full = false;
      return span;
    }
    span->free_count = 0;
    full.PushBack(span);
  }
  return nullptr;
}

uint32_t LocalHeap::Collect(LocalSpan* span) {
  // Downwards, so that blocks leave the stack in the order of their addresses.
  span->free_count = 0;
  for (uint32_t i = span->count; i-- > 0;) {
    if (HoldMoves<RealSync>::Load(span->holds[i]).IsFree()) {
      span->free[span->free_count++] = static_cast<uint16_t>(i);
    }
  }
  if (span->free_count == span->count) retained_bytes_ += SpanBytes(*span);
  return span->free_count;
}

bool LocalHeap::Allocate(uint64_t size_bytes, uint64_t alignment, Block* out, absl::Status* why) {
  if (size_bytes <= kMaxSmallBytes && alignment <= kPageBytes) {
    // Spans begin on a page, so the blocks of a class are aligned to whatever divides their size.
    for (uint32_t i = SmallClassFor(size_bytes); i < kSmallClassCount; ++i) {
      if (kSizeClasses[i].block_bytes % alignment != 0) continue;
      return Pop(current_[i], out) || AllocateSmall(i, out, why);
    }
  }
  return AllocateLarge(size_bytes, alignment, out, why);
}

bool LocalHeap::AllocateLarge(uint64_t size_bytes, uint64_t alignment, Block* out,
                              absl::Status* why) {
  const uint64_t wanted_pages = (size_bytes + kPageBytes - 1) / kPageBytes;
  if (wanted_pages > source_.view().page_count()) return false;
  const uint32_t pages = static_cast<uint32_t>(wanted_pages);
  const uint32_t bin = kSmallClassCount + LargeBinFor(pages);
  const uint32_t align_pages = static_cast<uint32_t>(std::max(alignment, kPageBytes) / kPageBytes);
  for (;;) {
    RetireCurrent(bin);
    LocalSpan* span = FindLarge(pages, size_bytes, alignment, 0);
    if (span == nullptr && MayRotate(full_[bin].size() * pages * kPageBytes)) {
      span = ClaimSpan(bin, pages, align_pages, kLargeClass, why);
    }
    if (span == nullptr) span = FindLarge(pages, size_bytes, alignment, kLooksBeforeClaim);
    if (span == nullptr) span = ClaimSpan(bin, pages, align_pages, kLargeClass, why);
    if (span == nullptr) span = FindLarge(pages, size_bytes, alignment, kAllSpans);
    if (span == nullptr) return false;
    current_[bin] = span;
    if (Pop(span, out)) return true;
  }
}

LocalSpan* LocalHeap::FindLarge(uint32_t pages, uint64_t size_bytes, uint64_t alignment,
                                size_t look_at) {
  const uint32_t bin = kSmallClassCount + LargeBinFor(pages);
  const auto fits = [&](const LocalSpan& span) {
    const uint64_t bytes = SpanBytes(span);
    return span.pages >= pages && (span.pages == pages || bytes - size_bytes <= bytes / 8) &&
           reinterpret_cast<uintptr_t>(span.data) % alignment == 0;
  };
  constexpr int kMostTried = 8;
  LocalSpan* span = available_[bin].front();
  for (int i = 0; span != nullptr && i < kMostTried; ++i, span = span->next) {
    if (!fits(*span)) continue;
    available_[bin].Remove(span);
    return span;
  }
  look_at = std::min(look_at, full_[bin].size());
  for (size_t i = 0; i < look_at; ++i) {
    span = full_[bin].front();
    full_[bin].Remove(span);
    if (Collect(span) == 0) {
      full_[bin].PushBack(span);
      continue;
    }
    span->listed_as_full = false;
    UpdateRun(span);
    if (span->list == bin && fits(*span)) return span;
    available_[span->list].PushFront(span);
  }
  return nullptr;
}

LocalSpan* LocalHeap::ClaimSpan(uint32_t list, uint32_t pages, uint32_t align_pages,
                                uint32_t class_id, absl::Status* why) {
  LocalSpan* span = source_.Claim(pages, align_pages, class_id, why);
  if (span == nullptr) return nullptr;
  span->heap.store(this, std::memory_order_relaxed);
  span->list = static_cast<uint16_t>(list);
  span->listed_as_full = false;
  span->run = source_.view().LoadRun(span->head_page).raw();
  span_bytes_ += SpanBytes(*span);
  Collect(span);
  return span;
}

void LocalHeap::Relist(LocalSpan* span) {
  if (span->listed_as_full) {
    span->listed_as_full = false;
    full_[span->list].Remove(span);
    available_[span->list].PushFront(span);
  }
  if (span->free_count != span->count) return;
  retained_bytes_ += SpanBytes(*span);
  const bool is_current = current_[span->list] == span;
  if (source_.view().run(span->head_page).load(std::memory_order_relaxed) != span->run) {
    if (is_current) {
      current_[span->list] = &none_;
    } else {
      available_[span->list].Remove(span);
    }
    UpdateRun(span);
    available_[span->list].PushFront(span);
  }
  if (retained_bytes_ > limits_.retained_bytes && !is_current) {
    available_[span->list].Remove(span);
    GiveBack(span);
  }
}

void LocalHeap::UpdateRun(LocalSpan* span) {
  if (span->list < kSmallClassCount) return;
  const PageWord head = source_.view().LoadPage(span->head_page);
  const RunWord run = source_.view().LoadRun(span->head_page);
  if (run.raw() == span->run) return;
  span->run = run.raw();
  const uint32_t pages = run.PagesOf(head);
  if (pages == 0 || pages > span->pages) return;  // nonsense: blocks only shrink
  // Only called for a span that is wholly free, so it is counted as retained.
  retained_bytes_ -= SpanBytes(*span);
  span_bytes_ -= (span->pages - pages) * kPageBytes;
  span->pages = pages;
  span->block_bytes = SpanBytes(*span);
  span->list = static_cast<uint16_t>(kSmallClassCount + LargeBinFor(pages));
  retained_bytes_ += SpanBytes(*span);
}

void LocalHeap::GiveBack(LocalSpan* span) {
  retained_bytes_ -= SpanBytes(*span);
  span_bytes_ -= SpanBytes(*span);
  source_.GiveBack(span);
}

uint64_t LocalHeap::Trim(uint64_t keep_bytes, size_t look_at) {
  uint64_t given_back = 0;
  // All looks first: a block that has shrunk moves its span to another list.
  for (uint32_t list = 0; list < kListCount; ++list) LookAgain(list, &look_at);
  for (uint32_t list = 0; list < kListCount; ++list) {
    LocalSpan* next = nullptr;
    for (LocalSpan* span = available_[list].front(); span != nullptr; span = next) {
      next = span->next;
      if (retained_bytes_ <= keep_bytes) break;
      if (span->free_count != span->count) continue;
      available_[list].Remove(span);
      given_back += SpanBytes(*span);
      GiveBack(span);
    }
  }
  return given_back;
}

void LocalHeap::LookAgain(uint32_t list, size_t* look_at) {
  // Blocks that others have freed in spans of which some free blocks are known.
  const auto collect = [this, look_at](LocalSpan* span) {
    if (*look_at == 0 || span->free_count == span->count) return;
    --*look_at;
    Collect(span);
  };
  RetireCurrent(list);
  for (LocalSpan* span = available_[list].front(); span != nullptr; span = span->next)
    collect(span);

  SpanList& full = full_[list];
  for (size_t left = std::min(*look_at, full.size()); left > 0; --left) {
    LocalSpan* span = full.front();
    full.Remove(span);
    --*look_at;
    if (Collect(span) == 0) {
      full.PushBack(span);
      continue;
    }
    span->listed_as_full = false;
    UpdateRun(span);
    available_[span->list].PushBack(span);
  }
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/local_heap.h"

#include <algorithm>

#include "base/cache_line.h"
#include "base/prefetch.h"

namespace handoff {

namespace {

// How many spans an allocation looks at for blocks that others have freed, before it claims pages.
// Each gives an eighth of its blocks or is left alone, so that looking stays cheap for each block
// found.
constexpr size_t kLooksBeforeClaim = 4;
constexpr uint32_t kLeastEighths = 1;
constexpr size_t kAllSpans = SIZE_MAX;
// The stack of a class holds at most this part of what may be retained.
constexpr uint64_t kKnownPart = 32;

}  // namespace

LocalHeap::LocalHeap(PageSource& source, const LocalHeapLimits& limits, uint8_t number)
    : source_(source),
      view_(source.view()),
      payload_(source.payload()),
      member_(source.member()),
      number_(number),
      limits_(limits),
      large_(source, limits, this, TagNumber(number), bytes_) {
  for (uint32_t i = 0; i < kSmallClassCount; ++i) {
    const uint64_t most = limits.retained_bytes / kKnownPart / kSizeClasses[i].block_bytes;
    most_known_[i] = static_cast<uint32_t>(std::clamp<uint64_t>(most, 1, kMostKnown));
  }
}

bool LocalHeap::Allocate(uint64_t size_bytes, uint64_t alignment, Block* out, absl::Status* why) {
  if (size_bytes <= kMaxSmallBytes && alignment <= kPageBytes) {
    // Spans begin on a page, so the blocks of a class are aligned to whatever divides their size.
    for (uint32_t i = SmallClassFor(size_bytes); i < kSmallClassCount; ++i) {
      if (kSizeClasses[i].block_bytes % alignment != 0) continue;
      return AllocateKnown(i, out) || AllocateSmall(i, out, why);
    }
  }
  return AllocateLarge(size_bytes, alignment, out, why);
}

bool LocalHeap::AllocateSmall(uint32_t size_class, Block* out, absl::Status* why) {
  const SizeClass& sizes = kSizeClasses[size_class];
  for (;;) {
    // A stale hint: what is left in the stack of the class comes first.
    if (known_[size_class] > 0) {
      if (AllocateKnown(size_class, out)) return true;
      continue;
    }
    LocalSpan* span = available_[size_class].front();
    if (span == nullptr && MayRotate(full_[size_class].size() * sizes.pages * kPageBytes)) {
      span = ClaimSpan(size_class, why);
    }
    if (span == nullptr) span = CollectSmall(size_class, kLooksBeforeClaim, kLeastEighths);
    if (span == nullptr) span = ClaimSpan(size_class, why);
    if (span == nullptr) span = CollectSmall(size_class, kAllSpans, 0);
    if (span == nullptr) return false;
    Refill(size_class, span);
  }
}

void LocalHeap::Refill(uint32_t size_class, LocalSpan* span) {
  if (span->free_count == span->count) bytes_.retained -= SpanBytes(*span);
  const uint32_t most = (most_known_[size_class] + 1) / 2;
  const uint32_t count = std::min<uint32_t>(most, span->free_count);
  span->free_count = static_cast<uint16_t>(span->free_count - count);
  for (uint32_t i = 0; i < count; ++i) {
    small_[size_class][i] = {span->first_block + span->free[span->free_count + i], span->span};
  }
  known_[size_class] = count;
  if (span->free_count > 0) return;
  available_[size_class].Remove(span);
  full_[size_class].PushBack(span);
}

void LocalHeap::Forget(uint32_t size_class, uint32_t count) {
  auto& known = small_[size_class];
  for (uint32_t i = 0; i < count; ++i) {
    LocalSpan* span = source_.For(known[i].span.head_page());
    if (span->free_count == 0) {
      full_[size_class].Remove(span);
      available_[size_class].PushFront(span);
    }
    span->free[span->free_count++] = static_cast<uint16_t>(known[i].id - span->first_block);
    if (span->free_count < span->count) continue;
    bytes_.retained += SpanBytes(*span);
    if (bytes_.retained <= limits_.retained_bytes) continue;
    available_[size_class].Remove(span);
    GiveBack(span);
  }
  std::copy(known.begin() + count, known.begin() + known_[size_class], known.begin());
  known_[size_class] -= count;
}

LocalSpan* LocalHeap::CollectSmall(uint32_t size_class, size_t look_at, uint32_t least_eighths) {
  SpanList& full = full_[size_class];
  look_at = std::min(look_at, full.size());
  for (size_t i = 0; i < look_at; ++i) {
    LocalSpan* span = full.front();
    full.Remove(span);
    const uint32_t found = Collect(span);
    if (found > 0 && found * 8 >= span->count * least_eighths) {
      available_[size_class].PushFront(span);
      return span;
    }
    if (found == span->count) bytes_.retained -= SpanBytes(*span);
    span->free_count = 0;
    full.PushBack(span);
  }
  return nullptr;
}

uint32_t LocalHeap::Collect(LocalSpan* span) {
  // Downwards, so that blocks leave the stack in the order of their addresses.
  uint32_t found = 0;
  // The lines of the holds are with those who freed the blocks, and are soon written here.
  constexpr uint32_t kHoldsInLine = kCacheLineSize / sizeof(uint64_t);
  constexpr uint32_t kFetchedAhead = 8 * kHoldsInLine;
  for (uint32_t i = span->count; i-- > 0;) {
    if (i % kHoldsInLine == 0 && i >= kFetchedAhead) {
      PrefetchForWrite(&span->holds[i - kFetchedAhead]);
    }
    // Without a branch: which blocks are free cannot be foreseen.
    span->free[found] = static_cast<uint16_t>(i);
    found += HoldMoves<RealSync>::Load(span->holds[i]).IsFree() ? 1 : 0;
  }
  span->free_count = static_cast<uint16_t>(found);
  if (found == span->count) bytes_.retained += SpanBytes(*span);
  return found;
}

LocalSpan* LocalHeap::ClaimSpan(uint32_t size_class, absl::Status* why) {
  LocalSpan* span = source_.Claim(kSizeClasses[size_class].pages, 1, size_class, why);
  if (span == nullptr) return nullptr;
  span->heap.store(this, std::memory_order_relaxed);
  span->list = static_cast<uint16_t>(size_class);
  bytes_.spans += SpanBytes(*span);
  source_.SetTag(*span, HeapTag(TagNumber(number_), size_class));
  Collect(span);
  available_[size_class].PushFront(span);
  return span;
}

void LocalHeap::GiveBack(LocalSpan* span) {
  bytes_.retained -= SpanBytes(*span);
  bytes_.spans -= SpanBytes(*span);
  source_.GiveBack(span);
}

uint64_t LocalHeap::Trim(uint64_t keep_bytes, size_t look_at) {
  uint64_t given_back = 0;
  const auto give_back = [&](LocalSpan* span) {
    given_back += SpanBytes(*span);
    GiveBack(span);
  };
  // All looks first: a block that has shrunk moves its span to another list.
  for (uint32_t i = 0; i < kSmallClassCount; ++i) LookAgainSmall(i, &look_at);
  large_.LookAgain(&look_at);
  for (SpanList& available : available_) {
    LocalSpan* next = nullptr;
    for (LocalSpan* span = available.front(); span != nullptr; span = next) {
      next = span->next;
      if (bytes_.retained <= keep_bytes) break;
      if (span->free_count != span->count) continue;
      available.Remove(span);
      give_back(span);
    }
  }
  given_back += large_.Trim(keep_bytes);
  return given_back;
}

void LocalHeap::LookAgainSmall(uint32_t size_class, size_t* look_at) {
  // Before any look at holds: what is in the stack of the class is free, and must not be found
  // again.
  Forget(size_class, known_[size_class]);
  // Blocks that others have freed in spans of which some free blocks are known.
  for (LocalSpan* span = available_[size_class].front(); span != nullptr; span = span->next) {
    if (*look_at == 0) return;
    if (span->free_count == span->count) continue;
    --*look_at;
    Collect(span);
  }
  SpanList& full = full_[size_class];
  for (size_t left = std::min(*look_at, full.size()); left > 0; --left) {
    LocalSpan* span = full.front();
    full.Remove(span);
    --*look_at;
    if (Collect(span) == 0) {
      full.PushBack(span);
    } else {
      available_[size_class].PushBack(span);
    }
  }
}

}  // namespace handoff

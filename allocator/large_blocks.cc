// SPDX-License-Identifier: Apache-2.0
#include "allocator/large_blocks.h"

#include <algorithm>

#include "allocator/page_word.h"

namespace handoff {

namespace {

// How many blocks an allocation looks at for one that others have freed, before it claims pages.
constexpr size_t kLooksBeforeClaim = 4;
constexpr size_t kAllSpans = SIZE_MAX;
// The hold of the block that is this far behind the one that is looked at is fetched: it is in the
// cache of who has freed it, and further allocations will look at it soon.
constexpr size_t kFetchedAhead = 16;
// Of the free spans of a bin, the last so many are tried.
constexpr size_t kMostTried = 64;
constexpr size_t kFirstEntries = 16;

bool Fits(uint32_t span_pages, uint32_t pages, uint64_t size_bytes) {
  const uint64_t bytes = span_pages * kPageBytes;
  return span_pages >= pages && (span_pages == pages || bytes - size_bytes <= bytes / 8);
}

}  // namespace

LargeBlocks::LargeBlocks(PageSource& source, const LocalHeapLimits& limits, LocalHeap* heap,
                         uint8_t number, LocalHeapBytes& bytes)
    : source_(source),
      view_(source.view()),
      payload_(source.payload()),
      member_(source.member()),
      limits_(limits),
      heap_(heap),
      number_(number),
      bytes_(bytes),
      marks_(view_.page_count()) {}

void LargeBlocks::Queue::Grow() {
  std::vector<UsedSpan> larger;
  larger.resize(std::max(kFirstEntries, 2 * entries_.size()));
  for (size_t i = 0; i < size_; ++i) larger[i] = (*this)[i];
  entries_ = std::move(larger);
  first_ = 0;
}

bool LargeBlocks::Allocate(uint64_t size_bytes, uint64_t alignment, Block* out, absl::Status* why) {
  const uint64_t wanted_pages = (size_bytes + kPageBytes - 1) / kPageBytes;
  if (wanted_pages > view_.page_count()) return false;
  const auto pages = static_cast<uint32_t>(wanted_pages);
  const uint32_t bin = LargeBinFor(pages);
  const uint32_t align_pages = static_cast<uint32_t>(std::max(alignment, kPageBytes) / kPageBytes);
  for (;;) {
    if (AllocateFitting(pages, size_bytes, alignment, out)) return true;
    std::optional<FreeSpan> span;
    if (MayRotate(queues_[bin].size() * pages * kPageBytes)) span = Claim(pages, align_pages, why);
    if (!span) span = Collect(pages, size_bytes, alignment, kLooksBeforeClaim);
    if (!span) span = Claim(pages, align_pages, why);
    if (!span) span = Collect(pages, size_bytes, alignment, kAllSpans);
    if (!span) return false;
    if (Take(*span, out)) return true;
  }
}

bool LargeBlocks::AllocateFitting(uint32_t pages, uint64_t size_bytes, uint64_t alignment,
                                  Block* out) {
  const uint32_t align_pages = static_cast<uint32_t>(std::max(alignment, kPageBytes) / kPageBytes);
  // Beyond the last of these bins too much of each span would be unused.
  const uint32_t last = LargeBinFor(uint64_t{pages} + pages / 7);
  for (uint32_t bin = LargeBinFor(pages); bin <= last; ++bin) {
    std::vector<FreeSpan>& known = free_[bin];
    const size_t end = known.size() - std::min(known.size(), kMostTried);
    for (size_t i = known.size(); i-- > end;) {
      const FreeSpan span = known[i];
      if (!Fits(span.pages, pages, size_bytes) || span.head % align_pages != 0) continue;
      known.erase(known.begin() + static_cast<ptrdiff_t>(i));
      if (TakeKnown(span, out)) return true;
    }
  }
  return false;
}

LocalSpan* LargeBlocks::PopUsed(uint32_t bin) {
  Queue& queue = queues_[bin];
  if (queue.size() > kFetchedAhead) {
    const UsedSpan& ahead = queue[kFetchedAhead];
    __builtin_prefetch(&view_.large_hold(ahead.head), /*rw=*/1);
    __builtin_prefetch(ahead.span);
  }
  const UsedSpan entry = queue.Pop();
  if (SerialOf(entry.span) != entry.serial) return nullptr;
  if (!marks_.IsFree(entry.head)) return entry.span;
  marks_.ClearQueued(entry.head);
  return nullptr;
}

std::optional<LargeBlocks::FreeSpan> LargeBlocks::Collect(uint32_t pages, uint64_t size_bytes,
                                                          uint64_t alignment, size_t look_at) {
  const uint32_t bin = LargeBinFor(pages);
  const uint32_t align_pages = static_cast<uint32_t>(std::max(alignment, kPageBytes) / kPageBytes);
  look_at = std::min(look_at, queues_[bin].size());
  for (size_t i = 0; i < look_at; ++i) {
    LocalSpan* const span = PopUsed(bin);
    if (span == nullptr) continue;
    const uint32_t head = span->head_page();
    if (!HoldMoves<RealSync>::Load(view_.large_hold(head)).IsFree()) {
      Enqueue(span);
      continue;
    }
    UpdateRun(span);
    const FreeSpan found = {head, span->pages};
    const uint32_t now_bin = span->list - kSmallClassCount;
    if (now_bin == bin && Fits(found.pages, pages, size_bytes) && head % align_pages == 0) {
      Enqueue(span);
      return found;
    }
    marks_.ClearQueued(head);
    Keep(now_bin, found);
  }
  return std::nullopt;
}

std::optional<LargeBlocks::FreeSpan> LargeBlocks::Claim(uint32_t pages, uint32_t align_pages,
                                                        absl::Status* why) {
  LocalSpan* const span = source_.Claim(pages, align_pages, kLargeClass, why);
  if (span == nullptr) return std::nullopt;
  const uint32_t head = span->head_page();
  span->heap.store(heap_, std::memory_order_relaxed);
  span->list = static_cast<uint16_t>(kSmallClassCount + LargeBinFor(pages));
  span->run = view_.LoadRun(head).raw();
  NextSerial(span);
  bytes_.spans += pages * kPageBytes;
  source_.SetTag(*span, HeapTag(number_, span->list));
  (void)marks_.SetQueued(head);
  Enqueue(span);
  return FreeSpan{head, pages};
}

void LargeBlocks::Release(LocalSpan* span, const Block& block) {
  HoldMoves<RealSync>::Release(span->holds[0], block.hold);
  UpdateRun(span);
  Keep(span->list - kSmallClassCount, {span->head_page(), span->pages});
}

void LargeBlocks::UpdateRun(LocalSpan* span) {
  const uint32_t head = span->head_page();
  const RunWord run = view_.LoadRun(head);
  if (__builtin_expect(run.raw() == span->run, 1)) return;
  span->run = run.raw();
  const uint32_t pages = run.PagesOf(view_.LoadPage(head));
  if (pages == 0 || pages > span->pages) return;  // nonsense: blocks only shrink
  bytes_.spans -= (span->pages - pages) * kPageBytes;
  span->pages = pages;
  const uint32_t list = kSmallClassCount + LargeBinFor(pages);
  if (span->list == list) return;
  span->list = static_cast<uint16_t>(list);
  NextSerial(span);
  marks_.Clear(head);
  source_.SetTag(*span, HeapTag(number_, list));
}

void LargeBlocks::GiveBack(const FreeSpan& span) {
  LocalSpan* const local = source_.For(span.head);
  NextSerial(local);
  marks_.Clear(span.head);
  bytes_.retained -= BytesOf(span);
  bytes_.spans -= local->pages * kPageBytes;
  source_.GiveBack(local);
}

void LargeBlocks::LookAgain(size_t* look_at) {
  for (uint32_t bin = 0; bin < kLargeBinCount; ++bin) {
    for (size_t left = std::min(*look_at, queues_[bin].size()); left > 0; --left) {
      --*look_at;
      LocalSpan* const span = PopUsed(bin);
      if (span == nullptr) continue;
      const uint32_t head = span->head_page();
      if (!HoldMoves<RealSync>::Load(view_.large_hold(head)).IsFree()) {
        Enqueue(span);
        continue;
      }
      UpdateRun(span);
      marks_.ClearQueued(head);
      Keep(span->list - kSmallClassCount, {head, span->pages});
    }
  }
}

uint64_t LargeBlocks::Trim(uint64_t keep_bytes) {
  uint64_t given_back = 0;
  for (std::vector<FreeSpan>& known : free_) {
    auto kept = known.begin();
    while (kept != known.end() && bytes_.retained > keep_bytes) {
      given_back += BytesOf(*kept);
      GiveBack(*kept++);
    }
    known.erase(known.begin(), kept);
  }
  return given_back;
}

}  // namespace handoff

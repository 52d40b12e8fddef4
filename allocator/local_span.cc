// SPDX-License-Identifier: Apache-2.0
#include "allocator/local_span.h"

namespace handoff {

SpanPool::SpanPool(uint32_t page_count)
    : spans_(page_count), tags_(page_count), free_by_count_(kMaxSpanPages * kWordsPerPage + 1) {}

LocalSpan* SpanPool::Make(uint32_t head_page, uint32_t pages, uint16_t count, bool small) {
  LocalSpan* span;
  if (std::vector<LocalSpan*>& old = free_by_count_[count]; !old.empty()) {
    span = old.back();
    old.pop_back();
  } else {
    span = &all_.emplace_back();
    span->count = count;
    span->free = stacks_.emplace_back(std::make_unique<uint16_t[]>(count)).get();
  }
  span->first_block = head_page * kWordsPerPage;
  span->pages = pages;
  span->span = BlockSpan(head_page, !small);
  for (uint32_t i = 0; i < (small ? pages : 1); ++i) {
    spans_[head_page + i].store(span, std::memory_order_release);
  }
  return span;
}

void SpanPool::SetTag(const LocalSpan& span, uint16_t tag) {
  for (uint32_t i = 0; i < (span.span.large() ? 1 : span.pages); ++i) {
    tags_[span.head_page() + i].store(tag, std::memory_order_relaxed);
  }
}

void SpanPool::Delete(LocalSpan* span, bool small) {
  SetTag(*span, 0);
  span->heap.store(nullptr, std::memory_order_relaxed);
  for (uint32_t i = 0; i < (small ? span->pages : 1); ++i) {
    spans_[span->head_page() + i].store(nullptr, std::memory_order_release);
  }
  free_by_count_[span->count].push_back(span);
}

}  // namespace handoff

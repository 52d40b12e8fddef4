// SPDX-License-Identifier: Apache-2.0
#include "allocator/local_span.h"

#include <cstdlib>
#include <new>

namespace handoff {

namespace {

// From calloc, so that pages of the table which are never used take no memory. All zero is null.
std::atomic<LocalSpan*>* MakeTable(uint32_t page_count) {
  void* bytes = std::calloc(page_count, sizeof(std::atomic<LocalSpan*>));
  if (bytes == nullptr) throw std::bad_alloc();
  return static_cast<std::atomic<LocalSpan*>*>(bytes);
}

}  // namespace

SpanPool::SpanPool(uint32_t page_count)
    : spans_(MakeTable(page_count), [](void* bytes) { std::free(bytes); }),
      free_by_count_(kMaxSpanPages * kWordsPerPage + 1) {}

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

void SpanPool::Delete(LocalSpan* span, bool small) {
  span->heap.store(nullptr, std::memory_order_relaxed);
  for (uint32_t i = 0; i < (small ? span->pages : 1); ++i) {
    spans_[span->head_page() + i].store(nullptr, std::memory_order_release);
  }
  free_by_count_[span->count].push_back(span);
}

}  // namespace handoff

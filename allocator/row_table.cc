// SPDX-License-Identifier: Apache-2.0
#include "allocator/row_table.h"

#include "absl/strings/str_cat.h"

namespace handoff {

namespace {

// Rows go round a little before freed ones are looked for.
constexpr LocalHeapLimits kLimits = {.retained_bytes = 4096 * kPageBytes,
                                     .rotation_bytes = 128 * kPageBytes};

}  // namespace

RowTable::RowTable(Mapping area, const Options& options, uint32_t member)
    : area_(std::move(area)),
      view_(area_.bytes().data(), options.pages),
      section_(area_.bytes().data() + SegmentAreaLayout(options.pages).end),
      backing_(area_, SegmentAreaLayout(options.pages).end, options.bytes_behind_each_page),
      source_(view_, section_, backing_, member, options.uses_small_holds),
      heaps_(std::make_shared<HeapPool>(source_, kLimits)) {}

absl::StatusOr<RowTable::Row> RowTable::Allocate(uint32_t pages) {
  LocalHeap& heap = heaps_->ThisThreads();
  Block block;
  absl::Status why;
  heap.lock.OwnerLock();
  const bool stopped = stopped_.load(std::memory_order_acquire);
  const bool done = !stopped && heap.AllocateSpan(pages, &block, &why);
  heap.lock.OwnerUnlock();
  if (stopped) return absl::FailedPreconditionError("this member has left, or was declared dead");
  if (done) return Row{block.id / kWordsPerPage, block.hold};
  if (!why.ok()) return why;
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", view_.page_count(), " rows of a table of the session are in use"));
}

}  // namespace handoff

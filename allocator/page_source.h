// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_PAGE_SOURCE_H_
#define HANDOFF_ALLOCATOR_PAGE_SOURCE_H_

#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "allocator/local_span.h"
#include "allocator/segment_backing.h"
#include "allocator/segment_view.h"
#include "allocator/zero_table.h"

namespace handoff {

// Claims spans of one segment for the heaps of this process, and gives them back. Reserves memory
// as it is taken: pages below `backed_pages` can be claimed at once, beyond it the file grows first
// (a step killed half way leaves bytes reserved that nobody counts, which the next one reserves
// again). Any thread.
class PageSource {
 public:
  // `payload`: the mapped payload; `backing` must outlive this object. `large_spans_use_holds`: the
  // small holds of all pages of a large span are reserved too, as share groups need.
  PageSource(const SegmentView<RealSync>& view, std::byte* payload, SegmentBacking& backing,
             uint32_t member, bool large_spans_use_holds = false);

  // A span of `pages` pages whose first is a multiple of `align_pages` (a power of two), for a
  // small class or kLargeClass. Its stack of free blocks is full if all its holds are free. Null:
  // no such run is free; `why` then says if it was the file system that refused.
  LocalSpan* Claim(uint32_t pages, uint32_t align_pages, uint32_t class_id, absl::Status* why);

  // The span must be wholly free and out of every list.
  void GiveBack(LocalSpan* span);

  // See SpanPool.
  LocalSpan* For(uint32_t page) const { return pool_.For(page); }
  uint16_t TagOf(uint32_t page) const { return pool_.TagOf(page); }
  void SetTag(const LocalSpan& span, uint16_t tag) { pool_.SetTag(span, tag); }

  const SegmentView<RealSync>& view() const { return view_; }
  std::byte* payload() const { return payload_; }
  uint32_t member() const { return member_; }

 private:
  // The first page from `from` on, and before `to`, at which a run of free pages begins; `to` if
  // there is none.
  uint32_t FindRun(uint32_t from, uint32_t to, uint32_t pages, uint32_t align_pages) const;
  bool ClaimBetween(uint32_t from, uint32_t to, uint32_t pages, uint32_t align_pages,
                    uint32_t class_id, uint32_t* head, absl::Status* why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Reserves room for at least `pages` more pages. False: the segment ends, or the file system is
  // full (`why`).
  bool Grow(uint32_t pages, absl::Status* why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReserveHolds(uint32_t head, uint32_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SegmentView<RealSync> view_;
  std::byte* const payload_;
  SegmentBacking& backing_;
  const uint32_t member_;
  const bool large_spans_use_holds_;
  absl::Mutex mutex_;
  SpanPool pool_;  // changed under mutex_; For() is for any thread
  uint32_t rover_ ABSL_GUARDED_BY(mutex_) = 0;
  // Bytes of small holds this process has reserved, by the page of the file they are in.
  ZeroTable<bool> holds_reserved_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_PAGE_SOURCE_H_

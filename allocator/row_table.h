// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_ROW_TABLE_H_
#define HANDOFF_ALLOCATOR_ROW_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/heap_pool.h"
#include "allocator/mapping.h"
#include "allocator/page_source.h"
#include "allocator/segment_backing.h"
#include "allocator/segment_view.h"

namespace handoff {

// One of the session's tables whose rows are spans, as the calling member uses it: share groups and
// bundles. A row is allocated like a block, from spans that the member owns, and found again by its
// owner when its word is free. Any thread.
class RowTable {
 public:
  struct Options {
    uint32_t pages;
    uint64_t bytes_behind_each_page;  // of a section behind the area, reserved with the pages
    bool uses_small_holds;
  };

  // `area` is as long as the table needs, zeros at first.
  RowTable(Mapping area, const Options& options, uint32_t member);
  RowTable(const RowTable&) = delete;
  RowTable& operator=(const RowTable&) = delete;

  const SegmentView<RealSync>& view() const { return view_; }
  // The section behind the area.
  std::byte* section() const { return section_; }

  struct Row {
    uint32_t row;
    HoldWord hold;  // held(member)
  };
  // A row of at least `pages` pages. kResourceExhausted: the table or the file system is full.
  // kFailedPrecondition: after Stop().
  absl::StatusOr<Row> Allocate(uint32_t pages);

  // As Segment::Stop().
  void Stop() {
    stopped_.store(true, std::memory_order_release);
    heaps_->KeepSlow();
  }

  // Gives back rows that this member does not need.
  void Tick() { heaps_->Trim(kIdleBytes, SIZE_MAX, /*only_idle=*/true); }

 private:
  static constexpr uint64_t kIdleBytes = 64 * kPageBytes;

  class Backing : public SegmentBacking {
   public:
    Backing(Mapping& area, uint64_t section_offset, uint64_t bytes_behind_each_page)
        : area_(area),
          section_offset_(section_offset),
          bytes_behind_each_page_(bytes_behind_each_page) {}
    absl::Status ReservePayload(uint64_t offset, uint64_t length) override {
      return area_.Reserve(section_offset_ + offset / kPageBytes * bytes_behind_each_page_,
                           length / kPageBytes * bytes_behind_each_page_);
    }
    absl::Status ReserveArea(uint64_t offset, uint64_t length) override {
      return area_.Reserve(offset, length);
    }

   private:
    Mapping& area_;
    const uint64_t section_offset_;
    const uint64_t bytes_behind_each_page_;
  };

  Mapping area_;
  const SegmentView<RealSync> view_;
  std::byte* const section_;
  Backing backing_;
  PageSource source_;
  std::shared_ptr<HeapPool> heaps_;
  std::atomic<bool> stopped_{false};
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_ROW_TABLE_H_

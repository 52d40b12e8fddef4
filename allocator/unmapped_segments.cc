// SPDX-License-Identifier: Apache-2.0
#include "allocator/unmapped_segments.h"

#include <atomic>
#include <climits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/page_map.h"
#include "allocator/size_class.h"
#include "base/futex.h"

namespace handoff {

namespace {

SegmentView<RealSync> ViewOf(const SegmentObjects& objects) {
  return SegmentView<RealSync>(objects.area.bytes().data(), objects.size_bytes / kPageBytes);
}

void SignalMemory(const SegmentView<RealSync>& view) {
  // Release: who sees the new number looks at the words again.
  view.header().wake_sequence.fetch_add(1, std::memory_order_release);
  FutexWake(view.header().wake_sequence, INT_MAX);
}

}  // namespace

const SegmentView<RealSync>* UnmappedSegments::Find(uint32_t row) {
  if (row >= kMaxSegments) return nullptr;
  const SegmentInfo info = LoadSegmentRow(session_.layout(), row);
  if (info.area_offset_bytes == 0) return nullptr;
  absl::MutexLock lock(&mutex_);
  Tables*& found = found_[row];
  if (found != nullptr && found->area_offset_bytes == info.area_offset_bytes) return &found->view;
  absl::StatusOr<SegmentObjects> objects = session_.OpenTables(row);
  if (!objects.ok()) return nullptr;
  const SegmentView<RealSync> view = ViewOf(*objects);
  all_.push_back(
      std::make_unique<Tables>(Tables{info.area_offset_bytes, *std::move(objects), view}));
  found = all_.back().get();
  return &found->view;
}

void UnmappedSegments::LookAfterFreed(const SegmentView<RealSync>& view, BlockId id) {
  const std::optional<BlockLocation<RealSync>> location = view.Locate(id);
  if (!location.has_value()) return;
  const uint32_t page = location->span.head_page();
  PageMap<RealSync>::FreeOwnerless(view, page, view.LoadPage(page));
  if (view.header().waiters.load(std::memory_order_relaxed) != 0) SignalMemory(view);
}

bool UnmappedSegments::Reclaim(uint32_t row, MemberId victim, ReclaimCount* count) {
  const SegmentInfo info = LoadSegmentRow(session_.layout(), row);
  if (info.area_offset_bytes == 0) return true;
  // Not kept: segments may come and go for as long as this member lives.
  const absl::StatusOr<SegmentObjects> objects = session_.OpenTables(row);
  // A row that makes no sense keeps nobody from the end of his reclaim.
  if (!objects.ok()) return absl::IsNotFound(objects.status());
  const SegmentView<RealSync> view = ViewOf(*objects);
  // The memory of a removed segment that nobody has mapped has gone, and its tables are of no use.
  // The victim still counts.
  if (info.word.state != SegmentState::kLive && !view.MappedByAny(session_.members())) return true;
  ReclaimCount here;
  SegmentReclaim<RealSync>(view, session_.members()).Member(victim, &here);
  view.header().reclaimed_blocks.fetch_add(here.blocks, std::memory_order_relaxed);
  view.header().reclaimed_bytes.fetch_add(here.bytes, std::memory_order_relaxed);
  *count += here;
  SignalMemory(view);
  return true;
}

}  // namespace handoff

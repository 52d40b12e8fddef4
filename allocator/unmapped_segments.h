// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_UNMAPPED_SEGMENTS_H_
#define HANDOFF_ALLOCATOR_UNMAPPED_SEGMENTS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "allocator/management_layout.h"
#include "allocator/reclaim.h"
#include "allocator/segment_table.h"
#include "allocator/segment_view.h"
#include "allocator/session.h"
#include "base/sync.h"
#include "control_queue/member_id.h"

namespace handoff {

// Segments whose payload a member cannot map: removed before it did, or too large for its address
// space. It cannot read what it is sent there, and has nothing there itself. But others may be
// waiting for it to free that, or to take back what the dead had there; and for this the tables do,
// which are a part of the management object and outlive the name of the payload. Any thread.
class UnmappedSegments {
 public:
  // `session` outlives this object.
  explicit UnmappedSegments(Session& session) : session_(session) {}

  // The tables of the segment that is in this row or was the last one there, whatever the row; they
  // stay mapped as long as this object. Null: there are none, or they cannot be mapped either.
  const SegmentView<RealSync>* Find(uint32_t row);

  // After the hold of a block of Find() was freed by a locked operation: gives back its span if it
  // is nobody's.
  static void LookAfterFreed(const SegmentView<RealSync>& view, BlockId id);

  // The part of a reclaim that concerns one segment, by its row; that of `victim` is dead. False:
  // its tables cannot be mapped now.
  bool Reclaim(uint32_t row, MemberId victim, ReclaimCount* count);

 private:
  struct Tables {
    uint64_t area_offset_bytes;  // no other tables ever have it
    SegmentObjects objects;
    SegmentView<RealSync> view;
  };

  Session& session_;
  absl::Mutex mutex_;
  std::array<Tables*, kMaxSegments> found_ ABSL_GUARDED_BY(mutex_){};
  std::vector<std::unique_ptr<Tables>> all_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_UNMAPPED_SEGMENTS_H_

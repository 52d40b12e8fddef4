// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_TABLE_H_
#define HANDOFF_ALLOCATOR_SEGMENT_TABLE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/management_layout.h"
#include "allocator/mapping.h"
#include "allocator/object_names.h"
#include "allocator/segment_memory.h"

namespace handoff {

// What one process has mapped of a segment.
struct SegmentObjects {
  Mapping
      payload;  // at a multiple of kPayloadAlignmentBytes; nothing of it is reserved by this module
  Mapping area;  // of the management object; as made, it is a hole that reads as zeros
  uint32_t id = 0;
  std::string name;         // of the payload's file
  uint64_t size_bytes = 0;  // of the payload
  uint32_t row = 0;         // in the segment table, below kMaxSegments
  uint32_t generation = 0;  // of the row
  uint32_t flags = 0;       // SegmentMemory::Flags() of who made it
};

struct SegmentOptions {
  uint32_t id = 0;          // at most kMaxSegmentId; 0 is the main segment
  uint64_t size_bytes = 0;  // 1 to kMaxSegmentBytes; rounded up to a multiple of kPageBytes
  SegmentMemory memory = {};
  // Called with both mapped, before anybody else can find the segment: writes what must be in the
  // area from the start. An error undoes everything.
  std::function<absl::Status(SegmentObjects&)> prepare = nullptr;
};

// The segments and tables of a session: rows of the management object, their areas and their files.
// Keeps references to what it is given. Functions of the first group need byte 0 of the lock file,
// so one caller at a time; the others may be called at any time by any thread.
class SegmentTable {
 public:
  // `management` maps the fixed part, of a usable object; `names` has the main segment's name of
  // its header.
  SegmentTable(Mapping& management, const ObjectNames& names, const FileAccess& access);

  // Byte 0 held.

  // Undoes what somebody who died left half-made or half-removed. Before Create() and Remove().
  absl::Status Repair();

  // Makes a segment; its memory is placed, not yet brought in. kAlreadyExists: there is a segment
  // of this id, or the file of a renamed main segment is there without one. kResourceExhausted: all
  // kMaxSegments rows are in use, those included whose segment was removed and is still mapped by a
  // member; or no room for the file. Errors of PlaceSegmentMemory().
  absl::StatusOr<SegmentObjects> Create(const SegmentOptions& options);

  // Takes the segment off the table and unlinks its file. Whoever has mapped it keeps what it has
  // mapped. kNotFound.
  absl::Status Remove(uint32_t id);

  // The area of a table, made with `size_bytes` if it is not there yet; the first `backed_bytes` of
  // it are reserved before anybody can find it. kFailedPrecondition: it is there with another size.
  absl::StatusOr<Mapping> EnsureArea(AreaKind kind, uint64_t size_bytes, uint64_t backed_bytes);

  // At any time.

  // Maps a segment that is there. kNotFound: no segment of this id.
  absl::StatusOr<SegmentObjects> Open(uint32_t id) const;

  // The same without the payload: the tables of a segment that is in the row or was the last one
  // there. kNotFound: there never was one, or the row is damaged.
  absl::StatusOr<SegmentObjects> OpenTables(uint32_t row) const;

  // kNotFound: the table has not been made.
  absl::StatusOr<Mapping> OpenArea(AreaKind kind) const;

  // The live segments, by row.
  std::vector<SegmentInfo> List() const;

 private:
  ManagementLayout& layout() const;
  bool IsStillMapped(const SegmentInfo& former) const;
  absl::StatusOr<uint64_t> TakeArea(uint64_t size_bytes);
  absl::StatusOr<SegmentObjects> Map(const SegmentInfo& info, Mapping payload) const;
  absl::Status FinishRemoval(uint32_t row);
  absl::StatusOr<SegmentObjects> MakeFiles(const SegmentInfo& info, const SegmentOptions& options);

  Mapping* management_;
  const ObjectNames* names_;
  FileAccess access_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_TABLE_H_

// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment_table.h"

#include <sys/stat.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/segment_layout.h"
#include "allocator/segment_view.h"
#include "allocator/size_class.h"
#include "base/byte_size.h"
#include "base/check.h"
#include "base/crash_point.h"

namespace handoff {
namespace {

static_assert(kPayloadAlignmentBytes >= kMaxAlignment);

constexpr OpenOptions PayloadWindow() {
  OpenOptions options;
  options.alignment_bytes = kPayloadAlignmentBytes;
  return options;
}

bool HasTables(const SegmentInfo& info) {
  return info.size_bytes != 0 && info.size_bytes <= kMaxSegmentBytes &&
         info.area_size_bytes == SegmentAreaBytes(info.size_bytes) && info.area_offset_bytes != 0 &&
         info.area_offset_bytes % kWindowAlignmentBytes == 0;
}

bool Exists(const std::string& path) {
  struct stat info = {};
  return lstat(path.c_str(), &info) == 0;
}

}  // namespace

SegmentTable::SegmentTable(Mapping& management, const ObjectNames& names, const FileAccess& access)
    : management_(&management), names_(&names), access_(access) {
  HANDOFF_CHECK_GE(management.size_bytes(), kManagementFixedBytes);
}

ManagementLayout& SegmentTable::layout() const {
  return *reinterpret_cast<ManagementLayout*>(management_->bytes().data());
}

std::vector<SegmentInfo> SegmentTable::List() const {
  std::vector<SegmentInfo> live;
  for (uint32_t row = 0; row < kMaxSegments; ++row) {
    const SegmentInfo info = LoadSegmentRow(layout(), row);
    if (info.word.state == SegmentState::kLive) live.push_back(info);
  }
  return live;
}

absl::Status SegmentTable::FinishRemoval(uint32_t row) {
  const SegmentInfo info = LoadSegmentRow(layout(), row);
  if (info.id <= kMaxSegmentId) {
    if (absl::Status status = Mapping::Remove(names_->SegmentPath(info.id)); !status.ok()) {
      return status;  // Step 6.
    }
  }
  HANDOFF_CRASH_POINT("segment.remove.unlinked");
  const SegmentWord free = {.generation = info.word.generation + 1, .state = SegmentState::kFree};
  layout().segments[row].word.store(free.Packed(), std::memory_order_release);  // Step 7.
  return absl::OkStatus();
}

absl::Status SegmentTable::Repair() {
  for (uint32_t row = 0; row < kMaxSegments; ++row) {
    const SegmentState state = LoadSegmentRow(layout(), row).word.state;
    if (state == SegmentState::kFree || state == SegmentState::kLive) continue;
    if (absl::Status status = FinishRemoval(row); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool SegmentTable::IsStillMapped(const SegmentInfo& former) const {
  if (former.area_offset_bytes == 0) return false;                         // the row was never used
  if (former.area_offset_bytes % kWindowAlignmentBytes != 0) return true;  // damaged: left alone
  absl::StatusOr<Mapping> area =
      management_->Window({.offset_bytes = former.area_offset_bytes, .length_bytes = kPageBytes});
  if (!area.ok() || !area->Reserve(0, kPageBytes).ok()) return true;  // as good as
  const SegmentView<RealSync> view(area->bytes().data(), 0);
  const MemberTable<RealSync> members(layout().members);
  return view.MappedByAny(members);
}

absl::StatusOr<uint64_t> SegmentTable::TakeArea(uint64_t size_bytes) {
  std::atomic<uint64_t>& area_end = layout().header.area_end;
  const uint64_t offset_bytes = area_end.load(std::memory_order_relaxed);
  const std::optional<uint64_t> whole = AlignUp(size_bytes, kWindowAlignmentBytes);
  const std::optional<uint64_t> end =
      whole.has_value() ? CheckedAdd(offset_bytes, *whole) : std::nullopt;
  if (!end.has_value() || *end > kMaxMappingBytes || offset_bytes % kWindowAlignmentBytes != 0) {
    return absl::ResourceExhaustedError(absl::StrCat(management_->path(),
                                                     ": no room for an area of ", size_bytes,
                                                     " bytes behind the first ", offset_bytes));
  }
  area_end.store(*end, std::memory_order_relaxed);
  HANDOFF_CRASH_POINT("segment.area.taken");
  if (absl::Status status = management_->GrowFile(*end); !status.ok()) return status;
  return offset_bytes;
}

absl::StatusOr<SegmentObjects> SegmentTable::Create(const SegmentOptions& options) {
  if (options.id > kMaxSegmentId) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment id ", options.id, ": the highest allowed is ", kMaxSegmentId));
  }
  if (options.size_bytes == 0 || options.size_bytes > kMaxSegmentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment ", options.id, ": size ", FormatByteSize(options.size_bytes),
                     ", must be 1 B to ", FormatByteSize(kMaxSegmentBytes)));
  }
  const uint64_t size_bytes = AlignUp(options.size_bytes, kPageBytes).value();
  const uint64_t area_size_bytes = SegmentAreaBytes(size_bytes);
  std::optional<uint32_t> free_row;
  for (uint32_t row = 0; row < kMaxSegments; ++row) {
    const SegmentInfo info = LoadSegmentRow(layout(), row);
    if (info.word.state == SegmentState::kFree) {
      if (!free_row.has_value() && !IsStillMapped(info)) free_row = row;
    } else if (info.id == options.id) {
      return absl::AlreadyExistsError(absl::StrCat("segment ", options.id, " is there already, of ",
                                                   FormatByteSize(info.size_bytes)));
    }
  }
  if (!free_row.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("segment ", options.id, ": all ", kMaxSegments,
                     " segments are in use, or were removed with messages in them that members "
                     "still have"));
  }
  const std::string path = names_->SegmentPath(options.id);
  if (options.id == 0 && names_->main_is_renamed() && Exists(path)) {
    return absl::AlreadyExistsError(absl::StrCat(
        path,
        ": is there and may be another program's; remove it, or give the main segment another "
        "name"));
  }
  const absl::StatusOr<uint64_t> area_offset_bytes = TakeArea(area_size_bytes);
  if (!area_offset_bytes.ok()) return area_offset_bytes.status();

  SegmentRow& row = layout().segments[*free_row];
  SegmentInfo info = {
      .row = *free_row,
      .word = SegmentWord::FromPacked(row.word.load(std::memory_order_relaxed)),
      .id = options.id,
      .flags = options.memory.Flags(),
      .size_bytes = size_bytes,
      .area_offset_bytes = *area_offset_bytes,
      .area_size_bytes = area_size_bytes,
  };
  // Step 1.
  row.id.store(info.id, std::memory_order_release);
  row.flags.store(info.flags, std::memory_order_release);
  row.size_bytes.store(info.size_bytes, std::memory_order_release);
  row.area_offset_bytes.store(info.area_offset_bytes, std::memory_order_release);
  row.area_size_bytes.store(info.area_size_bytes, std::memory_order_release);
  HANDOFF_CRASH_POINT("segment.create.filled");
  info.word.state = SegmentState::kMaking;
  row.word.store(info.word.Packed(), std::memory_order_release);  // Step 2.
  HANDOFF_CRASH_POINT("segment.create.making");
  absl::StatusOr<SegmentObjects> made = MakeFiles(info, options);  // Step 3.
  if (!made.ok()) {
    FinishRemoval(info.row)
        .IgnoreError();  // the first error is the one to report; the row is repaired later
    return made;
  }
  info.word.state = SegmentState::kLive;
  row.word.store(info.word.Packed(), std::memory_order_release);  // Step 4.
  HANDOFF_CRASH_POINT("segment.create.live");
  return made;
}

absl::StatusOr<SegmentObjects> SegmentTable::MakeFiles(const SegmentInfo& info,
                                                       const SegmentOptions& options) {
  const std::string path = names_->SegmentPath(info.id);
  // A file of this name without a row was left when the management object was removed by hand.
  if (absl::Status status = Mapping::Remove(path); !status.ok()) return status;
  absl::StatusOr<Mapping> payload =
      Mapping::Create(path, {.size_bytes = info.size_bytes,
                             .access = access_,
                             .alignment_bytes = kPayloadAlignmentBytes});
  if (!payload.ok()) return payload.status();
  HANDOFF_CRASH_POINT("segment.create.file");
  if (absl::Status status = PlaceSegmentMemory(options.memory, *payload); !status.ok()) {
    return status;
  }
  absl::StatusOr<SegmentObjects> objects = Map(info, std::move(payload).value());
  if (!objects.ok()) return objects;
  if (options.prepare) {
    if (absl::Status status = options.prepare(*objects); !status.ok()) return status;
  }
  HANDOFF_CRASH_POINT("segment.create.prepared");
  return objects;
}

absl::StatusOr<SegmentObjects> SegmentTable::Map(const SegmentInfo& info, Mapping payload) const {
  SegmentObjects objects;
  objects.payload = std::move(payload);
  absl::StatusOr<Mapping> area = management_->Window(
      {.offset_bytes = info.area_offset_bytes, .length_bytes = info.area_size_bytes});
  if (!area.ok()) return area.status();
  objects.area = std::move(area).value();
  objects.id = info.id;
  objects.name = names_->Segment(info.id);
  objects.size_bytes = info.size_bytes;
  objects.row = info.row;
  objects.generation = info.word.generation;
  objects.flags = info.flags;
  return objects;
}

absl::Status SegmentTable::Remove(uint32_t id) {
  for (const SegmentInfo& info : List()) {
    if (info.id != id) continue;
    const SegmentWord removing = {.generation = info.word.generation,
                                  .state = SegmentState::kRemoving};
    layout().segments[info.row].word.store(removing.Packed(),
                                           std::memory_order_release);  // Step 5.
    HANDOFF_CRASH_POINT("segment.remove.removing");
    return FinishRemoval(info.row);
  }
  return absl::NotFoundError(absl::StrCat("segment ", id, ": there is none of this id"));
}

absl::StatusOr<SegmentObjects> SegmentTable::Open(uint32_t id) const {
  for (const SegmentInfo& info : List()) {
    if (info.id != id) continue;
    OpenOptions window = PayloadWindow();
    window.length_bytes = info.size_bytes;
    if (!HasTables(info)) {
      return absl::DataLossError(absl::StrCat("segment ", id, ": its row is damaged"));
    }
    absl::StatusOr<Mapping> payload = Mapping::Open(names_->SegmentPath(id), window);
    // The file opened may be that of a later segment of this id only if the row has moved on since.
    if (LoadSegmentRow(layout(), info.row).word != info.word) {
      return absl::NotFoundError(absl::StrCat("segment ", id, ": is being removed"));
    }
    if (!payload.ok()) return payload.status();
    FollowSegmentFlags(info.flags, *payload);
    return Map(info, std::move(payload).value());
  }
  return absl::NotFoundError(absl::StrCat("segment ", id, ": there is none of this id"));
}

absl::StatusOr<SegmentObjects> SegmentTable::OpenTables(uint32_t row) const {
  const SegmentInfo info = LoadSegmentRow(layout(), row);
  const absl::Status none = absl::NotFoundError(absl::StrCat("row ", row, " has no tables"));
  if (!HasTables(info)) return none;
  absl::StatusOr<SegmentObjects> objects = Map(info, Mapping());
  if (absl::IsDataLoss(objects.status())) return none;  // beyond the file
  if (!objects.ok()) return objects;
  // Of a segment whose maker was killed nothing may be reserved.
  if (absl::Status status = objects->area.Reserve(0, kPageBytes); !status.ok()) return status;
  const auto& header = SegmentView<RealSync>(objects->area.bytes().data(), 0).header();
  // Another size: a row that is just filled for the next segment.
  if (header.magic != kSegmentMagic || header.size_bytes != info.size_bytes) return none;
  return objects;
}

absl::StatusOr<Mapping> SegmentTable::OpenArea(AreaKind kind) const {
  const AreaEntry& entry = layout().header.areas[static_cast<uint32_t>(kind)];
  const uint64_t offset_bytes = entry.offset_bytes.load(std::memory_order_acquire);
  const uint64_t size_bytes = entry.size_bytes.load(std::memory_order_relaxed);
  if (offset_bytes == 0) {
    return absl::NotFoundError(
        absl::StrCat(management_->path(), ": has no table ", static_cast<uint32_t>(kind)));
  }
  if (size_bytes == 0 || offset_bytes % kWindowAlignmentBytes != 0) {
    return absl::DataLossError(absl::StrCat(management_->path(), ": the entry of table ",
                                            static_cast<uint32_t>(kind), " is damaged"));
  }
  return management_->Window({.offset_bytes = offset_bytes, .length_bytes = size_bytes});
}

absl::StatusOr<Mapping> SegmentTable::EnsureArea(AreaKind kind, uint64_t size_bytes,
                                                 uint64_t backed_bytes) {
  AreaEntry& entry = layout().header.areas[static_cast<uint32_t>(kind)];
  if (entry.offset_bytes.load(std::memory_order_acquire) == 0) {
    const absl::StatusOr<uint64_t> offset_bytes = TakeArea(size_bytes);
    if (!offset_bytes.ok()) return offset_bytes.status();
    absl::StatusOr<Mapping> area =
        management_->Window({.offset_bytes = *offset_bytes, .length_bytes = size_bytes});
    if (!area.ok()) return area;
    if (absl::Status status = area->Reserve(0, backed_bytes); !status.ok()) return status;
    entry.size_bytes.store(size_bytes, std::memory_order_relaxed);
    HANDOFF_CRASH_POINT("segment.area.backed");
    entry.offset_bytes.store(*offset_bytes, std::memory_order_release);
    return area;
  }
  absl::StatusOr<Mapping> area = OpenArea(kind);
  if (area.ok() && area->size_bytes() != size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(management_->path(), ": table ", static_cast<uint32_t>(kind), " has ",
                     area->size_bytes(), " bytes, this program expects ", size_bytes));
  }
  return area;
}

}  // namespace handoff

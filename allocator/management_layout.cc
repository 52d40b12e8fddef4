// SPDX-License-Identifier: Apache-2.0
#include "allocator/management_layout.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/crash_point.h"

namespace handoff {
namespace {

const ObjectHeader& HeaderOf(std::span<const std::byte> bytes) {
  return *reinterpret_cast<const ObjectHeader*>(bytes.data());
}

// How often LoadSegmentRow() looks again: a row changes hands far more slowly than it is read.
constexpr int kMaxLooks = 16;

}  // namespace

ManagementCheck CheckManagement(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(ObjectHeader)) return ManagementCheck::kHalfMade;
  const ObjectHeader& header = HeaderOf(bytes);
  if (header.ready.load(std::memory_order_acquire) != ObjectHeader::kReady ||
      header.magic != kManagementMagic) {
    return ManagementCheck::kHalfMade;
  }
  if (header.layout_version != kLayoutVersion || header.build_hash != kBuildHash) {
    return ManagementCheck::kOtherBuild;
  }
  if (bytes.size() < kManagementFixedBytes || header.fixed_bytes != sizeof(ManagementLayout)) {
    return ManagementCheck::kHalfMade;
  }
  return ManagementCheck::kUsable;
}

std::string DescribeBuildMismatch(std::span<const std::byte> bytes) {
  const ObjectHeader& header = HeaderOf(bytes);
  return absl::StrFormat(
      "made by a program with layout version %d, build %016x; this program has layout version %d, "
      "build "
      "%016x",
      header.layout_version, header.build_hash, kLayoutVersion, kBuildHash);
}

ManagementLayout& MakeManagement(std::span<std::byte> bytes, const ManagementValues& values) {
  HANDOFF_CHECK_GE(bytes.size(), kManagementFixedBytes);
  HANDOFF_CHECK_LE(values.main_segment.size(), kMaxObjectNameLength);
  auto& management = *reinterpret_cast<ManagementLayout*>(bytes.data());
  ManagementHeader& header = management.header;
  header.object.magic = kManagementMagic;
  header.object.layout_version = kLayoutVersion;
  header.object.build_hash = kBuildHash;
  header.object.nonce = values.nonce;
  header.object.fixed_bytes = sizeof(ManagementLayout);
  header.object.created_at_ns = values.created_at_ns;
  header.object.owner_uid = values.owner_uid;
  header.object.creator_pid = values.creator_pid;
  header.area_end.store(kManagementFixedBytes, std::memory_order_relaxed);
  header.lock_inode = values.lock_inode;
  header.group_plus_one =
      values.access.group.has_value() ? uint64_t{*values.access.group} + 1 : uint64_t{0};
  std::copy(values.main_segment.begin(), values.main_segment.end(), header.main_segment);
  HANDOFF_CRASH_POINT("management.make.filled");
  header.object.ready.store(ObjectHeader::kReady, std::memory_order_release);
  return management;
}

FileAccess AccessOf(const ManagementHeader& header) {
  FileAccess access;
  if (header.group_plus_one != 0) access.group = static_cast<gid_t>(header.group_plus_one - 1);
  return access;
}

std::string MainSegmentName(const ManagementHeader& header) {
  const std::string name(header.main_segment,
                         strnlen(header.main_segment, sizeof(header.main_segment)));
  return CheckName("main segment name", name).ok() ? name : "";
}

SegmentInfo LoadSegmentRow(const ManagementLayout& management, uint32_t row) {
  HANDOFF_CHECK_LT(row, kMaxSegments);
  const SegmentRow& shared = management.segments[row];
  for (int look = 0; look < kMaxLooks; ++look) {
    const uint64_t word = shared.word.load(std::memory_order_acquire);  // Step a.
    // Step b. Acquire, so that the second look at the word comes last.
    const SegmentInfo info = {
        .row = row,
        .word = SegmentWord::FromPacked(word),
        .id = shared.id.load(std::memory_order_acquire),
        .flags = shared.flags.load(std::memory_order_acquire),
        .size_bytes = shared.size_bytes.load(std::memory_order_acquire),
        .area_offset_bytes = shared.area_offset_bytes.load(std::memory_order_acquire),
        .area_size_bytes = shared.area_size_bytes.load(std::memory_order_acquire),
    };
    if (shared.word.load(std::memory_order_acquire) == word) return info;  // Step c.
  }
  SegmentInfo unknown;
  unknown.row = row;
  return unknown;
}

}  // namespace handoff

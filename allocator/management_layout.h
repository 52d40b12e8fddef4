// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_MANAGEMENT_LAYOUT_H_
#define HANDOFF_ALLOCATOR_MANAGEMENT_LAYOUT_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "allocator/hold.h"
#include "allocator/mapping.h"
#include "allocator/object_names.h"
#include "allocator/page_word.h"
#include "allocator/segment_layout.h"
#include "allocator/size_class.h"
#include "base/cache_line.h"
#include "base/sync.h"
#include "control_queue/control_queue_layout.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff {

// The management object of a session: what is known of its members and of its memory.
//
//   ManagementLayout        the fixed part, backed with memory when the session is made
//   areas                   one behind the other, each from a multiple of kWindowAlignmentBytes;
//   holes until used
//
// An area belongs to one segment (SegmentRow) or is one of the session's tables (AreaKind). Areas
// are handed out under byte 0 of the lock file and never moved, reused or given back while the
// session lives, because the words in them must never be reset.

inline constexpr uint64_t kManagementMagic = 0x314E414D464F4448;  // "HDOFMAN1" in memory
inline constexpr uint32_t kLayoutVersion = 1;

inline constexpr uint32_t kMaxSegments = 64;
inline constexpr uint32_t kMaxSegmentId = 65535;
inline constexpr uint32_t kMaxAreas = 16;

// The first bytes of an object. The fields up to `build_hash` stay where they are in every layout
// version, so that a program of one version can name another.
struct ObjectHeader {
  static constexpr uint32_t kReady = 0x59444552;  // "REDY"

  uint64_t magic;
  uint32_t layout_version;
  // kReady, stored last (release). Anything else: its maker died before, the object is to be made
  // again.
  std::atomic<uint32_t> ready;
  uint64_t build_hash;  // kBuildHash of the program that made it

  uint64_t nonce;          // random; tells this session from others that had its name
  uint64_t fixed_bytes;    // sizeof(ManagementLayout)
  uint64_t created_at_ns;  // nanoseconds since the Unix epoch, for people
  uint32_t owner_uid;
  uint32_t creator_pid;
};
static_assert(std::is_standard_layout_v<ObjectHeader> && sizeof(ObjectHeader) == 56);
static_assert(offsetof(ObjectHeader, build_hash) == 16);

// Tables that other parts of the allocator keep in areas of their own, by number in shared memory.
enum class AreaKind : uint32_t {
  kRegionTable = 0,
  kRingTable = 1,
  kGroupTable = 2,
  kBundleTable = 3,
  kChannelTable = 4,
  kRingData = 5,
};
static_assert(static_cast<uint32_t>(AreaKind::kRingData) < kMaxAreas);

// Where an area is in the management file.
//   1. With byte 0 held, its maker takes room by moving `area_end` and makes the file long enough.
//   2. It stores `size_bytes`, then `offset_bytes` (release).
//   3. Anybody loads `offset_bytes` (acquire); other than 0 pairs with 2: size and file are there.
// Death before 2: the room is lost until the session ends, and costs nothing, being a hole.
struct AreaEntry {
  std::atomic<uint64_t> offset_bytes;
  std::atomic<uint64_t> size_bytes;
};

enum class SegmentState : uint32_t {
  kFree = 0,
  kMaking = 1,    // the payload's file may or may not be there
  kLive = 2,      // everything is there
  kRemoving = 3,  // the payload's name may or may not be gone
};

// The word of a segment row: `generation 32 | state`. The generation goes up when the row becomes
// free, so that a copy of a row is good if the word is the same before and after.
struct SegmentWord {
  uint32_t generation = 0;
  SegmentState state = SegmentState::kFree;

  constexpr uint64_t Packed() const {
    return uint64_t{generation} << 32 | static_cast<uint32_t>(state);
  }
  static constexpr SegmentWord FromPacked(uint64_t packed) {
    return {static_cast<uint32_t>(packed >> 32),
            static_cast<SegmentState>(static_cast<uint32_t>(packed))};
  }

  friend constexpr bool operator==(SegmentWord, SegmentWord) = default;
};

// One segment of the session. Written under byte 0 only, read by anybody at any time. The file's
// name is not here, because it follows from the id.
//   Create: 1. id, flags, sizes, area (release)   2. word = making (release)   3. the file
//           4. word = live (release)
//   Remove: 5. word = removing (release)   6. unlink   7. word = free, generation + 1 (release)
//   Read:   a. word is live (acquire, pairs with 4)   b. copy (acquire)   c. the word once more:
//   the same
// Death before 2: the row is still free. After: whoever holds byte 0 next finds making or removing,
// and does 6 and 7. b pairs with 1: had the copy a part of the next use, c would see the word of 7
// or later.
struct alignas(kCacheLineSize) SegmentRow {
  std::atomic<uint64_t> word;  // SegmentWord
  std::atomic<uint64_t> size_bytes;
  std::atomic<uint64_t> area_offset_bytes;
  std::atomic<uint64_t> area_size_bytes;
  std::atomic<uint32_t> id;
  std::atomic<uint32_t> flags;  // SegmentMemory::Flags() of whoever made it
};
static_assert(std::is_standard_layout_v<SegmentRow> && sizeof(SegmentRow) == kCacheLineSize);

struct ManagementHeader {
  ObjectHeader object;

  // Not 0: somewhere the kernel refuses membarrier, so the frequent sides of all members need full
  // fences. Only ever set, by a joining member before its row is live.
  alignas(kCacheLineSize) std::atomic<uint32_t> fences;

  // The first byte of the file that is nobody's; under byte 0.
  alignas(kCacheLineSize) std::atomic<uint64_t> area_end;
  AreaEntry areas[kMaxAreas];

  // Inode number of the lock file under which the object was made. The lives of this object's
  // members are locked in that file and no other: when somebody has removed it, the object is of no
  // use to a new member.
  alignas(kCacheLineSize) uint64_t lock_inode;
  // Not 0: the files belong to this group, too (gid + 1).
  uint64_t group_plus_one;
  // Name of the main segment's file, ends with a zero.
  char main_segment[kMaxObjectNameLength + 1];
};
static_assert(std::is_standard_layout_v<ManagementHeader> && sizeof(ManagementHeader) <= 4096);

struct ManagementLayout {
  ManagementHeader header;
  alignas(4096) SegmentRow segments[kMaxSegments];
  alignas(4096) std::byte members[MemberTable<RealSync>::BytesNeeded()];
};
static_assert(std::is_standard_layout_v<ManagementLayout>);
static_assert(sizeof(ManagementLayout) <= 512 << 10, "made and backed at every start of a session");

// The fixed part, and where the areas begin.
inline constexpr uint64_t kManagementFixedBytes =
    (sizeof(ManagementLayout) + kWindowAlignmentBytes - 1) / kWindowAlignmentBytes *
    kWindowAlignmentBytes;

// FNV-1a over numbers, byte by byte; goes on from `hash`.
constexpr uint64_t HashNumbers(std::initializer_list<uint64_t> numbers,
                               uint64_t hash = 0xCBF29CE484222325) {
  for (uint64_t number : numbers) {
    for (int byte = 0; byte < 8; ++byte) {
      hash = (hash ^ (number & 0xFF)) * 0x100000001B3;
      number >>= 8;
    }
  }
  return hash;
}

namespace internal {

constexpr uint64_t HashOfSizeClasses() {
  uint64_t hash = HashNumbers({kSizeClasses.size()});
  for (const SizeClass& size_class : kSizeClasses) {
    hash = HashNumbers({size_class.block_bytes, size_class.pages, size_class.count}, hash);
  }
  return hash;
}

}  // namespace internal

// Says whether two programs mean the same by the bytes they share: a hash of every number that the
// layout depends on, and of nothing else. The same for every compiler, option and day.
inline constexpr uint64_t kBuildHash = HashNumbers(
    {
        kLayoutVersion,
        kCacheLineSize,
        kWindowAlignmentBytes,
        kMaxMembers,
        MemberTable<RealSync>::BytesNeeded(),
        sizeof(MemberRow<RealSync>),
        kMaxSegments,
        sizeof(SegmentRow),
        offsetof(SegmentRow, id),
        kMaxAreas,
        sizeof(ManagementHeader),
        offsetof(ManagementHeader, fences),
        offsetof(ManagementHeader, areas),
        offsetof(ManagementHeader, main_segment),
        offsetof(ManagementLayout, segments),
        offsetof(ManagementLayout, members),
        // The words and areas of segments.
        kSegmentMagic,
        sizeof(SegmentHeader<RealSync>),
        offsetof(SegmentHeader<RealSync>, backed_pages),
        offsetof(SegmentHeader<RealSync>, waiters),
        offsetof(SegmentHeader<RealSync>, waiting),
        offsetof(SegmentHeader<RealSync>, mapped),
        kMappedTags,
        kPageBytes,
        SegmentAreaLayout(1 << 20).large_rows,
        sizeof(LargeRow<RealSync>),
        offsetof(LargeRow<RealSync>, run),
        SegmentAreaLayout(1 << 20).small_holds,
        SegmentAreaLayout(1 << 20).end,
        ControlQueueHeader::kLayoutVersion,
        ControlQueue::BytesNeeded(),
        HoldWord::kGenerationBits,
        HoldWord::kIdMask,
        PageWord::kGenerationMask,
    },
    internal::HashOfSizeClasses());

// What a management object is worth to this program.
enum class ManagementCheck {
  kUsable,
  kHalfMade,    // its maker died, or it is something else: remove it
  kOtherBuild,  // made by a program with another layout
};

// `bytes` may be of any size; alignment as of a page. Reads with acquire, so that the rest is
// visible.
ManagementCheck CheckManagement(std::span<const std::byte> bytes);

// Names both sides: what made the object, and what this program is. Call only after kOtherBuild.
std::string DescribeBuildMismatch(std::span<const std::byte> bytes);

struct ManagementValues {
  uint64_t nonce = 0;
  uint64_t created_at_ns = 0;
  uint32_t owner_uid = 0;
  uint32_t creator_pid = 0;
  uint64_t lock_inode = 0;
  FileAccess access = {};
  std::string_view main_segment;  // at most kMaxObjectNameLength bytes
};

// Fills a fixed part of zeros and declares it ready, as the last step. `bytes` are at least
// kManagementFixedBytes, backed.
ManagementLayout& MakeManagement(std::span<std::byte> bytes, const ManagementValues& values);

// Who may open the session's files, by its header.
FileAccess AccessOf(const ManagementHeader& header);

// The name in a header of another process: cut at the end of the field, empty when it is no such
// name.
std::string MainSegmentName(const ManagementHeader& header);

// One look at a segment row.
struct SegmentInfo {
  uint32_t row = 0;
  SegmentWord word = {};
  uint32_t id = 0;
  uint32_t flags = 0;
  uint64_t size_bytes = 0;
  uint64_t area_offset_bytes = 0;
  uint64_t area_size_bytes = 0;
};

// A consistent copy of row `row` (below kMaxSegments), in whatever state. Never waits for anybody:
// a row that keeps changing under the look is given as free.
SegmentInfo LoadSegmentRow(const ManagementLayout& management, uint32_t row);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_MANAGEMENT_LAYOUT_H_

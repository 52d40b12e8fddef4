// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_PART_NAME_H_
#define HANDOFF_ALLOCATOR_PART_NAME_H_

#include <cstdint>

#include "allocator/hold.h"

namespace handoff {

enum class PartKind : uint32_t {
  kEmpty = 0,      // a message of no bytes: no word stands for it
  kBlock = 1,      // a block of a segment
  kReference = 2,  // a reference of a share group
  kBundle = 3,     // many parts
};

// Names one hold in any process, and the generation under which it was handed on: what a ring entry
// carries, and what stands in the part list of a bundle and in the target of a share group. 112
// bits:
//
//   word   generation 37 | row, low 27
//   tag    row, high 3 | kind 2 | segment 6 | used bytes 37
//
// Comes from other processes: everything in it is checked before use.
struct PartName {
  static constexpr uint32_t kMaxRow = (1 << 30) - 1;
  static constexpr uint32_t kIndexBits = 12;  // of a reference's row

  PartKind kind = PartKind::kEmpty;
  uint32_t segment = 0;  // row of the segment table
  uint32_t row = 0;      // BlockId; group << kIndexBits | index of the reference; bundle
  uint64_t generation = 0;
  uint64_t used_bytes = 0;

  struct Words {
    uint64_t word = 0;
    uint64_t tag = 0;  // 48 bits

    friend constexpr bool operator==(const Words&, const Words&) = default;
  };

  static constexpr PartName Reference(uint32_t group, uint32_t index, uint64_t generation,
                                      uint64_t used_bytes) {
    return {PartKind::kReference, 0, group << kIndexBits | index, generation, used_bytes};
  }
  uint32_t group() const { return row >> kIndexBits; }
  uint32_t reference() const { return row & ((1 << kIndexBits) - 1); }

  constexpr Words Packed() const {
    return {(generation & HoldWord::kGenerationMask) << 27 | (row & kLowRow),
            uint64_t{row >> 27 & 7} << 45 | uint64_t{static_cast<uint32_t>(kind) & 3} << 43 |
                uint64_t{segment & 63} << 37 | (used_bytes & kUsed)};
  }
  // Packed() of a block that was sent under `hold`; all are in their ranges.
  static constexpr Words PackedBlock(uint32_t segment, uint32_t row, HoldWord hold,
                                     uint64_t used_bytes) {
    return {(hold.raw() & ~uint64_t{kLowRow}) | (row & kLowRow),
            uint64_t{row >> 27} << 45 | KindTag(PartKind::kBlock) | uint64_t{segment} << 37 |
                used_bytes};
  }
  // Where the kind is in a tag.
  static constexpr uint64_t kKindMask = uint64_t{3} << 43;
  static constexpr uint64_t KindTag(PartKind kind) {
    return uint64_t{static_cast<uint32_t>(kind)} << 43;
  }
  // The lower bits of `row` in a word, to tell neighbours.
  static constexpr uint32_t LowRow(uint64_t word) { return static_cast<uint32_t>(word) & kLowRow; }
  static constexpr PartName FromPacked(const Words& words) {
    return {static_cast<PartKind>(words.tag >> 43 & 3), static_cast<uint32_t>(words.tag >> 37 & 63),
            (static_cast<uint32_t>(words.word) & kLowRow) |
                static_cast<uint32_t>(words.tag >> 45 & 7) << 27,
            words.word >> 27, words.tag & kUsed};
  }

  friend constexpr bool operator==(const PartName&, const PartName&) = default;

 private:
  static constexpr uint32_t kLowRow = (1 << 27) - 1;
  static constexpr uint64_t kUsed = (uint64_t{1} << 37) - 1;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_PART_NAME_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SIZE_CLASS_H_
#define HANDOFF_ALLOCATOR_SIZE_CLASS_H_

#include <array>
#include <bit>
#include <cstdint>

namespace handoff {

// Sizes of the segment heap. A segment is cut into pages of 4 KiB; runs of pages are spans. Blocks
// up to kMaxSmallBytes share a span with others of their class; a larger block is a span of its
// own.
inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint32_t kBlockAlignment = 64;
inline constexpr uint32_t kMaxSpanPages = 16;  // of a small class; 4 bits of the page word
inline constexpr uint32_t kWordsPerPage = kPageBytes / kBlockAlignment;
inline constexpr uint64_t kMaxSmallBytes = 32 * 1024;
inline constexpr uint64_t kMaxAlignment = 2 * 1024 * 1024;

// One class of small blocks. A span of `pages` pages holds `count` blocks of `block_bytes`, one
// behind the other from its first byte.
struct SizeClass {
  uint32_t block_bytes;
  uint16_t pages;
  uint16_t count;
};

// Multiples of 64 bytes up to 1 KiB, then eight steps to each doubling: at most 12.5 % of a block
// above 1 KiB is unused (the spacing that jemalloc and tcmalloc use as well).
inline constexpr uint32_t kSmallClassCount = 16 + 5 * 8;

namespace internal {

constexpr std::array<SizeClass, kSmallClassCount> MakeSizeClasses() {
  std::array<SizeClass, kSmallClassCount> classes{};
  for (uint32_t i = 0; i < kSmallClassCount; ++i) {
    const uint32_t bytes = i < 16 ? (i + 1) * 64 : (9 + (i - 16) % 8) << (7 + (i - 16) / 8);
    // The span that leaves the least at its end; of equals the longest, for fewer claims.
    uint32_t best_pages = 0;
    uint32_t best_used = 0;
    for (uint32_t pages = 1; pages <= kMaxSpanPages; ++pages) {
      const uint32_t total = pages * static_cast<uint32_t>(kPageBytes);
      const uint32_t used = total / bytes * bytes;
      // used / total >= best_used / best_total, without a division.
      if (used > 0 &&
          (best_pages == 0 || uint64_t{used} * best_pages >= uint64_t{best_used} * pages)) {
        best_pages = pages;
        best_used = used;
      }
    }
    classes[i] = {bytes, static_cast<uint16_t>(best_pages),
                  static_cast<uint16_t>(best_used / bytes)};
  }
  return classes;
}

}  // namespace internal

inline constexpr std::array<SizeClass, kSmallClassCount> kSizeClasses = internal::MakeSizeClasses();

namespace internal {

constexpr std::array<uint8_t, kMaxSmallBytes / kBlockAlignment> MakeClassOfSize() {
  std::array<uint8_t, kMaxSmallBytes / kBlockAlignment> classes{};
  uint8_t size_class = 0;
  for (uint32_t i = 0; i < classes.size(); ++i) {
    if ((i + 1) * kBlockAlignment > kSizeClasses[size_class].block_bytes) ++size_class;
    classes[i] = size_class;
  }
  return classes;
}
inline constexpr std::array<uint8_t, kMaxSmallBytes / kBlockAlignment> kClassOfSize =
    MakeClassOfSize();

}  // namespace internal

// The class of the smallest blocks that have room for `size_bytes` (1 to kMaxSmallBytes).
constexpr uint32_t SmallClassFor(uint64_t size_bytes) {
  return internal::kClassOfSize[(size_bytes - 1) / kBlockAlignment];
}

// Blocks that are spans are kept by length: eight steps to each doubling of pages, so that the
// blocks of one bin differ by at most an eighth.
inline constexpr uint32_t kLargeBinCount = 8 * 24;

constexpr uint32_t LargeBinFor(uint64_t pages) {
  if (pages < 16) return static_cast<uint32_t>(pages);
  const uint32_t doubling = static_cast<uint32_t>(std::bit_width(pages)) - 4;  // 16..31: 1
  return 8 + doubling * 8 + static_cast<uint32_t>((pages >> doubling) & 7);
}

static_assert(kSizeClasses[0].block_bytes == 64 && kSizeClasses[15].block_bytes == 1024);
static_assert(kSizeClasses[16].block_bytes == 1152 && kSizeClasses[23].block_bytes == 2048);
static_assert(kSizeClasses[kSmallClassCount - 1].block_bytes == kMaxSmallBytes);
static_assert(LargeBinFor(15) == 15 && LargeBinFor(16) == 16 && LargeBinFor(31) == 23);
static_assert(LargeBinFor(uint64_t{1} << 24) < kLargeBinCount);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SIZE_CLASS_H_

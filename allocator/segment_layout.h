// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_LAYOUT_H_
#define HANDOFF_ALLOCATOR_SEGMENT_LAYOUT_H_

#include <cstdint>
#include <type_traits>

#include "allocator/size_class.h"
#include "base/cache_line.h"
#include "base/sync.h"

namespace handoff {

// What the management object has of one segment, its *area*: everything that is known of the
// payload, out of reach of a buffer overrun. Sections, each from a multiple of 4 KiB:
//
//   SegmentHeader            4 KiB
//   page words               8 bytes a page    PageWord
//   large rows              16 bytes a page    LargeRow of the span that begins at that page
//   small holds            512 bytes a page    HoldWord i of a span is word i behind its first
//   page's
//
// The file has holes where nothing was stored: page words and large rows exist for
// pages below `backed_pages`; the small holds of a span are reserved before it is claimed. Nobody
// reads what is not reserved, because a read of a hole takes memory too and ends in SIGBUS where
// none is left.
inline constexpr uint64_t kMaxSegmentPages = uint64_t{1} << 24;  // 64 GiB
inline constexpr uint64_t kMaxSegmentBytes = kMaxSegmentPages * kPageBytes;
inline constexpr uint32_t kMappedTags = 255;                   // a byte without 0
inline constexpr uint64_t kSegmentMagic = 0x31474553464F4448;  // "HDOFSEG1"

template <class Sync>
struct SegmentHeader {
  template <class T>
  using Atomic = typename Sync::template Atomic<T>;

  uint64_t magic;
  uint64_t size_bytes;  // of the payload, a multiple of kPageBytes
  uint64_t page_count;
  Atomic<uint32_t> backed_pages;  // payload and page tables are reserved below this; only grows
  Atomic<uint32_t> ownerless;     // hint: pages without owner, or words of nobody, may exist

  alignas(kCacheLineSize) Atomic<uint32_t> waiters;           // somebody may wait for memory
  Atomic<uint32_t> wake_sequence;                             // futex: +1 when memory came back
  alignas(kCacheLineSize) Atomic<uint64_t> reclaimed_blocks;  // for people
  Atomic<uint64_t> reclaimed_bytes;
  Atomic<uint64_t> failed_allocations;

  // One byte a member that waits for memory; written by it, cleared by its reclaimer.
  alignas(kCacheLineSize) Atomic<uint8_t> waiting[1024];

  // One byte a member that has the segment mapped and may name it by its row: 1 + its epoch modulo
  // kMappedTags; written by it, left by the dead. See SegmentView::SetMapped().
  alignas(kCacheLineSize) Atomic<uint8_t> mapped[1024];
};
static_assert(std::is_standard_layout_v<SegmentHeader<RealSync>>);
static_assert(sizeof(SegmentHeader<RealSync>) <= kPageBytes);

// What a large block needs beside the word of its page, in one cache line.
template <class Sync>
struct LargeRow {
  typename Sync::template Atomic<uint64_t> hold;  // HoldWord of the block
  typename Sync::template Atomic<uint64_t> run;   // RunWord of the span, also of a small one
};
static_assert(std::is_standard_layout_v<LargeRow<RealSync>>);
static_assert(sizeof(LargeRow<RealSync>) == 16);

// Where the sections of an area begin, for a segment of `page_count` pages.
struct SegmentAreaLayout {
  explicit constexpr SegmentAreaLayout(uint64_t page_count)
      : page_words(kPageBytes),
        large_rows(page_words + Whole(page_count * 8)),
        small_holds(large_rows + Whole(page_count * 16)),
        end(small_holds + page_count * kWordsPerPage * 8) {}

  uint64_t page_words;
  uint64_t large_rows;
  uint64_t small_holds;
  uint64_t end;

 private:
  static constexpr uint64_t Whole(uint64_t bytes) {
    return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  }
};

// The bytes of the management object that a segment of `size_bytes` needs, nearly all of them a
// hole.
constexpr uint64_t SegmentAreaBytes(uint64_t size_bytes) {
  return SegmentAreaLayout((size_bytes + kPageBytes - 1) / kPageBytes).end;
}

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_LAYOUT_H_

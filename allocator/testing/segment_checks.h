// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_SEGMENT_CHECKS_H_
#define HANDOFF_ALLOCATOR_TESTING_SEGMENT_CHECKS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "allocator/block.h"
#include "allocator/segment.h"
#include "allocator/testing/plain_segment.h"

namespace handoff {

// A block of the segment; fails the test if there is none.
Block MustAllocate(Segment& segment, uint64_t size_bytes, uint64_t alignment = 64);

// Every block is free, so after `members`, all that live, have given back what they keep, each of
// them can have all `bytes` of the segment as one block, nothing is out of place, and nobody waits.
void ExpectWhole(PlainSegmentMemory& memory, uint64_t bytes, std::span<Segment* const> members);
// The same of one, which finds what it keeps itself when it allocates all.
void ExpectWhole(PlainSegmentMemory& memory, Segment& segment);

// Each operation once more, between `members` (two) and one that joins in `newcomer_slot`, dies and
// is reclaimed. Leaves every block free.
void ExpectOperationsWork(PlainSegmentMemory& memory, std::span<Segment* const> members,
                          uint32_t newcomer_slot);

// Every word of the segment that names `member` as owner of a page or as holder: what nobody else
// may change while it lives.
struct OwnedWord {
  uint64_t index;  // of the word in the area
  uint64_t raw;

  friend bool operator==(const OwnedWord&, const OwnedWord&) = default;
};
std::vector<OwnedWord> WordsOf(const PlainSegmentMemory& memory, uint32_t member);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_SEGMENT_CHECKS_H_

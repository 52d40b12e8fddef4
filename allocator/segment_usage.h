// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_USAGE_H_
#define HANDOFF_ALLOCATOR_SEGMENT_USAGE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "allocator/segment_view.h"
#include "base/sync.h"
#include "control_queue/member_table.h"

namespace handoff {

// What one member has in a segment. Bytes are those of the blocks, which may be longer than the
// messages.
struct MemberUsage {
  uint64_t held_blocks = 0;
  uint64_t held_bytes = 0;
  uint64_t sent_blocks = 0;  // sent or posted, and not taken by anybody yet
  uint64_t sent_bytes = 0;
  uint64_t span_bytes = 0;  // pages that it owns, with free blocks in them
};

// A segment at about one moment: others go on while it is looked at.
struct SegmentUsage {
  uint64_t size_bytes = 0;  // of the payload
  uint64_t used_bytes = 0;  // blocks in use
  uint64_t free_bytes = 0;  // the rest: pages, and blocks of spans
  // The largest block that could be had if every owner gave back what it can.
  uint64_t largest_free_bytes = 0;
  uint64_t used_blocks = 0;
  uint64_t ownerless_blocks = 0;  // in spans whose owner is dead
  uint64_t nobodys_blocks = 0;    // sent by a member that is dead since, waiting for its receiver
  uint64_t nobodys_bytes = 0;
  std::array<MemberUsage, kMaxMembers> members;  // by slot
  struct SpansOfClass {
    uint32_t size_class;  // index of kSizeClasses, or kLargeClass
    uint64_t spans = 0;
    uint64_t bytes = 0;  // of the spans
    uint64_t used_blocks = 0;
  };
  std::vector<SpansOfClass> classes;  // those in use

  // The slots of the members that hold or have sent most, most first, at most `count`; only those
  // that have anything.
  std::vector<uint32_t> TopHolders(size_t count) const;
};

// Looks at every hold of the segment. Read only, any thread, any mapping; takes time in proportion
// to the number of blocks, so not for the path of a message.
SegmentUsage ScanUsage(const SegmentView<RealSync>& view);

// "requested 4 MiB; 12 MiB of 1 GiB free, largest free block 2 MiB; most is held by member 3
// (camera, pid 812: 1 GiB in 100 blocks), ...", with names and pids where `members` is given.
std::string DescribeShortage(const SegmentUsage& usage, uint64_t requested_bytes,
                             const MemberTable<RealSync>* members = nullptr);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_USAGE_H_

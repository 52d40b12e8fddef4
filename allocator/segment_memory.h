// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_MEMORY_H_
#define HANDOFF_ALLOCATOR_SEGMENT_MEMORY_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "allocator/mapping.h"

namespace handoff {

// How the memory of a segment is had from the system. Without any of this it comes page by page, as
// it is first used. What is not possible on this machine is an error that says what is missing.
struct SegmentMemory {
  // Keeps the whole segment in memory, never on the swap device, for as long as this process lives
  // or has it mapped. Needs RLIMIT_MEMLOCK of that size, or CAP_IPC_LOCK.
  bool lock = false;

  // Brings the whole segment in at once, so that the first use of a page is as fast as any other;
  // contents stay. Takes some 0.1 to 0.3 s a GiB on one processor.
  bool populate = false;

  // The same when the segment is made: all of it is brought in, and is zero.
  bool zero = false;

  // Threads that populate; 0: one for each processor, at most 16.
  uint32_t populate_threads = 0;
  // Called while it is brought in, by the calling thread, every few MiB and once at the end. May be
  // null.
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> progress = nullptr;

  // Huge pages for whoever makes the segment; brings it in at once. The directory must be on a
  // tmpfs that is mounted with huge=advise, huge=within_size or huge=always. Where memory is too
  // fragmented the kernel gives small pages all the same.
  bool huge_pages = false;

  // The NUMA node whose memory the segment is made of, whoever touches it first; that of another
  // node where this one is full. Counts for whoever makes the segment.
  std::optional<uint32_t> numa_node = std::nullopt;

  // As it stands in the row of the segment: lock 1, populate 2, zero 4, huge pages 8, and the NUMA
  // node + 1 from bit 16.
  uint32_t Flags() const;
};

// The part that needs no time, for who has just made the segment's file and touched nothing of it.
// kFailedPrecondition: this machine or file system has no huge pages; kNotFound: no such NUMA node.
absl::Status PlaceSegmentMemory(const SegmentMemory& memory, Mapping& payload);

// Brings in and locks, in this process, as `memory` says. kResourceExhausted names the file system
// with its size and what is free, or RLIMIT_MEMLOCK.
absl::Status BringInSegmentMemory(const SegmentMemory& memory, Mapping& payload);

// For who maps a segment that somebody else has made with these flags.
void FollowSegmentFlags(uint32_t flags, Mapping& payload);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_MEMORY_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_BACKING_H_
#define HANDOFF_ALLOCATOR_SEGMENT_BACKING_H_

#include <cstdint>

#include "absl/status/status.h"

namespace handoff {

// Where the memory of a segment comes from. Both calls make sure that the bytes [offset, offset +
// length) can be written without SIGBUS, may be repeated, and change nothing on failure.
// kResourceExhausted: the file system has no room; the text names it.
class SegmentBacking {
 public:
  virtual ~SegmentBacking() = default;
  virtual absl::Status ReservePayload(uint64_t offset, uint64_t length) = 0;
  virtual absl::Status ReserveArea(uint64_t offset, uint64_t length) = 0;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_BACKING_H_

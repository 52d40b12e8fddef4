// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_SESSION_COSTS_H_
#define HANDOFF_BENCHMARKS_SESSION_COSTS_H_

#include <cstdint>

#include "benchmarks/harness/statistics.h"

namespace handoff {

// What is not on the path of a message. All take the time of the real thing, in processes.

struct OpenTimes {
  Samples create_ms;
  Samples join_ms;  // by another process
};
// Transport::Open() of a session that is not there, and of one that is.
OpenTimes TimeOpen(uint64_t segment_bytes, int times);

// From the kernel's release of a killed member's lock, as a busy loop sees it, to the end of its
// reclaim by another member, which held nothing back: milliseconds.
Samples TimeReclaim(uint32_t blocks, int times);

// From a release to the return of an Allocate() in another process that slept for it: milliseconds.
Samples TimeWakes(int times);

struct Bookkeeping {
  double shared_bytes;   // of the session's objects besides the payload
  double private_bytes;  // of the process that allocates
};
// For each block of 64 bytes, where many are in use.
Bookkeeping MeasureBookkeeping(uint32_t blocks);

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_SESSION_COSTS_H_

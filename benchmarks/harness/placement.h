// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HARNESS_PLACEMENT_H_
#define HANDOFF_BENCHMARKS_HARNESS_PLACEMENT_H_

#include <cstdint>

namespace handoff {

// How far apart the two cores of a measurement were. On a virtual machine the host moves them from
// second to second, and everything that two processes do with shared lines costs two to ten times
// more when they do not share a cache: figures of different classes must not be compared.
enum class Placement {
  kNear,   // one cache between them
  kFar,    // none
  kMoved,  // it changed within the burst: of no use
};

inline constexpr int kPlacementCount = 2;  // of those that are of use

// A line that goes to the other core and back, in nanoseconds: less is near. Cores of one cache
// were seen at 50 to 150, others at 400 and more.
inline constexpr double kNearestFarNs = 250;

// What a burst was, from the probes before and after it. Two that differ by more than half of the
// smaller one are of different placements also within a class.
Placement Classify(double before_ns, double after_ns);

// "near", "far", "moved".
const char* PlacementName(Placement placement);

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HARNESS_PLACEMENT_H_

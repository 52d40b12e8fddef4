// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/placement.h"

#include <algorithm>

namespace handoff {

Placement Classify(double before_ns, double after_ns) {
  const auto [less, more] = std::minmax(before_ns, after_ns);
  if (more > 1.5 * less) return Placement::kMoved;
  if (more < kNearestFarNs) return Placement::kNear;
  return less < kNearestFarNs ? Placement::kMoved : Placement::kFar;
}

const char* PlacementName(Placement placement) {
  switch (placement) {
    case Placement::kNear:
      return "near";
    case Placement::kFar:
      return "far";
    case Placement::kMoved:
      return "moved";
  }
  return "?";
}

}  // namespace handoff

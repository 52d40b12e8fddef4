// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HARNESS_COMPARISON_H_
#define HANDOFF_BENCHMARKS_HARNESS_COMPARISON_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "benchmarks/harness/placement.h"
#include "benchmarks/harness/statistics.h"

namespace handoff {

// A comparison runs on two processes, each pinned to a core of its own (to the only one where there
// is no second).
enum class Side {
  kA,  // the calling process, which takes the time
  kB,  // a child that was forked from it
};

// One side's part of a burst: so many messages, or round trips, or whatever it is that is counted.
// Side A may add how long single ones took, in nanoseconds, to `latencies_ns`; what B adds is lost.
using Burst = std::function<void(uint64_t messages, std::vector<double>& latencies_ns)>;

// One way to do the work.
struct Contender {
  std::string name;

  // Makes what the side needs, in its process, and returns its part. Called once for each side, A's
  // first; what the burst has captured is destroyed at the end, B's first. Shared state comes from
  // outside: mapped before the comparison begins, or by name.
  std::function<Burst(Side)> open;

  // Sleeping, or threads of its own on the same core, belong to the work: bursts are also used
  // where a process was made to wait for its core.
  bool yields = false;

  // So many messages first, in one burst that does not count: connections are made, and memory is
  // touched that is used again later.
  uint64_t warm_up_messages = 1000;

  // For a burst, at least: where both sides sleep at its start, waking them must not be what
  // counts.
  uint64_t least_messages = 1;
  // At most.
  uint64_t most_messages = uint64_t{1} << 24;
};

struct ComparisonOptions {
  // How often each contender has its turn, and how long that takes. The number of messages of a
  // burst is found at the start of the comparison.
  int rounds = 100;
  absl::Duration burst = absl::Milliseconds(1);
};

// What came out for one contender.
struct Measured {
  std::string name;
  uint64_t messages = 0;  // in a burst
  int preempted = 0;      // bursts that were dropped because a side had to wait for its core
  int moved = 0;          // likewise, because the placement changed
  // By placement (kNear, kFar): from the common start of both sides to the end of the later one, in
  // nanoseconds for a message, one value for each burst; and what side A has noted.
  std::array<Samples, kPlacementCount> message_ns;
  std::array<Samples, kPlacementCount> latency_ns;
  std::array<Samples, kPlacementCount> probe_ns;

  const Samples& MessageNs(Placement placement) const {
    return message_ns[static_cast<size_t>(placement)];
  }
  const Samples& LatencyNs(Placement placement) const {
    return latency_ns[static_cast<size_t>(placement)];
  }
};

// Lets the contenders take turns, burst by burst, so that whatever the machine does meanwhile
// happens to all of them, and looks at the placement of the cores before and after each burst. In
// the order of `contenders`. Stops the program where a contender does. Call it while the process
// has one thread, because it forks.
std::vector<Measured> Compare(const std::vector<Contender>& contenders,
                              const ComparisonOptions& options = {});

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HARNESS_COMPARISON_H_

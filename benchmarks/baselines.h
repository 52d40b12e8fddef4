// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_BASELINES_H_
#define HANDOFF_BENCHMARKS_BASELINES_H_

#include "benchmarks/harness/comparison.h"

namespace handoff {

// What the transport is measured against. None of them allocates, releases, or survives a death.

// One-way, side A to side B. A bare ring in shared memory, and one without a shared tail; libzmq's
// PUSH and PULL over ipc, and Boost's message_queue, both with messages of 56 bytes, at most 1024
// under way.
Contender BareRingOneWay();
Contender LapRingOneWay();
Contender LibzmqOneWay();
Contender MessageQueueOneWay();

// There and back, with the time of each. Two bare rings, awake; two futex words, asleep.
Contender BareRingRoundTrip();
Contender FutexRoundTrip();

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_BASELINES_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HEAP_CONTENDERS_H_
#define HANDOFF_BENCHMARKS_HEAP_CONTENDERS_H_

#include <cstddef>
#include <cstdint>

#include "benchmarks/harness/comparison.h"

namespace handoff {

// Heaps at work in two processes. Each contender has a segment of its own; both of its sides use
// that. A message is one block.

// Who allocates and releases, in turn: side A alone, while B does nothing, or both at once.
enum class AtWork { kOne, kBoth };

Contender SegmentTurns(AtWork who, size_t size_bytes, uint64_t segment_bytes);
Contender BestFitTurns(AtWork who, size_t size_bytes, uint64_t segment_bytes);
Contender SeqFitTurns(AtWork who, size_t size_bytes, uint64_t segment_bytes);
// Each side in its own memory.
Contender MallocTurns(AtWork who, size_t size_bytes);

// Side A allocates, B releases; between them goes a plain ring. In ours the block changes its owner
// on the way, as a message does: marked by A, accepted by B.
Contender SegmentPair(size_t size_bytes, uint64_t segment_bytes);
Contender BestFitPair(size_t size_bytes, uint64_t segment_bytes);
Contender SeqFitPair(size_t size_bytes, uint64_t segment_bytes);

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HEAP_CONTENDERS_H_

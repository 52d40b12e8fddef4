// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HEAP_LOOPS_H_
#define HANDOFF_BENCHMARKS_HEAP_LOOPS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "benchmarks/harness/statistics.h"

namespace handoff {

// What one process does with a heap, under Google Benchmark: repetitions of all heaps take turns in
// random order, each with so many iterations as take about as long as a burst.
struct HeapLoopsOptions {
  std::vector<size_t> sizes;
  // Of the live set: blocks of 64 bytes to `live_most_bytes`, the logarithms of their sizes evenly
  // spread.
  uint32_t live_blocks = 10'000;
  std::vector<size_t> live_most_bytes;
  uint64_t segment_bytes = uint64_t{2} << 30;
  int repetitions = 15;
  double burst_ns = 2e6;
};

struct HeapLoopsResult {
  // Nanoseconds of one thread for one allocation with its release, by the names below. Bursts
  // in which the thread had to wait for its core are dropped.
  std::map<std::string, Samples> turn_ns;
  // Whether our segment could be had as one block after all that.
  bool segment_whole = false;
};

// heap: "segment", "rbtree_best_fit", "simple_seq_fit", "malloc".
std::string TurnsName(const std::string& heap, size_t size_bytes, int threads);
// A block chosen at random is released, and one of a random size allocated for it.
std::string LiveName(const std::string& heap, size_t most_bytes);
// All blocks are allocated, then released in random order.
std::string FillName(const std::string& heap, size_t most_bytes);

HeapLoopsResult RunHeapLoops(const HeapLoopsOptions& options);

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HEAP_LOOPS_H_

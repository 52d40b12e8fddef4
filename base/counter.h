// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_COUNTER_H_
#define HANDOFF_BASE_COUNTER_H_

#include <atomic>
#include <cstdint>

namespace handoff {

// A number for people: one thread at a time adds, any thread reads. Orders nothing, and offers
// nothing on which anybody could synchronise. Adding costs no locked instruction.
class Counter {
 public:
  void Add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace handoff

#endif  // HANDOFF_BASE_COUNTER_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_ATOMIC_MAX_H_
#define HANDOFF_CONTROL_QUEUE_ATOMIC_MAX_H_

#include <atomic>

namespace handoff::internal {

// Raises `mark` to at least `value`; a mark never falls. Any number of threads. Release: whoever
// reads the raised mark (acquire) sees what was written before.
template <class Atomic, class Value>
void RaiseTo(Atomic& mark, Value value) {
  Value seen = mark.load(std::memory_order_relaxed);
  while (seen < value && !mark.compare_exchange_weak(seen, value, std::memory_order_release,
                                                     std::memory_order_relaxed)) {
  }
}

}  // namespace handoff::internal

#endif  // HANDOFF_CONTROL_QUEUE_ATOMIC_MAX_H_

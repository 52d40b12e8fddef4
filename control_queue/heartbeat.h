// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_HEARTBEAT_H_
#define HANDOFF_CONTROL_QUEUE_HEARTBEAT_H_

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "base/cache_line.h"
#include "base/sync.h"

namespace handoff {

// What a member changes now and then to show that it gets on. A count, not a time, so that nobody
// compares clocks; only whether it changes means anything. The member in the slot is its only
// writer, one thread at a time; the next member of the slot counts on. Any state is a good one, so
// there is nothing to repair after a death. Silence frees nothing: see stall_detector.h.
template <class Sync>
struct alignas(kCacheLineSize) Heartbeat {
  typename Sync::template Atomic<uint64_t> beats;

  void Beat() { beats.store(beats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

  uint64_t Beats() const { return beats.load(std::memory_order_relaxed); }
};
static_assert(std::is_standard_layout_v<Heartbeat<RealSync>> &&
              sizeof(Heartbeat<RealSync>) == kCacheLineSize);

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_HEARTBEAT_H_

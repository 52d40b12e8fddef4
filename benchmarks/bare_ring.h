// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_BARE_RING_H_
#define HANDOFF_BENCHMARKS_BARE_RING_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "base/cache_line.h"
#include "base/sync.h"

namespace handoff {

// The ring of the textbooks, for one producer and one consumer: 8 bytes an entry, a shared head and
// a shared tail, each side remembers what it has seen of the other's. What all else is measured
// against. Every entry is published by itself, the moment it is there. Knows nothing of deaths,
// waiting or memory. Zeros are an empty ring.
struct BareRing {
  static constexpr uint64_t kEntries = 1024;

  alignas(kCacheLineSize) std::array<std::atomic<uint64_t>, kEntries> entries;
  alignas(kCacheLineSize) std::atomic<uint64_t> head;
  alignas(kCacheLineSize) std::atomic<uint64_t> tail;
};

class BareProducer {
 public:
  explicit BareProducer(BareRing& ring) : ring_(ring) {}

  // Waits for room, awake.
  void Push(uint64_t value) {
    while (tail_ - head_ >= BareRing::kEntries) {
      head_ = ring_.head.load(std::memory_order_acquire);
      if (tail_ - head_ >= BareRing::kEntries) RealSync::Pause();
    }
    ring_.entries[tail_ % BareRing::kEntries].store(value, std::memory_order_relaxed);
    ring_.tail.store(++tail_, std::memory_order_release);
  }

 private:
  BareRing& ring_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

class BareConsumer {
 public:
  explicit BareConsumer(BareRing& ring) : ring_(ring) {}

  // Waits for a value, awake.
  uint64_t Pop() {
    while (head_ == tail_) {
      tail_ = ring_.tail.load(std::memory_order_acquire);
      if (head_ == tail_) RealSync::Pause();
    }
    const uint64_t value =
        ring_.entries[head_ % BareRing::kEntries].load(std::memory_order_relaxed);
    ring_.head.store(++head_, std::memory_order_release);
    return value;
  }

 private:
  BareRing& ring_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

// The same without a shared tail: `lap 16 | value 48`, an entry is published while its lap is that
// of its index.
class LapProducer {
 public:
  explicit LapProducer(BareRing& ring) : ring_(ring) {}

  void Push(uint64_t value) {
    while (tail_ - head_ >= BareRing::kEntries) {
      head_ = ring_.head.load(std::memory_order_acquire);
      if (tail_ - head_ >= BareRing::kEntries) RealSync::Pause();
    }
    const uint64_t lap = tail_ / BareRing::kEntries + 1;
    ring_.entries[tail_ % BareRing::kEntries].store(lap << 48 | value, std::memory_order_release);
    ++tail_;
  }

 private:
  BareRing& ring_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

class LapConsumer {
 public:
  explicit LapConsumer(BareRing& ring) : ring_(ring) {}

  uint64_t Pop() {
    const std::atomic<uint64_t>& entry = ring_.entries[head_ % BareRing::kEntries];
    const uint64_t lap = (head_ / BareRing::kEntries + 1) & 0xFFFF;
    uint64_t seen = entry.load(std::memory_order_acquire);
    while (seen >> 48 != lap) {
      RealSync::Pause();
      seen = entry.load(std::memory_order_acquire);
    }
    ring_.head.store(++head_, std::memory_order_release);
    return seen & ((uint64_t{1} << 48) - 1);
  }

 private:
  BareRing& ring_;
  uint64_t head_ = 0;
};

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_BARE_RING_H_

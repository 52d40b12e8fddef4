// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_RING_LAYOUT_H_
#define HANDOFF_ALLOCATOR_RING_LAYOUT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/cache_line.h"
#include "base/sync.h"
#include "control_queue/member_id.h"
#include "control_queue/spsc_ring.h"

namespace handoff {

// The bytes of the ring table: who wants to meet whom under which name, and the rings between them.
// Two areas of zeros at first: rows, and behind them, in an area of its own, the entries, which
// have a fixed window for each ring.

inline constexpr uint32_t kMaxEndpoints = 1024;
inline constexpr uint32_t kMaxRings = 1024;
inline constexpr uint32_t kMaxRingEntries = 8192;
inline constexpr uint32_t kMaxEndpointNameBytes = 96;
inline constexpr uint32_t kMaxTopics = 32;
inline constexpr uint32_t kMaxTopicBytes = 63;

inline constexpr uint64_t kRingTableMagic = 0x31474E49524F4448;  // "HDORING1" in memory

// One endpoint for all time: a row and how often it was claimed. Zero names nobody.
struct EndpointId {
  uint32_t row = 0;
  uint64_t generation = 0;

  constexpr uint64_t Packed() const { return generation << 16 | row; }
  static constexpr EndpointId FromPacked(uint64_t packed) {
    return {static_cast<uint32_t>(packed & 0xFFFF), packed >> 16};
  }
  friend constexpr bool operator==(EndpointId, EndpointId) = default;
};

enum class EndpointState : uint32_t {
  kFree = 0,
  kMaking = 1,  // claimed by maker(), not yet of use to anybody
  kLive = 2,
};

// The word of an endpoint row, `generation 48 | maker 12 | state 2`. The generation moves on at the
// claim, so a value that was left never comes back.
struct EndpointWord {
  uint64_t raw = 0;

  constexpr EndpointState state() const { return static_cast<EndpointState>(raw & 3); }
  constexpr uint32_t maker() const { return static_cast<uint32_t>(raw >> 2) & kNoMember; }
  constexpr uint64_t generation() const { return raw >> 14; }

  constexpr EndpointWord Claimed(uint32_t slot) const {
    return Of(generation() + 1, slot, EndpointState::kMaking);
  }
  constexpr EndpointWord MadeLive() const {
    return Of(generation(), maker(), EndpointState::kLive);
  }
  constexpr EndpointWord Freed() const { return Of(generation(), 0, EndpointState::kFree); }

  friend constexpr bool operator==(EndpointWord, EndpointWord) = default;

 private:
  static constexpr EndpointWord Of(uint64_t generation, uint32_t slot, EndpointState state) {
    return {generation << 14 | uint64_t{slot & kNoMember} << 2 | static_cast<uint64_t>(state)};
  }
};

// Where a socket sleeps. What is set says how to wake it; whoever wakes it takes all of it by one
// exchange, so each sleep is ended once.
struct alignas(kCacheLineSize) Door {
  static constexpr uint32_t kSleeps = 1;   // on this word, as a futex
  static constexpr uint32_t kWatched = 2;  // somebody waits for the socket's descriptor

  std::atomic<uint32_t> sleeping;
};

// What `options` of an endpoint row say: `door 16 | capacity 24 | policy 8 | role 8 | pattern 8`.
struct EndpointRow {
  alignas(kCacheLineSize) std::atomic<uint64_t> word;  // EndpointWord
  std::atomic<uint64_t> member;                        // MemberId
  std::atomic<uint64_t> options;
  std::atomic<uint64_t> name_bytes;
  std::atomic<uint64_t> name[kMaxEndpointNameBytes / sizeof(uint64_t)];
  Door door;
};
static_assert(std::is_standard_layout_v<EndpointRow> && sizeof(EndpointRow) == 3 * kCacheLineSize);

// The topics of an endpoint, written before it is live.
struct TopicRow {
  alignas(kCacheLineSize) std::atomic<uint64_t> count;
  // Length in the first byte.
  alignas(kCacheLineSize) std::atomic<uint64_t> topics[kMaxTopics][8];
};
static_assert(std::is_standard_layout_v<TopicRow> && kMaxTopicBytes + 1 == 64);

struct RingRow {
  RingHeader<RealSync> header;
  std::atomic<uint64_t> producer;       // EndpointId
  std::atomic<uint64_t> consumer;       // EndpointId
  std::atomic<uint64_t> entries_shift;  // the ring has 1 << entries_shift entries
};
static_assert(std::is_standard_layout_v<RingRow> && sizeof(RingRow) == 3 * kCacheLineSize);

// In front of the rows. Both numbers of rows only grow; rows beyond them are not backed by memory
// and must not be touched.
struct RingTableHeader {
  std::atomic<uint64_t> magic;
  std::atomic<uint32_t> endpoints_used;
  std::atomic<uint32_t> rings_used;
  // A line of its own, which everybody loads for every message: +1 after every change of an
  // endpoint or a ring.
  alignas(kCacheLineSize) std::atomic<uint64_t> changes;
};

struct RingTableLayout {
  alignas(4096) RingTableHeader header;
  alignas(4096) EndpointRow endpoints[kMaxEndpoints];
  alignas(4096) RingRow rings[kMaxRings];
  alignas(4096) TopicRow topics[kMaxEndpoints];
};
static_assert(std::is_standard_layout_v<RingTableLayout>);

inline constexpr uint64_t kRingWindowBytes = kMaxRingEntries * sizeof(RingEntry<RealSync>);
inline constexpr uint64_t kRingTableBytes = sizeof(RingTableLayout);
inline constexpr uint64_t kRingTableBackedBytes = 4096;  // of these, before anybody attaches
inline constexpr uint64_t kRingDataBytes = kMaxRings * kRingWindowBytes;

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_RING_LAYOUT_H_

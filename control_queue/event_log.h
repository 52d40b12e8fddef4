// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_EVENT_LOG_H_
#define HANDOFF_CONTROL_QUEUE_EVENT_LOG_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/cache_line.h"
#include "base/check.h"
#include "base/sync.h"
#include "control_queue/atomic_max.h"
#include "control_queue/member_id.h"

namespace handoff {

// By number in shared memory: only ever add. What `arguments` hold is said at each; 0 where nothing
// is said.
enum class EventKind : uint32_t {
  kMemberJoined = 1,    // pid
  kMemberLeft = 2,      // pid
  kMemberDied = 3,      // pid; reported by whoever found it
  kSegmentCreated = 4,  // segment id, size in bytes
  kSegmentRemoved = 5,  // segment id, size in bytes
  kRegionCreated = 6,   // region id, size in bytes
  kRegionRemoved = 7,   // region id, size in bytes
  kMemoryLow = 8,  // segment id, free bytes; an allocation of `member` found no room. Not again
                   // until one of that size would fit
  kBlocksReclaimed = 9,  // blocks, bytes; of the dead `member`
  kStaleHandles = 10,    // how many since the last such event; from `member`, if that is known
  kObjectsRemoved = 11,  // a file of the session has lost its name under its members
};

// "member joined" and so on, in lower case; "unknown" for a number that is no kind.
std::string_view EventKindName(EventKind kind);

struct Event {
  uint64_t time_ns = 0;  // nanoseconds of MonotonicClock(), the same for all processes of a machine
  EventKind kind = {};   // readers: may be a number that is no kind, from a later build
  MemberId member = {};  // whom it is about; nobody if it is about no member
  std::array<uint64_t, 2> arguments = {};

  friend bool operator==(const Event&, const Event&) = default;
};

// One event in shared memory. The record at place i holds position p of its ring, p % kRecords = i;
// `sequence` is 2p + 1 while it is being written and 2p + 2 when it is complete, 0 at first.
template <class Sync>
struct alignas(kCacheLineSize) EventRecord {
  template <class T>
  using Atomic = typename Sync::template Atomic<T>;

  Atomic<uint64_t> sequence;
  Atomic<uint64_t> time_ns;
  Atomic<uint64_t> member;  // MemberId
  Atomic<uint64_t> arguments[2];
  Atomic<uint32_t> kind;  // EventKind
};
static_assert(std::is_standard_layout_v<EventRecord<RealSync>> &&
              sizeof(EventRecord<RealSync>) == kCacheLineSize);

// The events that the member in one slot has written; the next member of the slot goes on in it.
template <class Sync>
struct EventRing {
  static constexpr uint64_t kRecords = 16;

  EventRecord<Sync> records[kRecords];
};
static_assert(std::is_standard_layout_v<EventRing<RealSync>> &&
              sizeof(EventRing<RealSync>) == 1024);

template <class Sync>
struct alignas(kCacheLineSize) EventLogHeader {
  typename Sync::template Atomic<uint64_t> rings_used;  // no ring from here on was ever written to
};
static_assert(std::is_standard_layout_v<EventLogHeader<RealSync>> &&
              sizeof(EventLogHeader<RealSync>) == kCacheLineSize);

// What happened in a session: one small ring of events for each slot, over bytes that the caller
// supplies and keeps alive. Members write by EventWriter, anybody reads by EventReader; readers
// only load, so their bytes may be mapped read-only. Zeroed bytes are an empty log.
//
// Writing position p, in writer W (the only one of its ring):
//   1. sequence of record p % kRecords := 2p + 1                                       (relaxed)
//   2. the fields                                                                      (release)
//   3. sequence := 2p + 2                                                              (release)
// Reading it, in any reader R:
//   4. R loads the sequence: 2p + 2 (acquire)             pairs with 3: R sees the fields of p
//   5. R copies the fields                                                             (acquire)
//   6. R loads the sequence again: still 2p + 2, so the copy is of p alone. Had R seen a field of a
//      later position, it would by 1 and 2 also see that one's sequence. Something later, here or
//      in 4: overtaken; R goes on with the oldest complete record and counts what it has missed.
// W dies or stops after 1 or 2: the record of p - kRecords is lost, R waits for p and reads other
// rings meanwhile. The next writer of the ring begins with p again. After 3: nothing is left to do.
template <class Sync>
class EventLog {
 public:
  static constexpr uint64_t kRecords = EventRing<Sync>::kRecords;

  static constexpr size_t BytesNeeded() {
    return sizeof(EventLogHeader<Sync>) + kMaxMembers * sizeof(EventRing<Sync>);
  }

  // The end of the ring of `slot`, below kMaxMembers.
  static constexpr size_t EndOf(uint32_t slot) {
    return sizeof(EventLogHeader<Sync>) + (size_t{slot} + 1) * sizeof(EventRing<Sync>);
  }

  // `bytes` must be BytesNeeded() or more, aligned to a cache line.
  explicit EventLog(std::span<std::byte> bytes)
      : header_(reinterpret_cast<EventLogHeader<Sync>*>(bytes.data())),
        rings_(reinterpret_cast<EventRing<Sync>*>(bytes.data() + sizeof(EventLogHeader<Sync>))) {
    HANDOFF_CHECK_GE(bytes.size(), BytesNeeded());
    HANDOFF_CHECK_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % kCacheLineSize, 0u);
  }

 private:
  template <class>
  friend class EventWriter;
  template <class>
  friend class EventReader;

  // No honest position comes near; beyond it the sequence would overflow.
  static constexpr uint64_t kMaxPosition = uint64_t{1} << 62;

  static uint64_t Writing(uint64_t position) { return 2 * position + 1; }
  static uint64_t Complete(uint64_t position) { return 2 * position + 2; }

  // The position that a sequence of the record at place `index` is about, being written or
  // complete. Nothing if it never was, or if no writer has written that.
  static std::optional<uint64_t> PositionOf(uint64_t sequence, uint64_t index) {
    if (sequence == 0) return std::nullopt;
    const uint64_t position = (sequence - 1) / 2;
    if (position % kRecords != index || position > kMaxPosition) return std::nullopt;
    return position;
  }
  static bool IsComplete(uint64_t sequence) { return sequence % 2 == 0; }

  uint32_t RingsUsed() const {
    return static_cast<uint32_t>(
        std::min<uint64_t>(header_->rings_used.load(std::memory_order_acquire), kMaxMembers));
  }

  EventLogHeader<Sync>* header_;
  EventRing<Sync>* rings_;
};

// Writes the events of the member in a slot. One at a time for each slot, and one thread at a time:
// a member with several threads puts a lock around it.
template <class Sync>
class EventWriter {
 public:
  // For a member that has joined, in the slot of its row. Goes on behind what the slot's former
  // members have written.
  EventWriter(const EventLog<Sync>& log, uint32_t slot);

  // Overwrites the oldest event of the ring. Never waits.
  void Append(const Event& event);

 private:
  using Log = EventLog<Sync>;

  EventRing<Sync>* ring_;
  uint64_t next_ = 0;  // position to be written
};

// Reads the events of all members, each once. Any number of readers, which know nothing of each
// other; each by one thread at a time.
template <class Sync>
class EventReader {
 public:
  enum class Start {
    kOldest,  // with what the rings still hold
    kNow,     // with what is written after the reader was made
  };

  EventReader(const EventLog<Sync>& log, Start start);

  // Writes the oldest events not yet read to `out`, and returns how many. Those of one member come
  // in the order in which they were written, and those found by one call in the order of their
  // times. Never waits.
  size_t Read(std::span<Event> out);

  // How many events were overwritten before this reader came to them.
  uint64_t lost() const { return lost_; }

 private:
  using Log = EventLog<Sync>;

  // The next event of a ring, and the cursor behind it. Nothing: the next one is not complete yet.
  std::optional<Event> Next(uint32_t slot);

  // The record of `cursor` has another sequence. Returns the position to go on with: `cursor` if it
  // is not written yet, or the oldest complete one if it was overwritten.
  static uint64_t Resume(const EventRing<Sync>& ring, uint64_t cursor, uint64_t sequence);

  // The oldest complete position not below `from`, and the one behind the newest; the same if there
  // is none.
  struct Range {
    uint64_t oldest;
    uint64_t behind;
  };
  static Range CompleteFrom(const EventRing<Sync>& ring, uint64_t from);

  struct Pending {
    Event event;
    uint32_t slot;

    // Later first, for std::priority_queue.
    friend bool operator<(const Pending& a, const Pending& b) {
      return std::pair(a.event.time_ns, a.slot) > std::pair(b.event.time_ns, b.slot);
    }
  };

  void Fetch(uint32_t slot) {
    const std::optional<Event> event = Next(slot);
    waiting_[slot] = !event.has_value();
    if (event) pending_.push({.event = *event, .slot = slot});
  }

  Log log_;
  std::vector<uint64_t> cursors_;         // by slot: the next position to read
  std::vector<bool> waiting_;             // by slot: none of its events is in `pending_`
  std::priority_queue<Pending> pending_;  // at most one of each slot
  uint64_t lost_ = 0;
};

template <class Sync>
EventWriter<Sync>::EventWriter(const EventLog<Sync>& log, uint32_t slot)
    : ring_(&log.rings_[slot]) {
  HANDOFF_CHECK(slot > 0 && slot < kMaxMembers) << "slot " << slot;
  for (uint64_t i = 0; i < Log::kRecords; ++i) {
    const uint64_t sequence = ring_->records[i].sequence.load(std::memory_order_acquire);
    const std::optional<uint64_t> position = Log::PositionOf(sequence, i);
    // One that was not completed is written once more.
    if (position) next_ = std::max(next_, *position + (Log::IsComplete(sequence) ? 1 : 0));
  }
  internal::RaiseTo(log.header_->rings_used, uint64_t{slot} + 1);
}

template <class Sync>
void EventWriter<Sync>::Append(const Event& event) {
  EventRecord<Sync>& record = ring_->records[next_ % Log::kRecords];
  record.sequence.store(Log::Writing(next_), std::memory_order_relaxed);  // Step 1.
  // Step 2. Release, so that whoever sees one of them sees step 1.
  record.time_ns.store(event.time_ns, std::memory_order_release);
  record.member.store(event.member.Packed(), std::memory_order_release);
  record.arguments[0].store(event.arguments[0], std::memory_order_release);
  record.arguments[1].store(event.arguments[1], std::memory_order_release);
  record.kind.store(static_cast<uint32_t>(event.kind), std::memory_order_release);
  record.sequence.store(Log::Complete(next_), std::memory_order_release);  // Step 3.
  ++next_;
}

template <class Sync>
EventReader<Sync>::EventReader(const EventLog<Sync>& log, Start start)
    : log_(log), cursors_(kMaxMembers), waiting_(kMaxMembers, true) {
  for (uint32_t slot = 1, end = log_.RingsUsed(); slot < end; ++slot) {
    const auto [oldest, behind] = CompleteFrom(log_.rings_[slot], 0);
    cursors_[slot] = start == Start::kOldest ? oldest : behind;
  }
}

template <class Sync>
size_t EventReader<Sync>::Read(std::span<Event> out) {
  for (uint32_t slot = 1, end = log_.RingsUsed(); slot < end; ++slot) {
    if (waiting_[slot]) Fetch(slot);
  }
  size_t count = 0;
  while (count < out.size() && !pending_.empty()) {
    const Pending first = pending_.top();
    pending_.pop();
    out[count++] = first.event;
    Fetch(first.slot);
  }
  return count;
}

template <class Sync>
std::optional<Event> EventReader<Sync>::Next(uint32_t slot) {
  const EventRing<Sync>& ring = log_.rings_[slot];
  uint64_t& cursor = cursors_[slot];
  // As many turns as a writer can overtake us in without a pause; the rest comes with the next
  // call.
  for (uint64_t turn = 0; turn < 2 * Log::kRecords; ++turn) {
    const EventRecord<Sync>& record = ring.records[cursor % Log::kRecords];
    const uint64_t sequence = record.sequence.load(std::memory_order_acquire);  // Step 4.
    if (sequence == Log::Complete(cursor)) {
      // Step 5. Acquire, so that the second look at the sequence comes last.
      Event event;
      event.time_ns = record.time_ns.load(std::memory_order_acquire);
      event.member = MemberId::FromPacked(record.member.load(std::memory_order_acquire));
      event.arguments[0] = record.arguments[0].load(std::memory_order_acquire);
      event.arguments[1] = record.arguments[1].load(std::memory_order_acquire);
      event.kind = static_cast<EventKind>(record.kind.load(std::memory_order_acquire));
      if (record.sequence.load(std::memory_order_relaxed) == sequence) {  // Step 6.
        ++cursor;
        return event;
      }
    } else {
      const uint64_t resumed = Resume(ring, cursor, sequence);
      if (resumed == cursor) return std::nullopt;
      // A ring that has begun anew says nothing of what it held before.
      if (resumed > cursor) lost_ += resumed - cursor;
      cursor = resumed;
    }
  }
  return std::nullopt;
}

template <class Sync>
uint64_t EventReader<Sync>::Resume(const EventRing<Sync>& ring, uint64_t cursor,
                                   uint64_t sequence) {
  const std::optional<uint64_t> found = Log::PositionOf(sequence, cursor % Log::kRecords);
  // Not written yet, or just being written, or no sequence of ours.
  if (!found || *found == cursor || *found + Log::kRecords == cursor) return cursor;
  if (*found < cursor) cursor = 0;  // the ring was garbage, and has begun anew
  const auto [oldest, behind] = CompleteFrom(ring, cursor);
  return oldest == behind ? cursor : oldest;
}

template <class Sync>
auto EventReader<Sync>::CompleteFrom(const EventRing<Sync>& ring, uint64_t from) -> Range {
  Range range = {.oldest = UINT64_MAX, .behind = from};
  for (uint64_t i = 0; i < Log::kRecords; ++i) {
    const uint64_t sequence = ring.records[i].sequence.load(std::memory_order_acquire);
    const std::optional<uint64_t> position = Log::PositionOf(sequence, i);
    if (!position || !Log::IsComplete(sequence) || *position < from) continue;
    range.oldest = std::min(range.oldest, *position);
    range.behind = std::max(range.behind, *position + 1);
  }
  range.oldest = std::min(range.oldest, range.behind);
  return range;
}

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_EVENT_LOG_H_

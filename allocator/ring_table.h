// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_RING_TABLE_H_
#define HANDOFF_ALLOCATOR_RING_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allocator/hold_moves.h"
#include "allocator/part_name.h"
#include "allocator/ring_layout.h"
#include "allocator/ring_reclaim.h"
#include "base/crash_point.h"
#include "base/sync.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"
#include "control_queue/spsc_ring.h"

namespace handoff {

// What the table is made of, in the address space of this process; all outlives it.
struct RingTableParts {
  std::span<std::byte> table;  // kRingTableBytes, the first kRingTableBackedBytes backed
  std::span<std::byte> data;   // kRingDataBytes
  // Back a part of either with memory before it is touched. Null: it is.
  std::function<absl::Status(uint64_t offset_bytes, uint64_t length_bytes)> reserve_table = nullptr;
  std::function<absl::Status(uint64_t offset_bytes, uint64_t length_bytes)> reserve_data = nullptr;
  MemberId self = {};
  MemberTable<RealSync>* members = nullptr;
  // Where not zero, frequent sides fence (base/barrier.h). Null: they need not.
  const std::atomic<uint32_t>* fences = nullptr;
};

// What a socket says about itself where it binds or connects. The table does not look at pattern
// and policy.
struct EndpointOptions {
  std::string name;  // 1 to kMaxEndpointNameBytes bytes
  uint8_t pattern = 0;
  bool bound = false;  // otherwise it connects
  uint8_t policy = 0;
  uint32_t capacity = 1;  // messages, 1 to kMaxRingEntries
  // The endpoint whose door this one's socket sleeps at; none: its own.
  std::optional<EndpointId> door = std::nullopt;
};

struct EndpointInfo {
  EndpointId id;
  MemberId member;
  EndpointOptions options;
};

struct RingInfo {
  uint32_t row = 0;
  RingWord word;
  RingEnds ends;
  EndpointId producer;
  EndpointId consumer;
  uint64_t entries = 0;
};

// For the regular work of a socket that nobody calls.
class RingUser {
 public:
  virtual ~RingUser() = default;
  // By one thread, about every 50 ms.
  virtual void OnTick() = 0;
};

// The endpoints and rings of a session as one member uses them. Any thread; what is said of one
// endpoint or ring is for its owner.
//
// Endpoint, by m:
//   1. the row is backed, `endpoints_used` above it (release)
//   2. free -> making(m), generation + 1 (CAS)   3. member, options, name (release)
//   4. making -> live (CAS)   5. changes + 1     6. wake who sleeps under this name
//   Killed before 2: nothing. 2 to 3: reclaim frees it. After 4: likewise; until then others may
//   open rings to it, whose consumer is dead. 5 or 6 missing: others look around in slices.
// The end of it:
//   a. live -> free (CAS)   b. rings that end here: consumer gone, or drained   c. changes + 1,
//   wake Killed after a: rings of a dead consumer. Stopped there: Tick() of this member.
// Ring, by the member of the producer endpoint:
//   i. the window is backed   ii. SpscRing::Open(), with endpoints and size in the row
//   iii. fence; is the consumer's endpoint still live, and its member? Else both ends gone.
//   iv. changes + 1
//   Killed after ii: reclaim. iii is for a consumer that closes meanwhile: it frees its endpoint,
//   then looks for rings; one of both sees the other. And for one that is reclaimed meanwhile: its
//   row is dead before its reclaimer looks for rings, while its endpoint is freed after that.
class RingTable {
 public:
  // kFailedPrecondition: the bytes are of another layout.
  static absl::StatusOr<std::unique_ptr<RingTable>> Attach(RingTableParts parts);

  MemberId self() const { return parts_.self; }
  MemberTable<RealSync>& members() const { return *parts_.members; }

  // Differs from an earlier value if an endpoint or a ring has changed since (acquire). May miss a
  // change whose author was killed or stopped: look around now and then. Even, whatever is written
  // there: an odd number is none that was seen, nor will be.
  uint64_t changes() const { return ChangesIn(change_count()); }
  static uint64_t ChangesIn(const std::atomic<uint64_t>& count) {
    return count.load(std::memory_order_acquire) << 1;
  }
  const std::atomic<uint64_t>& change_count() const { return layout_->header.changes; }
  void Changed() { layout_->header.changes.fetch_add(1, std::memory_order_acq_rel); }

  // Endpoints.

  // `topics`: what it subscribes to, at most kMaxTopics of at most kMaxTopicBytes bytes each. They
  // are there before anybody can meet the endpoint. kInvalidArgument: an option or a topic.
  // kResourceExhausted: kMaxEndpoints are in use, too many topics, or no memory.
  absl::StatusOr<EndpointId> Add(const EndpointOptions& options,
                                 std::span<const std::string> topics = {});
  // Removes an own endpoint and closes the rings that end there; what is in them is taken back by
  // their senders, or released with `names` (as RingReclaim's) where those have gone.
  template <class Names>
  void Remove(EndpointId endpoint, const Names& names);

  // No row is in use from here on.
  uint32_t endpoints_used() const;
  // A consistent copy of a live endpoint; nothing if the row is not live.
  std::optional<EndpointInfo> Look(uint32_t row) const;
  bool IsLive(EndpointId endpoint) const;
  // Live endpoints of this name.
  std::vector<EndpointInfo> Find(std::string_view name) const;

  // What the endpoint subscribes to; nothing if it is not live.
  std::optional<std::vector<std::string>> TopicsOf(EndpointId endpoint) const;

  // Where the socket of an endpoint sleeps, by what its row says, however wrong.
  Door& DoorOf(uint32_t row) const;
  // Ends the sleep of whoever sleeps there. After a fence of the caller's.
  static void Wake(Door& door) {
    if (__builtin_expect(door.sleeping.load(std::memory_order_acquire) != 0, 0)) WakeSleeper(door);
  }
  void WakeAll(std::string_view name) const;

  // Rings.

  uint32_t rings_used() const;
  // A consistent copy of an open ring; nothing if the row is free or being opened.
  std::optional<RingInfo> LookAtRing(uint32_t row) const;
  SpscRing<RealSync> Ring(uint32_t row, uint64_t entries) const;

  // Opens a ring from an own endpoint to a live one of `consumer_member`; room for at least
  // `capacity` (1 to kMaxRingEntries). kUnavailable: the consumer's endpoint has gone.
  // kResourceExhausted: kMaxRings are in use, or no memory.
  absl::StatusOr<RingInfo> Open(EndpointId producer, const EndpointInfo& consumer,
                                uint32_t capacity, bool take_back_from_living);

  // After a consumer's or producer's end was set gone: somebody else may want to know.
  void RingEndGone(const RingInfo& ring);

  // The producer's end closes; what it has published stays deliverable.
  template <class Names>
  void CloseProducer(const RingInfo& info, const Names& names);

  // Between the store of a frequent side and its look at a door.
  void FrequentFence() const {
    if (__builtin_expect(
            parts_.fences != nullptr && parts_.fences->load(std::memory_order_relaxed) != 0, 0)) {
      RealSync::FullFence();
    } else {
      RealSync::CompilerFence();
    }
  }

  // For all.

  // Steps 2 and 3 of a reclaim: the row of `victim` is dead. Before its words are looked at. By
  // anybody, any number at a time.
  template <class Names>
  void Reclaim(MemberId victim, const Names& names);

  // Regular work, by one thread: closes rings that end at endpoints that this member has not any
  // more, then every user's OnTick().
  template <class Names>
  void Tick(const Names& names);

  void Register(RingUser* user);
  // Returns once no OnTick() of it is under way. Not from within one.
  void Unregister(RingUser* user);

 private:
  explicit RingTable(RingTableParts parts);

  absl::StatusOr<uint32_t> ClaimEndpoint(EndpointWord* word);
  absl::StatusOr<uint32_t> FreeRingRow(uint32_t from);
  absl::Status Reserve(bool table, uint64_t offset_bytes, uint64_t length_bytes) const;
  bool FreeEndpoint(EndpointId endpoint);
  static void WakeSleeper(Door& door);
  bool StillDead(MemberId victim) const {
    return members().Word(victim.slot) == MemberWord{victim.epoch, MemberState::kDead};
  }
  bool FreeEndpointsOf(MemberId victim, std::vector<std::string>* names);
  uint64_t EntriesOf(uint32_t row) const;
  // The consumer's end of a ring of ours that nobody reads any more.
  template <class Names>
  void CloseConsumer(const RingInfo& info, const Names& names);
  template <class Names>
  void CloseUnread(const Names& names) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RingTableParts parts_;
  RingTableLayout* const layout_;

  // Guards the ends of rings whose endpoint has gone: a ring is drained by one thread only.
  absl::Mutex mutex_;
  absl::Mutex users_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  std::vector<RingUser*> users_ ABSL_GUARDED_BY(users_mutex_);
  uint64_t tick_changes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t quiet_ticks_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Implementation from here on.

template <class Names>
void RingTable::Remove(EndpointId endpoint, const Names& names) {
  const std::optional<EndpointInfo> info = Look(endpoint.row);
  {
    absl::MutexLock lock(&mutex_);
    if (!FreeEndpoint(endpoint)) return;  // a
    HANDOFF_CRASH_POINT("ring_table.remove.after_free");
    RealSync::FullFence();
    CloseUnread(names);  // b
  }
  Changed();  // c
  HANDOFF_CRASH_POINT("ring_table.remove.after_changed");
  if (info.has_value()) WakeAll(info->options.name);
}

template <class Names>
void RingTable::CloseUnread(const Names& names) {
  for (uint32_t row = 0, end = rings_used(); row < end; ++row) {
    const std::optional<RingInfo> info = LookAtRing(row);
    if (info.has_value() && info->ends.consumer == self() && !info->word.consumer_gone() &&
        !IsLive(info->consumer)) {
      CloseConsumer(*info, names);
    }
  }
}

template <class Names>
void RingTable::CloseConsumer(const RingInfo& info, const Names& names) {
  SpscRing<RealSync> ring = Ring(info.row, info.entries);
  RingReclaim<RealSync, Names>(members(), names).CloseConsumer(ring, info.word, self());
  HANDOFF_CRASH_POINT("ring_table.after_consumer_gone");
  RingEndGone(info);
}

template <class Names>
void RingTable::CloseProducer(const RingInfo& info, const Names& names) {
  SpscRing<RealSync> ring = Ring(info.row, info.entries);
  RingReclaim<RealSync, Names>(members(), names).CloseProducer(ring, self());
  RingEndGone(info);
}

template <class Names>
void RingTable::Reclaim(MemberId victim, const Names& names) {
  const RingReclaim<RealSync, Names> reclaim(members(), names);
  bool changed = false;
  for (uint32_t row = 0, end = rings_used(); row < end; ++row) {
    SpscRing<RealSync> ring = Ring(row, EntriesOf(row));
    const uint32_t producer =
        EndpointId::FromPacked(layout_->rings[row].producer.load(std::memory_order_acquire)).row;
    const uint32_t consumer =
        EndpointId::FromPacked(layout_->rings[row].consumer.load(std::memory_order_acquire)).row;
    if (!reclaim.Ring(ring, victim)) continue;
    HANDOFF_CRASH_POINT("ring_table.reclaim.after_ring");
    changed = true;
    Changed();
    Wake(DoorOf(producer));
    Wake(DoorOf(consumer));
  }
  std::vector<std::string> freed;
  if (FreeEndpointsOf(victim, &freed)) changed = true;
  HANDOFF_CRASH_POINT("ring_table.reclaim.after_endpoints");
  if (changed) Changed();
  for (const std::string& name : freed) WakeAll(name);
}

template <class Names>
void RingTable::Tick(const Names& names) {
  // Also without a change, now and then: its author may have been killed before it was counted.
  constexpr uint32_t kQuietTicks = 20;
  absl::MutexLock users_lock(&users_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t now = changes();
    if (now != tick_changes_ || ++quiet_ticks_ >= kQuietTicks) {
      tick_changes_ = now;
      quiet_ticks_ = 0;
      CloseUnread(names);
    }
  }
  for (RingUser* user : users_) user->OnTick();
}

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_RING_TABLE_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_CHANNEL_TABLE_H_
#define HANDOFF_ALLOCATOR_CHANNEL_TABLE_H_

#include <algorithm>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <span>
#include <type_traits>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cache_line.h"
#include "base/sync.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff {

// Channels are what posted holds name: 12 bits. 0 is none.
inline constexpr uint32_t kMaxChannels = 4096;

enum class ChannelState : uint32_t {
  kFree = 0,       // nobody posts on it, and no hold names it
  kOpen = 1,       // its owner posts on it, and watches the connections to its receivers
  kClosed = 2,     // closed in order: what was posted is under way to living receivers
  kAged = 3,       // a receiver or the owner has ended since: freed when memory runs out
  kAbandoned = 4,  // and no receiver is left: freed at the next occasion
};

// The word of a channel, `generation 19 | epoch 32 | slot 10 | state 3`. The owner is a member. The
// generation moves on when the channel becomes free.
struct ChannelWord {
  uint64_t raw = 0;

  constexpr ChannelState state() const { return static_cast<ChannelState>(raw & 7); }
  constexpr MemberId owner() const {
    return {static_cast<uint32_t>(raw >> 3) & (kMaxMembers - 1), static_cast<uint32_t>(raw >> 13)};
  }
  constexpr uint64_t generation() const { return raw >> 45; }

  constexpr ChannelWord Opened(MemberId owner) const {
    return Of(generation(), owner, ChannelState::kOpen);
  }
  constexpr ChannelWord In(ChannelState state) const { return Of(generation(), owner(), state); }
  constexpr ChannelWord Freed() const { return Of(generation() + 1, {}, ChannelState::kFree); }

  friend constexpr bool operator==(ChannelWord, ChannelWord) = default;

 private:
  static constexpr ChannelWord Of(uint64_t generation, MemberId owner, ChannelState state) {
    return {generation << 45 | uint64_t{owner.epoch} << 13 |
            uint64_t{owner.slot & (kMaxMembers - 1)} << 3 | static_cast<uint64_t>(state)};
  }
};
static_assert(kMaxMembers == 1 << 10);

struct ChannelTableLayout {
  std::atomic<uint32_t> rows_used;       // no row from here on was ever used; never falls
  std::atomic<uint64_t> swept_messages;  // for people

  // Of each slot, epoch + 1 of a member that receives what is posted; otherwise 0.
  alignas(kCacheLineSize) std::atomic<uint64_t> receivers[kMaxMembers];
  alignas(kCacheLineSize) std::atomic<uint64_t> words[kMaxChannels];
};
static_assert(std::is_standard_layout_v<ChannelTableLayout>);

// One channel for the time that it is open.
struct Channel {
  uint32_t id = 0;
  ChannelWord word;  // as it was opened
};

// Which posted holds still have somebody to take them. A hold posted(x -> c) does not say who will
// take it; so each sending socket posts on a channel of its own, and takes another channel whenever
// a receiver of it has ended. What was posted on the former one may be on its way to the living, or
// be lost with the dead: it stays deliverable until memory runs out.
//
// Owner x of a channel, under its socket's lock, so that it posts nothing meanwhile:
//   1. free -> open(x)                                                        (CAS)
//   2. posts: held(x) -> posted(x -> c)                                       (HoldMoves::Post)
//   3. a connection has ended: 1 for another channel, then open(x) -> aged    (CAS)
//   4. and no connection is left, aged -> abandoned; or in the end, open -> closed, or as 3 (CAS)
// Member r that receives:
//   5. receivers[r] := its epoch + 1, before its first socket is connected    (release)
//   6. its last such socket is closed: receivers[r] := 0, then every closed -> aged; no receiver in
//      the whole session: every closed, aged -> abandoned                     (CAS)
//   6b. one of its connections has ended, and nothing is left in its queue: every closed -> aged,
//      because ZeroMQ loses what its queue had no room for when a sender went (CAS)
// Reclaim of v, by anybody, any number of times:
//   7. every open(v) -> aged    8. v was a receiver: as 6                     (CAS)
// Sweep, by anybody: when memory runs out, and by the owner after 4:
//   9. note the words of all channels that are aged or abandoned
//  10. each posted hold: load it, *then* the word of its channel: abandoned, or aged and memory is
//      short? Then CAS hold -> free.
//  11. a channel noted in 9 that no hold named in 10: as noted -> free, generation + 1   (CAS)
//
// Why 10 is right whoever sweeps, however late: a hold's value never comes back, and it was loaded
// while its channel was, or had not yet been, the one whose word was seen after; a channel becomes
// free only when no hold names it. Why 11 is right: nobody posts on a channel after 3, so what the
// pass did not see is not there.
// Killed after 1: reclaim does 7. After 2: the hold becomes one of nobody, and is delivered, or
// swept after 7. Between the two of 3: both channels are open, 7. In 6, 8 or between 9 and 11: the
// next one does the rest, or the next sweep; a receiver that was killed is in receivers[] until 8
// has ended. A channel noted and not freed stays as it is.
class ChannelTable {
 public:
  static constexpr uint64_t BytesNeeded() { return sizeof(ChannelTableLayout); }

  // `bytes` are BytesNeeded() or more, aligned to a cache line, zeros at first.
  ChannelTable(std::span<std::byte> bytes, MemberId self, const MemberTable<RealSync>& members)
      : layout_(*reinterpret_cast<ChannelTableLayout*>(bytes.data())),
        self_(self),
        members_(members) {}
  ChannelTable(const ChannelTable&) = delete;
  ChannelTable& operator=(const ChannelTable&) = delete;

  // Step 1. kResourceExhausted: all are in use; a sweep may bring some back.
  absl::StatusOr<Channel> Open();
  // Steps 3 and 4, by the owner: open or aged -> `state`. False: it is not his any more.
  bool Move(const Channel& channel, ChannelState state);

  // Steps 5 and 6, for each receiving socket of this process.
  void AddReceiver();
  void RemoveReceiver();
  // Step 6b.
  void AgeClosed();

  // Steps 7 and 8; the row of `victim` is dead.
  void Reclaim(MemberId victim);

  // Step 9 and 11 around a pass over all holds, which says MayFree() and Seen() for each.
  class Pass {
   public:
    // True if there is anything to look for.
    bool worthwhile() const { return worthwhile_; }
    // Step 10 for a hold loaded before the call.
    bool MayFree(uint32_t channel) const;
    // It names the channel still.
    void Seen(uint32_t channel) { seen_.set(channel); }
    void Freed() { ++freed_; }
    uint64_t freed() const { return freed_; }

   private:
    friend class ChannelTable;
    const ChannelTable* table_ = nullptr;
    bool memory_is_short_ = false;
    bool worthwhile_ = false;
    uint64_t freed_ = 0;
    std::bitset<kMaxChannels> noted_;
    std::bitset<kMaxChannels> seen_;
    uint64_t words_[kMaxChannels];
  };
  // Whether a pass is due though memory is not short: a channel is abandoned, or most are aged.
  bool PassIsDue() const;
  void Begin(bool memory_is_short, Pass* pass) const;
  // `complete`: every hold of the session was looked at.
  void End(const Pass& pass, bool complete);

  ChannelWord Load(uint32_t id) const {
    return {layout_.words[id].load(std::memory_order_acquire)};
  }
  uint32_t rows_used() const {
    return std::min(layout_.rows_used.load(std::memory_order_acquire), kMaxChannels);
  }
  // Messages that were freed because nobody was left to take them, or might not be.
  uint64_t swept_messages() const { return layout_.swept_messages.load(std::memory_order_relaxed); }

 private:
  bool Swap(uint32_t id, ChannelWord seen, ChannelWord next);
  void AbandonIfNobodyReceives();

  ChannelTableLayout& layout_;
  const MemberId self_;
  const MemberTable<RealSync>& members_;
  absl::Mutex mutex_;
  uint32_t receiving_sockets_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_CHANNEL_TABLE_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_RING_RECEIVER_H_
#define HANDOFF_TRANSPORT_RING_RECEIVER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "allocator/hold.h"
#include "allocator/member.h"
#include "allocator/part_name.h"
#include "allocator/ring_layout.h"
#include "allocator/ring_table.h"
#include "allocator/segment.h"
#include "base/counter.h"
#include "base/crash_point.h"
#include "control_queue/spsc_ring.h"
#include "transport/message.h"
#include "transport/parcel.h"
#include "transport/ring_sender.h"

namespace handoff::internal {

// The receiving half of a socket: the rings that end at its endpoints, taken from in turn. One
// caller at a time.
//
// Receiving from a ring:
//   1. peek: is the entry at head published?   2. accept: sent -> held   3. head + 1
//   4. now and then, and before waiting: fence, look at the sender's door, wake
// Killed after 2: the block is freed with the words of this member; the entry is stale for whoever
// looks. A ring whose sender has gone ends when it is empty.
class RingReceiver {
 public:
  explicit RingReceiver(Member& member)
      : member_(member), table_(member.rings()), changes_(table_.change_count()) {}

  enum class [[nodiscard]] Result{
      kReceived,
      kNothing,
  };

  struct Arrival {
    PartName name;
    EndpointId from;
    uint64_t number = 0;  // how many of this sender's entries have come, with this one
  };

  // The shortest way for a block, into an empty *message: from the source whose turn it is, if it
  // has one ready and there is nothing to be looked after first. False: nothing was changed,
  // Receive() does it.
  [[gnu::always_inline]] bool ReceiveBlock(Message* message) {
    if (__builtin_expect(RingTable::ChangesIn(changes_) != quick_changes_, 0)) return false;
    Source& source = *turn_;
    RingBody body;
    if (source.consumer.PeekOwn(PartName::kKindMask, PartName::KindTag(PartKind::kBlock), &body) !=
        RingLook::kReady) {  // 1
      return false;
    }
    const PartName name = PartName::FromPacked({body.word, body.tag});
    if (__builtin_expect(name.used_bytes == 0, 0)) return false;
    Segment* const segment = member_.MappedSegmentAt(name.segment);
    if (__builtin_expect(segment == nullptr, 0)) return false;
    if (__builtin_expect(!MessageAccess::AcceptInto(message, *segment, source.sent, name),
                         0)) {  // 2
      return false;
    }
    HANDOFF_CRASH_POINT("ring.receive.after_accept");
    turn_ = source.after;
    source.consumer.AdvanceOwn();  // 3
    HANDOFF_CRASH_POINT("ring.receive.after_advance");
    source.quick_messages.Add(1);
    source.quick_bytes.Add(name.used_bytes);
    if (__builtin_expect(source.consumer.index() >= source.chores_at, 0)) DoChores(source);
    return true;
  }

  // The next message into an empty *message; of many parts into *parts, where *message stays empty
  // and `arrival->name.kind` is kBundle. What makes no sense is dropped and counted on the way.
  Result Receive(const std::vector<EndpointId>& own, Message* message, std::vector<Message>* parts,
                 Arrival* arrival);

  // An endpoint of the socket, for Statistics().
  void AddOwn(EndpointId own) {
    absl::MutexLock lock(&sources_mutex_);
    own_.push_back(own);
  }

  // Whether the next calls of ReceiveBlock() may find something; not before this is said.
  void AllowQuickly(bool wanted) {
    const bool may = wanted && !sources_.empty() && !some_ended_ && all_own_;
    quick_changes_ = may ? seen_changes_ : ~uint64_t{0};
  }

  // Finds rings that were opened to the endpoints, and those whose sender has gone.
  void Refresh(const std::vector<EndpointId>& own);
  // The same at the next call, change or not.
  void RefreshSoon() { seen_changes_ = quick_changes_ = ~uint64_t{0}; }

  // Wakes senders that wait for room which was made since they were last looked at.
  void WakeSenders();

  // Whether an entry is there.
  bool HasSome(const std::vector<EndpointId>& own);
  // The same by any thread, for the rings that are known.
  bool SeemsToHaveSome() const;

  // Forgets all rings; they are closed with their endpoints.
  void Close();

  size_t peer_count() const { return sources_.size(); }

  // Any thread.
  std::vector<RingPeerStatistics> Statistics() const;
  RingTotals received_quickly() const;

  enum class Fault { kStale, kBad, kCorrupt };
  // Called for every entry that is dropped.
  void set_on_fault(std::function<void(Fault, MemberId)> on_fault) {
    on_fault_ = std::move(on_fault);
  }

 private:
  struct Source {
    Source(const RingInfo& found, const SpscRing<RealSync>& ring, Door& sleeps_at)
        : consumer(ring),
          sent(HoldWord::Of(HoldState::kSent, 0, found.ends.producer.slot,
                            found.ends.consumer.slot)),
          wake_after(wake_batch(found.entries)),
          looked_after(consumer.index()),
          info(found),
          door(&sleeps_at) {}

    // A sender that waits for room is woken when there is some, not for each entry.
    static uint64_t wake_batch(uint64_t entries) { return entries < 8 ? 1 : entries / 4; }

    // What every message touches, first.
    RingConsumer<RealSync> consumer;
    Source* after = nullptr;  // whose turn is next, round and round
    const HoldWord sent;      // from its sender to this member, of generation 0
    const uint64_t wake_after;
    uint64_t chores_at = 0;  // the index of an entry
    uint64_t looked_after;   // the index when the sender was looked at
    Counter quick_messages;  // by ReceiveBlock()
    Counter quick_bytes;
    Counter other_entries;  // with those that made no sense
    Counter other_bytes;
    uint64_t advanced() const { return consumer.index() - looked_after; }
    const RingInfo info;
    Door* const door;
    Counter dropped;
    bool producer_gone = false;
    bool ended = false;
  };

  Result TakeFromSource(Source& source, Message* message, std::vector<Message>* parts,
                        Arrival* arrival);
  bool Take(Source& source, const PartName& name, Message* message, std::vector<Message>* parts);
  void Advance(Source& source) {
    source.consumer.Advance();  // 3
    HANDOFF_CRASH_POINT("ring.receive.after_advance");
    source.other_entries.Add(1);
    if (__builtin_expect(source.consumer.index() >= source.chores_at, 0)) DoChores(source);
  }
  // Every so many entries: looks at the sender, and fetches the holds of what comes next. They are
  // in the sender's cache. Fetching several of them at once, ahead of their accept, hides the way
  // here.
  [[gnu::noinline]] void DoChores(Source& source);
  void Wake(Source& source);
  // After a look that found nothing: the ring ends if there will be nothing any more.
  void EndIfOver(Source& source, RingLook look);
  void End(Source& source);
  void RemoveEnded();
  void RememberTotals(const Source& source) {
    gone_messages_.Add(source.quick_messages.value());
    gone_bytes_.Add(source.quick_bytes.value());
  }
  // Who comes after whom; `turn_` is one of them or is to be the first one.
  void LinkSources();
  // Messages that wait in a ring, about now. Any thread.
  uint64_t WaitingIn(const RingInfo& info) const;

  Member& member_;
  RingTable& table_;
  const std::atomic<uint64_t>& changes_;  // those of the table
  uint64_t seen_changes_ = ~uint64_t{0};
  // What the table must say for ReceiveBlock(); nothing does where it may not be.
  uint64_t quick_changes_ = ~uint64_t{0};
  Source* turn_ = nullptr;  // null: there are none
  bool some_ended_ = false;
  bool all_own_ = true;  // no sender takes entries back while this side lives
  std::function<void(Fault, MemberId)> on_fault_;

  Counter gone_messages_;  // quickly received from sources that are no more
  Counter gone_bytes_;

  mutable absl::Mutex sources_mutex_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<EndpointId> own_ ABSL_GUARDED_BY(sources_mutex_);
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_RING_RECEIVER_H_

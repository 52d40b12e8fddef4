// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_RING_SENDER_H_
#define HANDOFF_TRANSPORT_RING_SENDER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "allocator/block.h"
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
#include "transport/socket_options.h"

namespace handoff::internal {

// One end of a ring, for people.
struct RingPeerStatistics {
  EndpointId peer;
  MemberId member;
  uint64_t messages = 0;
  uint64_t bytes = 0;
  uint64_t depth = 0;    // messages in the ring
  uint64_t dropped = 0;  // by policy
  bool gone = false;     // the peer; this side has not got to it yet
};

// What an entry says instead of a reply that will never come.
inline Parcel NoReply() {
  Parcel parcel;
  parcel.name.row = 1;
  return parcel;
}
inline bool IsNoReply(const PartName& name) {
  return name.kind == PartKind::kEmpty && name.row == NoReply().name.row;
}

// What went by the shortest way, in all.
struct RingTotals {
  uint64_t messages = 0;
  uint64_t bytes = 0;
};

// The sending half of a socket: its rings to all receivers that it has, and which message goes
// where. One caller at a time.
//
// Sending parcel p to receiver r:
//   1. room in the ring?   2. mark: held(x) -> sent(x -> r)   3. publish   4. fence, look at r's
//   door, wake
// Killed after 2: nobody has its name, freed with the words of x. After 3: delivered. After 3 and
// before 4: r wakes at the end of its slice.
// What a receiver had not taken when it died or closed is taken back, oldest first, and goes to the
// others before anything new; it is released if it was for that receiver only, or a request that
// nobody awaits the reply of any more.
class RingSender {
 public:
  // What a socket looks for. Own endpoints are those of the socket.
  struct Own {
    EndpointId id;
    EndpointOptions options;
  };
  struct Options {
    uint8_t receiver_pattern = 0;  // of the endpoints to send to
    bool deals = false;            // each message to whose turn it is: SendBlock() is for those
    bool exclusive = false;        // PAIR: to one only
    bool publishes = false;        // to all whose topics match
    bool requests = false;         // who has it replies; only the reply to the last is awaited
    bool replies = false;          // to who has asked only
  };

  RingSender(Member& member, const Options& options);

  enum class [[nodiscard]] Result{
      kSent,
      kNoRoom,  // at nobody that could take it; nothing was changed
  };

  // The shortest way for a block of this member that is not shared: to the next receiver, if it has
  // room and there is nothing to be looked after first. False: nothing was changed, Send() does it
  // or tells why not. Not for those who publish.
  [[gnu::always_inline]] bool SendBlock(Message& message) {
    if (__builtin_expect(RingTable::ChangesIn(changes_) != quick_changes_, 0)) return false;
    Peer& peer = *turn_;
    if (__builtin_expect(!peer.KnownToHaveRoom(), 0) && peer.Look() != RingLook::kReady) {  // 1
      return false;
    }
    turn_ = peer.after;
    Segment& segment = MessageAccess::segment(message);
    const Block& block = MessageAccess::block(message);
    const HoldWord sent = segment.Mark(block, peer.receiver);  // 2
    HANDOFF_CRASH_POINT("ring.send.after_mark");
    const PartName::Words words =
        PartName::PackedBlock(segment.row(), block.id, sent, message.size());
    peer.producer.Publish({words.word, words.tag});  // 3
    HANDOFF_CRASH_POINT("ring.send.after_publish");
    if (peer.producer.begins_line()) peer.PrefetchAhead();
    table_.FrequentFence();
    RingTable::Wake(*peer.door);  // 4
    peer.quick_messages.Add(1);
    peer.quick_bytes.Add(message.size());
    MessageAccess::Forget(message);
    return true;
  }

  // To the next receiver that has room; published, to all that want it. Empties the message if
  // sent.
  Result Send(const std::vector<Own>& own, Message& message);
  // The same with many parts as one message.
  Result SendParts(const std::vector<Own>& own, std::span<Message> parts);

  // The reply to request `number` of the receiver at one endpoint: kSent also if it is there no
  // more, and the parcel released. Requests before it that got none are answered by NoReply(), so
  // that the number of a reply says what it answers.
  Result Reply(const std::vector<Own>& own, EndpointId to, uint64_t number, const Parcel& parcel);
  // Whether the last parcel sent was number `number` to the receiver at this endpoint, which may
  // have gone since. Not for SendBlock().
  bool LastWas(EndpointId to, uint64_t number) const {
    return last_receiver_ == to && last_number_ == number;
  }

  // Opens rings to receivers that have come, takes back what those that went have left, sends it
  // on.
  void Refresh(const std::vector<Own>& own);
  // The same if something has changed; for the regular work.
  void RefreshIfChanged(const std::vector<Own>& own) {
    if (table_.changes() != seen_changes_ || !returned_.empty()) Refresh(own);
  }

  // Ends all rings. What was sent stays deliverable; what was taken back is released.
  void Close();

  // Whether the next message would go without waiting, whatever it is; to one receiver.
  bool HasRoom(const std::vector<Own>& own);
  bool HasRoomAt(const std::vector<Own>& own, EndpointId to);
  // Any thread.
  size_t peer_count() const {
    absl::MutexLock lock(&peers_mutex_);
    return peers_.size();
  }

  // Any thread.
  std::vector<RingPeerStatistics> Statistics() const;
  uint64_t dropped() const { return dropped_.value(); }
  RingTotals sent_quickly() const;
  uint64_t corrupt() const { return corrupt_.value(); }

  // Called when a peer turns out to write nonsense, once for each.
  void set_on_corrupt(std::function<void(const EndpointInfo&)> on_corrupt) {
    on_corrupt_ = std::move(on_corrupt);
  }

 private:
  struct Peer {
    Peer(const EndpointInfo& peer, const RingInfo& opened, const SpscRing<RealSync>& ring,
         Door& sleeps_at, uint32_t capacity)
        : producer(ring),
          door(&sleeps_at),
          receiver(peer.member.slot),
          room_for(opened.entries - capacity + 1),
          info(peer),
          ring_info(opened) {}

    // Before the ring's cursor is looked at again.
    bool KnownToHaveRoom() const { return producer.published() < room_until; }
    RingLook Look() {
      const RingLook look = producer.HasRoom(room_for);
      room_until = producer.RoomUntil(room_for);
      return look;
    }

    // The line of the ring that is written next but some is in the receiver's cache.
    void PrefetchAhead() const {
      constexpr uint64_t kAhead = 16;
      if (producer.published() + kAhead < room_until) producer.PrefetchAhead(kAhead);
    }

    // What every message touches, first.
    RingProducer<RealSync> producer;
    uint64_t room_until = 0;  // index of an entry: those before it have room
    Peer* after = nullptr;    // whose turn is next, round and round
    Door* const door;
    const uint32_t receiver;
    bool corrupt = false;
    // Asking for so many entries leaves `capacity` messages at most.
    const uint64_t room_for;
    // By SendBlock(); all others.
    Counter quick_messages;
    Counter quick_bytes;
    Counter other_bytes;
    Counter dropped;
    const EndpointInfo info;
    const RingInfo ring_info;
    std::vector<std::string> topics;
  };

  // After a change of what SendBlock() relies on.
  void AllowQuickly() {
    const bool may = options_.deals && !peers_.empty() && returned_.empty();
    quick_changes_ = may ? seen_changes_ : ~uint64_t{0};
  }
  void LookAroundSoon() { seen_changes_ = quick_changes_ = ~uint64_t{0}; }
  void AddPeer(std::unique_ptr<Peer> peer);
  void RemovePeer(size_t index);

  // All that can hold a message back.
  bool Prepare(const std::vector<Own>& own);
  Peer* NextWithRoom();
  void Publish(Peer& peer, const Parcel& parcel, uint64_t size_bytes);
  bool ResendReturned();
  bool IsPeer(const EndpointInfo& info) const;
  bool MayOpen(const Own& own, const EndpointInfo& info) const;
  void OpenTo(const Own& own, const EndpointInfo& info);
  void OpenRings(const std::vector<Own>& own);
  bool DropPeerIfGone(Peer& peer);
  void TakeBackAll(Peer& peer);
  // The peers that a message with these first bytes goes to. False: one has no room and is to be
  // waited for.
  bool FindTargets(const Message& first);
  bool MakeRoom(Peer& peer);
  bool ShareAmong(Message& message, size_t count, std::vector<Parcel>* references);

  Member& member_;
  RingTable& table_;
  const std::atomic<uint64_t>& changes_;  // those of the table
  const Options options_;
  uint64_t seen_changes_ = ~uint64_t{0};
  // What the table must say for SendBlock(); nothing does where it is not for this socket or not
  // now.
  uint64_t quick_changes_ = ~uint64_t{0};
  Peer* turn_ = nullptr;  // null: there are none
  std::deque<Parcel> returned_;
  EndpointId last_receiver_;  // and how many it had got with the last parcel sent
  uint64_t last_number_ = 0;
  std::vector<Peer*> targets_;
  std::vector<Parcel> references_;
  std::vector<EndpointId> refused_;
  std::function<void(const EndpointInfo&)> on_corrupt_;
  Counter dropped_;
  Counter corrupt_;
  Counter gone_messages_;  // quickly sent to peers that are no more
  Counter gone_bytes_;

  // The vector is changed under the lock, so that other threads can look at it.
  mutable absl::Mutex peers_mutex_;
  std::vector<std::unique_ptr<Peer>> peers_;
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_RING_SENDER_H_

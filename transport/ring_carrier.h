// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_RING_CARRIER_H_
#define HANDOFF_TRANSPORT_RING_CARRIER_H_

#include <atomic>
#include <climits>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/member.h"
#include "allocator/ring_layout.h"
#include "allocator/ring_table.h"
#include "base/biased_lock.h"
#include "base/clock.h"
#include "base/futex.h"
#include "base/sync.h"
#include "transport/carrier.h"
#include "transport/door_watch.h"
#include "transport/parcel.h"
#include "transport/ring_receiver.h"
#include "transport/ring_sender.h"
#include "transport/socket_counters.h"

namespace handoff::internal {

// The carrier of ring://name: handles go through rings in shared memory, one for each pair of
// sockets. A name is 1 to kMaxEndpointNameBytes bytes; one socket binds it, any number connects, in
// any order.
//
// What it says of names and peers is in ring_carrier_names.cc, what could be done without waiting
// and who is told of changes in ring_carrier_readiness.cc, the way of messages in ring_carrier.cc.
class RingCarrier final : public Carrier, public RingUser {
 public:
  explicit RingCarrier(const CarrierContext& context);
  ~RingCarrier() override { Close(); }

  absl::Status Bind(const Address& address) override { return Attach(address, true); }
  absl::Status Connect(const Address& address) override { return Attach(address, false); }
  std::string LastEndpoint() const override { return last_endpoint_; }

  SocketResult TrySend(Message& message) override {
    return __builtin_expect(SendBlock(message), 1) ? SocketResult::kOk : TrySendOther(message);
  }
  SocketResult Send(Message& message, const Deadline& deadline) override {
    return __builtin_expect(SendBlock(message), 1) ? SocketResult::kOk
                                                   : SendOther(message, deadline);
  }
  SocketResult TryReceive(Message& message) override {
    return __builtin_expect(receiver_.ReceiveBlock(&message), 1) ? SocketResult::kOk
                                                                 : TryReceiveOther(message);
  }
  SocketResult Receive(Message& message, const Deadline& deadline) override {
    return __builtin_expect(receiver_.ReceiveBlock(&message), 1) ? SocketResult::kOk
                                                                 : ReceiveOther(message, deadline);
  }

  SocketResult SendParts(std::span<Message> parts, const Deadline* deadline) override;
  SocketResult ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) override;

  void Wake() noexcept override {
    Door* const door = door_.load(std::memory_order_acquire);
    if (door == nullptr) return;
    if (door->sleeping.exchange(0, std::memory_order_seq_cst) != 0) {
      FutexWake(door->sleeping, INT_MAX);
    }
  }

  bool HasParts() const override { return !parts_.empty(); }
  Readiness Look() override;
  absl::StatusOr<int> Descriptor() override;
  void PrepareDescriptor(bool prepares) override { arms_ = prepares; }
  uint32_t PeerCount() const override { return static_cast<uint32_t>(sender_.peer_count()); }
  Door* SleepsAt() override {
    return watched_ == nullptr ? door_.load(std::memory_order_relaxed) : nullptr;
  }

  void Close() override;
  SocketStatistics Statistics() const override;

  void OnTick() override;

 private:
  absl::Status Attach(const Address& address, bool bound);
  absl::Status AddEndpoint(const Address& address, const EndpointOptions& options);
  absl::Status CheckPeers(const Address& address, const EndpointOptions& options);
  std::string Describe(MemberId member) const;
  void Dropped(RingReceiver::Fault fault, MemberId from);

  bool IsOurs(const Message& message) { return IsOf(member_, message); }

  // The way of nearly all messages, as is RingReceiver::ReceiveBlock(). False: nothing was done,
  // the next attempt is one of those below.
  [[gnu::always_inline]] bool SendBlock(Message& message) {
    if (__builtin_expect(!IsOwnBlock(member_, message), 0) || !lock_.OwnerTryLock()) return false;
    const bool sent = sender_.SendBlock(message);
    lock_.OwnerUnlockQuickly();
    return sent;
  }
  [[gnu::noinline]] SocketResult TrySendOther(Message& message);
  [[gnu::noinline]] SocketResult SendOther(Message& message, const Deadline& deadline);
  [[gnu::noinline]] SocketResult TryReceiveOther(Message& message);
  [[gnu::noinline]] SocketResult ReceiveOther(Message& message, const Deadline& deadline);

  // One attempt each; true if it succeeded.
  bool SendOnce(Message& message);
  bool SendReply(Message& message);
  bool ReplyWith(const Parcel& parcel);  // to asker_, which there is
  bool SendPartsOnce(std::span<Message> parts);
  bool ReplyParts(std::span<Message> parts);
  bool ReceiveOnce(Message& message);
  bool ReceiveAny(Message& message);
  bool IsAwaited(const RingReceiver::Arrival& arrival);

  // Before an attempt of a try-variant that is the last: news make the descriptor readable from
  // here on, and the tick looks for what is awaited. False: there is none, or they did before.
  bool ArmToSend();
  bool ArmToReceive();
  bool ArmDescriptor();
  Readiness LookOnce();

  // After a first attempt that failed.
  template <class Quick, class Attempt>
  SocketResult WaitFor(const Deadline& deadline, Quick quick, Attempt attempt);
  template <class Quick, class Attempt>
  SocketResult WaitToSend(const Deadline& deadline, Quick quick, Attempt attempt);
  // Tries some more before anything is done that takes time, unless the socket is not to spin: a
  // peer that is awake as well mostly needs less than a microsecond.
  template <class Quick>
  bool TryAgain(Quick quick) const {
    constexpr int kTurns = 32;
    if (spin_ns_ == 0) return false;
    for (int i = 0; i < kTurns; ++i) {
      RealSync::Pause();
      if (quick()) return true;
    }
    return false;
  }

  const CarrierContext context_;
  Member& member_;
  RingTable& table_;
  const bool sends_;
  const bool receives_;

  // Guards the sender and the list of endpoints: this socket's thread against the tick.
  BiasedLock lock_;
  RingSender sender_;
  std::vector<RingSender::Own> own_;

  RingReceiver receiver_;
  std::vector<EndpointId> own_ids_;
  std::vector<Message> parts_;  // of a message of many parts that is received one by one, reversed

  // REP: who has asked and waits for the reply, and the number of its request.
  struct Asker {
    EndpointId id;
    uint64_t number;
  };
  std::optional<Asker> asker_;
  // REQ: a request is under way.
  bool asked_ = false;

  // Whether a message of one block needs no more than its ring.
  const bool sends_blocks_;
  const bool receives_blocks_;

  const int64_t spin_ns_;
  std::atomic<Door*> door_{nullptr};

  // For Descriptor(). What was missing when it was armed is looked for by the tick as well, under
  // `lock_`, in case that who wakes was killed.
  std::unique_ptr<WatchedDoor> watched_;
  bool arms_ = true;  // PrepareDescriptor()
  std::atomic<bool> awaits_message_{false};
  std::atomic<bool> awaits_room_{false};
  std::atomic<uint64_t> armed_changes_{0};

  std::string last_endpoint_;
  bool closed_ = false;
  SocketCounters counters_;
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_RING_CARRIER_H_

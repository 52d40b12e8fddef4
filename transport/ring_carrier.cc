// SPDX-License-Identifier: Apache-2.0
#include "transport/ring_carrier.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "allocator/member.h"
#include "allocator/ring_layout.h"
#include "allocator/ring_table.h"
#include "base/biased_lock.h"
#include "base/fork_guard.h"
#include "base/futex.h"
#include "base/sync.h"
#include "transport/door_watch.h"
#include "transport/member_text.h"
#include "transport/parcel.h"
#include "transport/ring_receiver.h"
#include "transport/ring_sender.h"
#include "transport/ring_wait.h"
#include "transport/socket_counters.h"

namespace handoff::internal {

namespace {

// Which pattern a socket meets.
Pattern Counterpart(Pattern pattern) {
  switch (pattern) {
    case Pattern::kPush:
      return Pattern::kPull;
    case Pattern::kPull:
      return Pattern::kPush;
    case Pattern::kPair:
      return Pattern::kPair;
    case Pattern::kRequest:
      return Pattern::kReply;
    case Pattern::kReply:
      return Pattern::kRequest;
    case Pattern::kPublish:
      return Pattern::kSubscribe;
    case Pattern::kSubscribe:
      return Pattern::kPublish;
  }
  return pattern;
}

RingSender::Options SenderOptions(Pattern pattern) {
  return {.receiver_pattern = static_cast<uint8_t>(Counterpart(pattern)),
          .deals = pattern == Pattern::kPush || pattern == Pattern::kPair,
          .exclusive = pattern == Pattern::kPair,
          .publishes = pattern == Pattern::kPublish,
          .requests = pattern == Pattern::kRequest,
          .replies = pattern == Pattern::kReply};
}

class RingCarrier final : public Carrier, public RingUser {
 public:
  explicit RingCarrier(const CarrierContext& context)
      : context_(context),
        member_(*context.member),
        table_(member_.rings()),
        sends_(PatternSends(context.pattern)),
        receives_(PatternReceives(context.pattern)),
        sender_(member_, SenderOptions(context.pattern)),
        receiver_(member_),
        sends_blocks_(context.pattern == Pattern::kPush || context.pattern == Pattern::kPair),
        receives_blocks_(context.pattern == Pattern::kPull || context.pattern == Pattern::kPair ||
                         context.pattern == Pattern::kSubscribe),
        spin_ns_(absl::ToInt64Nanoseconds(context.options.spin)) {
    receiver_.set_on_fault(
        [this](RingReceiver::Fault fault, MemberId from) { Dropped(fault, from); });
    sender_.set_on_corrupt([this](const EndpointInfo& peer) {
      counters_.Dropped(SocketCounters::Drop::kBad, Describe(peer.member),
                        "a ring whose cursor makes no sense");
    });
    if (sends_) table_.Register(this);
  }
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
  bool GiveUpRequest();

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

std::string RingCarrier::Describe(MemberId id) const { return MemberText(table_.members(), id); }

void RingCarrier::Dropped(RingReceiver::Fault fault, MemberId from) {
  switch (fault) {
    case RingReceiver::Fault::kStale:
      member_.CountStaleHandle();
      counters_.Dropped(SocketCounters::Drop::kStale, Describe(from), "a stale or forged handle");
      break;
    case RingReceiver::Fault::kBad:
      counters_.Dropped(SocketCounters::Drop::kBad, Describe(from),
                        "a message of many parts that makes no sense");
      break;
    case RingReceiver::Fault::kCorrupt:
      counters_.Dropped(SocketCounters::Drop::kBad, Describe(from),
                        "a ring whose cursor makes no sense");
      break;
  }
}

// Names.

absl::Status RingCarrier::CheckPeers(const Address& address, const EndpointOptions& options) {
  for (const EndpointInfo& other : table_.Find(options.name)) {
    if (!table_.members().Alive(other.member)) continue;
    if (other.options.pattern > static_cast<uint8_t>(Pattern::kSubscribe)) continue;  // nonsense
    const auto pattern = static_cast<Pattern>(other.options.pattern);
    if (options.bound && other.options.bound) {
      return absl::AlreadyExistsError(absl::StrCat(address.text, " is bound already, by a ",
                                                   PatternName(pattern), " socket of ",
                                                   Describe(other.member)));
    }
    if (options.bound != other.options.bound && pattern != Counterpart(context_.pattern)) {
      return absl::FailedPreconditionError(absl::StrCat(
          address.text, ": a ", PatternName(context_.pattern), " socket cannot meet the ",
          PatternName(pattern), " socket of ", Describe(other.member), ", which is ",
          other.options.bound ? "bound" : "connected", " there"));
    }
  }
  return absl::OkStatus();
}

absl::Status RingCarrier::AddEndpoint(const Address& address, const EndpointOptions& options) {
  if (absl::Status status = CheckPeers(address, options); !status.ok()) return status;
  std::span<const std::string> topics;
  if (context_.pattern == Pattern::kSubscribe) topics = context_.options.topics;
  const absl::StatusOr<EndpointId> id = table_.Add(options, topics);
  if (!id.ok()) return id.status();
  lock_.OwnerLock();
  own_.push_back({*id, options});
  if (sends_) sender_.Refresh(own_);
  lock_.OwnerUnlock();
  own_ids_.push_back(*id);
  if (receives_) receiver_.AddOwn(*id);
  receiver_.RefreshSoon();
  if (door_.load(std::memory_order_relaxed) == nullptr) {
    door_.store(&table_.DoorOf(id->row), std::memory_order_release);
  }
  last_endpoint_ = address.text;
  return absl::OkStatus();
}

absl::Status RingCarrier::Attach(const Address& address, bool bound) {
  EndpointOptions options;
  options.name = address.place;
  options.pattern = static_cast<uint8_t>(context_.pattern);
  options.bound = bound;
  options.policy = static_cast<uint8_t>(context_.options.slow_policy);
  if (!own_ids_.empty()) options.door = own_ids_.front();
  options.capacity = context_.options.receive_high_water_mark;
  if (sends_ && receives_) {
    options.capacity = std::min(options.capacity, context_.options.send_high_water_mark);
  } else if (sends_) {
    options.capacity = context_.options.send_high_water_mark;
  }
  if (!bound) {
    // Once is enough: the reply to a request would not know by which of several it came.
    const bool is_there = std::any_of(own_.begin(), own_.end(), [&](const RingSender::Own& own) {
      return own.options.name == options.name && !own.options.bound;
    });
    if (!is_there) return AddEndpoint(address, options);
    last_endpoint_ = address.text;
    return absl::OkStatus();
  }
  // One binds at a time, so that a name has one bound socket. A killed one has it until its
  // reclaim.
  (void)member_.ReclaimDead();
  return member_.session().WithObjectsLocked([&] { return AddEndpoint(address, options); });
}

void RingCarrier::Close() {
  if (closed_) return;
  closed_ = true;
  table_.Unregister(this);
  watched_.reset();
  door_.store(nullptr, std::memory_order_release);
  lock_.OwnerLock();
  sender_.Close();
  lock_.OwnerUnlock();
  parts_.clear();
  for (const EndpointId& id : own_ids_) table_.Remove(id, MemberNames(member_));
  receiver_.Close();
}

void RingCarrier::OnTick() {
  lock_.OtherLock();
  if (sends_) sender_.RefreshIfChanged(own_);
  if (watched_ != nullptr && watched_->armed() &&
      (table_.changes() != armed_changes_.load(std::memory_order_acquire) ||
       (awaits_message_.load(std::memory_order_acquire) && receiver_.SeemsToHaveSome()) ||
       (awaits_room_.load(std::memory_order_acquire) && sender_.HasRoom(own_)))) {
    watched_->Signal();
  }
  lock_.OtherUnlock();
}

// Waiting elsewhere.

absl::StatusOr<int> RingCarrier::Descriptor() {
  if (watched_ == nullptr) {
    absl::StatusOr<std::unique_ptr<WatchedDoor>> watched =
        context_.door_watches->Watch(*door_.load(std::memory_order_relaxed));
    if (!watched.ok()) return watched.status();
    lock_.OwnerLock();
    watched_ = *std::move(watched);
    lock_.OwnerUnlock();
    if (!sends_) table_.Register(this);
  }
  return watched_->fd();
}

bool RingCarrier::ArmDescriptor() {
  if (__builtin_expect(watched_ == nullptr || !arms_, 1)) return false;
  armed_changes_.store(table_.changes(), std::memory_order_release);
  return watched_->Arm();
}

// Also if it is armed already: by a look that found what is missing now, or for the other
// direction.
bool RingCarrier::ArmToSend() {
  awaits_room_.store(context_.pattern != Pattern::kReply, std::memory_order_release);
  return ArmDescriptor();
}

bool RingCarrier::ArmToReceive() {
  awaits_message_.store(true, std::memory_order_release);
  return ArmDescriptor();
}

Readiness RingCarrier::LookOnce() {
  Readiness ready;
  if (receives_) ready.receive = !parts_.empty() || receiver_.HasSome(own_ids_);
  if (!sends_) return ready;
  lock_.OwnerLock();
  ready.send = context_.pattern == Pattern::kReply
                   ? asker_.has_value() && sender_.HasRoomAt(own_, asker_->id)
                   : sender_.HasRoom(own_);
  lock_.OwnerUnlock();
  return ready;
}

Readiness RingCarrier::Look() {
  ArmDescriptor();
  const Readiness ready = LookOnce();
  if (!ready.receive) receiver_.WakeSenders();
  awaits_message_.store(receives_ && !ready.receive, std::memory_order_release);
  awaits_room_.store(sends_ && !ready.send && context_.pattern != Pattern::kReply,
                     std::memory_order_release);
  return ready;
}

// Messages.

template <class Quick, class Attempt>
SocketResult RingCarrier::WaitFor(const Deadline& deadline, Quick quick, Attempt attempt) {
  Door* const door = door_.load(std::memory_order_relaxed);
  bool usable = true;
  const WaitResult result = WaitAtDoor(
      *door, spin_ns_, deadline, quick, attempt,
      [&] { return !usable || context_.TakeInterruption(); },
      [&] {
        usable = member_.Usable().ok();
        receiver_.RefreshSoon();
        lock_.OwnerLock();
        if (sends_) sender_.Refresh(own_);
        lock_.OwnerUnlock();
      });
  switch (result) {
    case WaitResult::kDone:
      return SocketResult::kOk;
    case WaitResult::kTimedOut:
      return SocketResult::kTimedOut;
    case WaitResult::kInterrupted:
      return usable ? SocketResult::kInterrupted : SocketResult::kUnusable;
  }
  return SocketResult::kTimedOut;
}

bool RingCarrier::ReplyWith(const Parcel& parcel) {
  if (sender_.Reply(own_, asker_->id, asker_->number, parcel) != RingSender::Result::kSent) {
    return false;
  }
  asker_.reset();
  return true;
}

bool RingCarrier::SendReply(Message& message) {
  if (!asker_.has_value()) return false;
  if (!ReplyWith(ParcelOf(message))) return false;
  MessageAccess::Forget(message);
  return true;
}

bool RingCarrier::SendOnce(Message& message) {
  const uint64_t size_bytes = message.size();
  lock_.OwnerLock();
  const bool sent = __builtin_expect(context_.pattern == Pattern::kReply, 0)
                        ? SendReply(message)
                        : sender_.Send(own_, message) == RingSender::Result::kSent;
  lock_.OwnerUnlock();
  if (__builtin_expect(sent, 1)) {
    counters_.Sent(size_bytes);
    asked_ = true;
  }
  return sent;
}

SocketResult RingCarrier::TrySendOther(Message& message) {
  if (__builtin_expect(!IsOurs(message), 0)) return SocketResult::kForeignMessage;
  if (SendOnce(message)) return SocketResult::kOk;
  return ArmToSend() && SendOnce(message) ? SocketResult::kOk : SocketResult::kWouldBlock;
}

template <class Quick, class Attempt>
SocketResult RingCarrier::WaitToSend(const Deadline& deadline, Quick quick, Attempt attempt) {
  const int64_t begin_ns = MonotonicClock().NowNanoseconds();
  const SocketResult result = WaitFor(deadline, quick, attempt);
  counters_.SendBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - begin_ns));
  return result;
}

SocketResult RingCarrier::SendOther(Message& message, const Deadline& deadline) {
  if (__builtin_expect(!IsOurs(message), 0)) return SocketResult::kForeignMessage;
  if (SendOnce(message)) return SocketResult::kOk;
  const auto quick = [&] { return sends_blocks_ ? SendBlock(message) : SendOnce(message); };
  if (sends_blocks_ && TryAgain(quick)) return SocketResult::kOk;
  return WaitToSend(deadline, quick, [&] { return SendOnce(message); });
}

bool RingCarrier::ReplyParts(std::span<Message> parts) {
  if (!asker_.has_value()) return false;
  Parcel bundle;
  if (!Wrap(member_, parts, &bundle).ok()) return false;
  if (ReplyWith(bundle)) return true;
  // Back to the caller.
  std::vector<Message> back;
  if (Unwrap(member_, bundle, &back)) {
    for (size_t i = 0; i < back.size() && i < parts.size(); ++i) parts[i] = std::move(back[i]);
  }
  return false;
}

bool RingCarrier::SendPartsOnce(std::span<Message> parts) {
  if (parts.size() == 1) return SendOnce(parts[0]);
  uint64_t size_bytes = 0;
  for (const Message& part : parts) size_bytes += part.size();
  lock_.OwnerLock();
  const bool sent = context_.pattern == Pattern::kReply
                        ? ReplyParts(parts)
                        : sender_.SendParts(own_, parts) == RingSender::Result::kSent;
  lock_.OwnerUnlock();
  if (sent) {
    counters_.Sent(size_bytes);
    asked_ = true;
  }
  return sent;
}

SocketResult RingCarrier::SendParts(std::span<Message> parts, const Deadline* deadline) {
  for (const Message& part : parts) {
    if (!IsOurs(part)) return SocketResult::kForeignMessage;
  }
  if (SendPartsOnce(parts)) return SocketResult::kOk;
  if (deadline == nullptr) {
    return ArmToSend() && SendPartsOnce(parts) ? SocketResult::kOk : SocketResult::kWouldBlock;
  }
  const auto attempt = [&] { return SendPartsOnce(parts); };
  return WaitToSend(*deadline, attempt, attempt);
}

// REP: the next request may be received before the last one was answered; its asker is told.
bool RingCarrier::GiveUpRequest() {
  if (!asker_.has_value()) return true;
  lock_.OwnerLock();
  const bool sent = ReplyWith(NoReply());
  lock_.OwnerUnlock();
  return sent;
}

// REQ: replies come in the order of the requests, so the number of a reply tells what it answers.
bool RingCarrier::IsAwaited(const RingReceiver::Arrival& arrival) {
  if (!asked_ || IsNoReply(arrival.name)) return false;
  lock_.OwnerLock();
  const bool awaited =
      sender_.last_receiver() == arrival.from && sender_.MessagesTo(arrival.from) == arrival.number;
  lock_.OwnerUnlock();
  return awaited;
}

bool RingCarrier::ReceiveOnce(Message& message) {
  const bool received = ReceiveAny(message);
  receiver_.AllowQuickly(receives_blocks_ && parts_.empty());
  return received;
}

bool RingCarrier::ReceiveAny(Message& message) {
  if (__builtin_expect(!parts_.empty(), 0)) {
    message = std::move(parts_.back());
    parts_.pop_back();
    return true;
  }
  if (context_.pattern == Pattern::kReply && !GiveUpRequest()) return false;
  RingReceiver::Arrival arrival;
  while (receiver_.Receive(own_ids_, &message, &parts_, &arrival) ==
         RingReceiver::Result::kReceived) {
    if (context_.pattern == Pattern::kRequest) {
      if (!IsAwaited(arrival)) {
        message.Release();
        parts_.clear();
        continue;
      }
      asked_ = false;
    } else if (context_.pattern == Pattern::kReply) {
      asker_ = Asker{arrival.from, arrival.number};
    }
    if (__builtin_expect(!parts_.empty(), 0)) {
      std::reverse(parts_.begin(), parts_.end());
      message = std::move(parts_.back());
      parts_.pop_back();
    }
    counters_.Received(message.size());
    return true;
  }
  return false;
}

SocketResult RingCarrier::TryReceiveOther(Message& message) {
  if (ReceiveOnce(message)) return SocketResult::kOk;
  receiver_.WakeSenders();
  return ArmToReceive() && ReceiveOnce(message) ? SocketResult::kOk : SocketResult::kWouldBlock;
}

SocketResult RingCarrier::ReceiveOther(Message& message, const Deadline& deadline) {
  if (ReceiveOnce(message)) return SocketResult::kOk;
  const auto quick = [&] {
    return receives_blocks_ ? receiver_.ReceiveBlock(&message) : ReceiveOnce(message);
  };
  if (receives_blocks_ && TryAgain(quick)) return SocketResult::kOk;
  receiver_.WakeSenders();
  const int64_t begin_ns = MonotonicClock().NowNanoseconds();
  const SocketResult result = WaitFor(deadline, quick, [&] { return ReceiveOnce(message); });
  counters_.ReceiveBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - begin_ns));
  return result;
}

SocketResult RingCarrier::ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) {
  Message first;
  const SocketResult result = deadline == nullptr ? TryReceive(first) : Receive(first, *deadline);
  if (result != SocketResult::kOk) return result;
  parts.reserve(parts.size() + 1 + parts_.size());
  parts.push_back(std::move(first));
  for (; !parts_.empty(); parts_.pop_back()) parts.push_back(std::move(parts_.back()));
  receiver_.AllowQuickly(receives_blocks_);
  return result;
}

SocketStatistics RingCarrier::Statistics() const {
  SocketStatistics statistics = counters_.Snapshot();
  const RingTotals sent = sender_.sent_quickly();
  const RingTotals received = receiver_.received_quickly();
  statistics.messages_sent += sent.messages;
  statistics.bytes_sent += sent.bytes;
  statistics.messages_received += received.messages;
  statistics.bytes_received += received.bytes;
  const std::vector<RingPeerStatistics> sends_to = sender_.Statistics();
  const std::vector<RingPeerStatistics> receives_from = receiver_.Statistics();
  for (const RingPeerStatistics& peer : sends_ ? sends_to : receives_from) {
    if (!peer.gone) ++statistics.connected_peers;
  }
  statistics.dropped_messages = sender_.dropped();
  for (const RingPeerStatistics& peer : sends_to) {
    if (peer.gone) continue;
    statistics.peers.push_back({.peer = Describe(peer.member),
                                .messages_sent = peer.messages,
                                .bytes_sent = peer.bytes,
                                .depth = peer.depth,
                                .dropped_messages = peer.dropped});
  }
  for (const RingPeerStatistics& peer : receives_from) {
    if (peer.gone) continue;
    PeerStatistics one;
    one.peer = Describe(peer.member);
    one.messages_received = peer.messages;
    one.bytes_received = peer.bytes;
    one.depth = peer.depth;
    for (const RefusedPeer& refused : statistics.refused_peers) {
      if (refused.peer == one.peer) one.refused_frames = refused.frames;
    }
    statistics.peers.push_back(std::move(one));
  }
  return statistics;
}

}  // namespace

std::unique_ptr<Carrier> MakeRingCarrier(const CarrierContext& context) {
  return std::make_unique<RingCarrier>(context);
}

}  // namespace handoff::internal

// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_carrier.h"

#include <poll.h>
#include <sys/epoll.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allocator/channel_table.h"
#include "allocator/ring_table.h"
#include "base/biased_lock.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/crash_point.h"
#include "base/unique_fd.h"
#include "transport/frame.h"
#include "transport/member_text.h"
#include "transport/parcel.h"
#include "transport/socket_counters.h"
#include "transport/zeromq_departures.h"
#include "transport/zeromq_port.h"

namespace handoff::internal {

namespace {

// A receive that never waits drops at most so many frames before it says that nothing has come.
constexpr int kDropsATry = 64;

// Whoever waits looks around that often: whether this process is still a member, and, who sends,
// whether there is somebody to send to.
constexpr absl::Duration kReceiveSlice = absl::Seconds(1);
constexpr absl::Duration kSendSlice = absl::Milliseconds(50);

class ZeromqCarrier final : public Carrier, public RingUser {
 public:
  ZeromqCarrier(const CarrierContext& context, void* zeromq, ZeromqDepartures& departures)
      : context_(context),
        member_(*context.member),
        zeromq_(zeromq),
        departures_(departures),
        receives_(PatternReceives(context.pattern)) {
    // So that nobody takes the reply to another's request for his own.
    std::random_device random;
    exchange_ = uint64_t{random()} << 32 | random();
  }
  ~ZeromqCarrier() override { Close(); }

  absl::Status Bind(const Address& address) override { return Attach(address, &ZeromqPort::Bind); }
  absl::Status Connect(const Address& address) override {
    return Attach(address, &ZeromqPort::Connect);
  }
  std::string LastEndpoint() const override { return last_endpoint_; }

  SocketResult TrySend(Message& message) override;
  SocketResult Send(Message& message, const Deadline& deadline) override;
  SocketResult TryReceive(Message& message) override;
  SocketResult Receive(Message& message, const Deadline& deadline) override;

  SocketResult SendParts(std::span<Message> parts, const Deadline* deadline) override;
  SocketResult ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) override;

  bool HasParts() const override { return !parts_.empty(); }
  Readiness Look() override;
  uint32_t PeerCount() const override;
  absl::StatusOr<int> Descriptor() override;

  void Close() override;
  SocketStatistics Statistics() const override;

  void OnTick() override;

 private:
  absl::Status AddToAll(ZeromqPort& port);

  using AttachPort = absl::Status (ZeromqPort::*)(const Address&);
  absl::Status Attach(const Address& address, AttachPort attach);

  // Takes part in the session's channels, before there is anybody to send to or to receive from.
  absl::Status Enter();
  void LookForLosses();
  void TakeAnotherChannel();
  void DropUnreceived();

  // One attempt each.
  SocketResult SendParcel(Parcel* parcel, uint64_t size_bytes);
  SocketResult SendParcelLocked(Parcel* parcel, uint64_t size_bytes);
  SocketResult SendOnce(Message& message);
  ZeromqPort* PortToSend();
  bool TakeNext(Message& message);
  bool Take(ZeromqPort& port, const ZeromqPort::Received& received);
  void CountReceived();

  // After a first attempt that would block.
  template <class Attempt>
  SocketResult Wait(int events, const Deadline& deadline, Attempt attempt);
  template <class Attempt>
  SocketResult WaitToSend(const Deadline& deadline, Attempt attempt);
  void Sleep(absl::Duration slice, const Deadline& deadline);

  const CarrierContext context_;
  Member& member_;
  void* const zeromq_;
  ZeromqDepartures& departures_;

  // Guards the channel, from before a hold is posted on it until that has been handed over or taken
  // back: this socket's thread against the tick.
  BiasedLock lock_;
  std::optional<Channel> channel_;           // where this socket posts
  std::vector<Channel> aged_;                // where it did, and some receivers are left
  uint64_t losses_ = 0;                      // of connections, that were seen
  bool lost_ = false;                        // in the last tick
  std::atomic<bool> may_be_drained_{false};  // a connection has ended: once nothing is left, say so
  const bool receives_;
  bool entered_ = false;

  // REQ has a port for each address, because ZeroMQ would deal requests to those who have gone as
  // well; all others have one. Changed under the lock, so that other threads can look at it.
  mutable absl::Mutex ports_mutex_;
  std::vector<std::unique_ptr<ZeromqPort>> ports_;
  size_t next_port_ = 0;
  UniqueFd all_ports_;  // REQ, for Descriptor(): an epoll of all

  FrameContent content_;        // of the last frame
  std::vector<Message> parts_;  // of a message of many parts that is received one by one, reversed
  std::vector<pollfd> waited_;

  // REQ: the number of the last request, and whether its reply is awaited.
  uint64_t exchange_ = 0;
  bool asked_ = false;
  // REP: who has asked and waits for the reply, and the number of his request.
  struct Asker {
    std::string peer;
    uint64_t exchange;
  };
  std::optional<Asker> asker_;
  std::string sender_;  // REP: of the last frame

  // Whose messages have come, by the owner of the channel they were posted on; the last one, for
  // the next.
  struct Source {
    std::string peer;
    Counter messages;
    Counter bytes;
    Counter refused;  // stale ones that name its channel
  };
  // Null: the channel is nobody's any more.
  Source* SourceOf(uint16_t channel);
  mutable absl::Mutex sources_mutex_;
  std::map<uint64_t, Source> sources_ ABSL_GUARDED_BY(sources_mutex_);  // MemberId::Packed()
  Source* source_ = nullptr;
  uint16_t source_channel_ = 0;

  std::string last_endpoint_;
  bool closed_ = false;
  SocketCounters counters_;
  Counter dropped_;
};

absl::Status ZeromqCarrier::Attach(const Address& address, AttachPort attach) {
  if (!ports_.empty() && context_.pattern != Pattern::kRequest) {
    const absl::Status status = (ports_.front().get()->*attach)(address);
    if (status.ok()) last_endpoint_ = ports_.front()->last_endpoint();
    return status;
  }
  absl::StatusOr<std::unique_ptr<ZeromqPort>> port =
      ZeromqPort::Open(zeromq_, context_.pattern, context_.options);
  if (!port.ok()) return port.status();
  absl::Status status = Enter();
  if (status.ok()) status = (port->get()->*attach)(address);
  if (!status.ok()) return status;
  if (all_ports_.valid()) {
    const absl::Status added = AddToAll(**port);
    if (!added.ok()) return added;
  }
  last_endpoint_ = (*port)->last_endpoint();
  absl::MutexLock lock(&ports_mutex_);
  ports_.push_back(*std::move(port));
  return absl::OkStatus();
}

absl::Status ZeromqCarrier::Enter() {
  if (entered_) return absl::OkStatus();
  if (PatternSends(context_.pattern)) {
    const absl::StatusOr<Channel> channel = member_.channels().Open();
    if (!channel.ok()) return channel.status();
    channel_ = *channel;
  }
  if (receives_) member_.channels().AddReceiver();
  member_.rings().Register(this);
  entered_ = true;
  return absl::OkStatus();
}

// What was sent to a receiver that has gone is lost if it had not taken it, but nobody knows which
// that is: all that was posted until then may be freed when memory runs out, and at once when no
// receiver is left.

void ZeromqCarrier::OnTick() {
  {
    absl::MutexLock lock(&ports_mutex_);
    for (const auto& port : ports_) port->peers().Count();
  }
  lock_.OtherLock();
  // A tick later than it was seen: until then ZeroMQ may have dealt to who has gone.
  if (std::exchange(lost_, false) && channel_.has_value()) TakeAnotherChannel();
  LookForLosses();
  lock_.OtherUnlock();
}

void ZeromqCarrier::LookForLosses() {
  uint64_t losses = 0;
  {
    absl::MutexLock lock(&ports_mutex_);
    for (const auto& port : ports_) losses += port->peers().losses();
  }
  if (std::exchange(losses_, losses) == losses) return;
  lost_ = true;
  if (receives_) may_be_drained_.store(true, std::memory_order_relaxed);
}

void ZeromqCarrier::TakeAnotherChannel() {
  ChannelTable& channels = member_.channels();
  const absl::StatusOr<Channel> next = channels.Open();
  if (!next.ok()) {
    lost_ = true;  // tried again
    return;
  }
  (void)channels.Move(*channel_, ChannelState::kAged);
  aged_.push_back(*std::exchange(channel_, *next));
  // Requests and PAIR messages wait in ZeroMQ for whoever comes next at the same address.
  if (context_.pattern != Pattern::kPush && context_.pattern != Pattern::kReply) return;
  absl::MutexLock lock(&ports_mutex_);
  for (const auto& port : ports_) {
    if (port->HasPeer()) return;
  }
  for (const Channel& channel : aged_) (void)channels.Move(channel, ChannelState::kAbandoned);
  aged_.clear();
}

// Sending. The life of a message on this carrier is in docs/message_life.md; the steps here are its
// numbers.

ZeromqPort* ZeromqCarrier::PortToSend() {
  if (__builtin_expect(context_.pattern != Pattern::kRequest, 1)) return ports_.front().get();
  for (size_t i = 0; i < ports_.size(); ++i) {
    if (next_port_ >= ports_.size()) next_port_ = 0;
    ZeromqPort& port = *ports_[next_port_++];
    if (port.HasPeer() && (port.Events() & ZMQ_POLLOUT) != 0) return &port;
  }
  return nullptr;
}

// Anything but kOk: `*parcel` is held again.
SocketResult ZeromqCarrier::SendParcel(Parcel* parcel, uint64_t size_bytes) {
  lock_.OwnerLock();
  const SocketResult result = SendParcelLocked(parcel, size_bytes);
  lock_.OwnerUnlock();
  return result;
}

SocketResult ZeromqCarrier::SendParcelLocked(Parcel* parcel, uint64_t size_bytes) {
  static const std::string kNobody;
  ZeromqPort* const port = PortToSend();
  if (__builtin_expect(port == nullptr, 0)) return SocketResult::kWouldBlock;
  FrameTag tag{.channel = static_cast<uint16_t>(channel_->id)};
  const std::string* peer = &kNobody;
  if (context_.pattern == Pattern::kRequest) {
    tag.exchange = exchange_ + 1;
  } else if (context_.pattern == Pattern::kReply) {
    if (!asker_.has_value()) return SocketResult::kWouldBlock;
    tag.exchange = asker_->exchange;
    peer = &asker_->peer;
  }
  const PartName posted = Post(member_, *parcel, tag.channel);  // step 3
  HANDOFF_CRASH_POINT("zeromq.send.after_post");
  const ZeromqPort::Result result = port->Send(MakeFrame(member_, posted, tag), *peer);  // step 4
  if (__builtin_expect(result != ZeromqPort::Result::kDone, 0)) {
    const std::optional<Parcel> back = TakeBack(member_, posted);
    if (back.has_value() && result == ZeromqPort::Result::kWouldBlock) {
      *parcel = *back;
      return SocketResult::kWouldBlock;
    }
    // Who asked has gone. Or somebody who was never told the generation has accepted it all the
    // same: it is his now.
    if (back.has_value()) Release(member_, *back);
    dropped_.Add(1);
  }
  counters_.Sent(size_bytes);
  if (context_.pattern == Pattern::kRequest) {
    ++exchange_;
    asked_ = true;
  }
  asker_.reset();
  HANDOFF_CRASH_POINT("zeromq.send.after_send");
  return SocketResult::kOk;
}

SocketResult ZeromqCarrier::SendOnce(Message& message) {
  Parcel parcel = ParcelOf(message);
  const SocketResult result = SendParcel(&parcel, message.size());
  if (__builtin_expect(result == SocketResult::kOk, 1)) {
    MessageAccess::Forget(message);
  } else if (!message.empty()) {
    MessageAccess::SetHold(message, parcel.hold);
  }
  return result;
}

SocketResult ZeromqCarrier::TrySend(Message& message) {
  if (__builtin_expect(!IsOf(member_, message), 0)) return SocketResult::kForeignMessage;
  return SendOnce(message);
}

SocketResult ZeromqCarrier::Send(Message& message, const Deadline& deadline) {
  const SocketResult result = TrySend(message);
  if (__builtin_expect(result != SocketResult::kWouldBlock, 1)) return result;
  return WaitToSend(deadline, [&] { return SendOnce(message); });
}

SocketResult ZeromqCarrier::SendParts(std::span<Message> parts, const Deadline* deadline) {
  uint64_t size_bytes = 0;
  for (const Message& part : parts) {
    if (!IsOf(member_, part)) return SocketResult::kForeignMessage;
    size_bytes += part.size();
  }
  if (parts.size() == 1) {
    return deadline == nullptr ? TrySend(parts[0]) : Send(parts[0], *deadline);
  }
  std::optional<Parcel> bundle;
  const auto attempt = [&] {
    if (!bundle.has_value()) {
      bundle.emplace();
      if (!Wrap(member_, parts, &*bundle).ok()) {
        bundle.reset();
        return SocketResult::kWouldBlock;  // every row of the table is in use
      }
      HANDOFF_CRASH_POINT("zeromq.send.after_bundle");
    }
    return SendParcel(&*bundle, size_bytes);
  };
  SocketResult result = attempt();
  if (result == SocketResult::kWouldBlock && deadline != nullptr) {
    result = WaitToSend(*deadline, attempt);
  }
  if (result == SocketResult::kOk || !bundle.has_value()) return result;
  // Back to the caller.
  std::vector<Message> back;
  if (Unwrap(member_, *bundle, &back)) {
    std::move(back.begin(), back.begin() + std::min(back.size(), parts.size()), parts.begin());
  }
  return result;
}

// Receiving.

// Steps 6 to 8. False: the frame was dropped.
bool ZeromqCarrier::Take(ZeromqPort& port, const ZeromqPort::Received& received) {
  if (__builtin_expect(received.several, 0)) {
    counters_.Dropped(SocketCounters::Drop::kBad, port.DescribeSender(),
                      "several frames in one message");
    return false;
  }
  if (__builtin_expect(!TakeFrame(member_, received.bytes, &content_), 0)) {
    if (content_.drop == SocketCounters::Drop::kStale) {
      member_.CountStaleHandle();
      if (Source* const source = SourceOf(content_.tag.channel)) source->refused.Add(1);
    }
    counters_.Dropped(content_.drop, port.DescribeSender(), content_.reason);
    return false;
  }
  if (context_.pattern == Pattern::kRequest) {
    if (!asked_ || content_.tag.exchange != exchange_) {
      // The reply to an earlier request, which nobody awaits any more.
      content_.message.Release();
      content_.parts.clear();
      return false;
    }
    asked_ = false;
  } else if (context_.pattern == Pattern::kReply) {
    asker_ = Asker{sender_, content_.tag.exchange};
  }
  return true;
}

ZeromqCarrier::Source* ZeromqCarrier::SourceOf(uint16_t channel) {
  const MemberId owner = member_.channels().Load(channel).owner();
  if (owner.slot == 0) return nullptr;
  absl::MutexLock lock(&sources_mutex_);
  Source& source = sources_[owner.Packed()];
  if (source.peer.empty()) source.peer = MemberText(member_.session().members(), owner);
  return &source;
}

void ZeromqCarrier::CountReceived() {
  counters_.Received(content_.size_bytes);
  const uint16_t channel = content_.tag.channel;
  if (channel == 0) return;  // an empty message, which nobody posts
  if (__builtin_expect(channel != source_channel_, 0)) {
    source_ = SourceOf(channel);
    source_channel_ = channel;
  }
  if (source_ == nullptr) return;
  source_->messages.Add(1);
  source_->bytes.Add(content_.size_bytes);
}

bool ZeromqCarrier::TakeNext(Message& message) {
  if (__builtin_expect(!parts_.empty(), 0)) {
    message = std::move(parts_.back());
    parts_.pop_back();
    return true;
  }
  // The next request may be received before the last one was answered.
  asker_.reset();
  for (const auto& port : ports_) {
    ZeromqPort::Received received;
    for (int tries = 0; tries <= kDropsATry; ++tries) {
      if (port->Receive(&received, &sender_) != ZeromqPort::Result::kDone) break;
      HANDOFF_CRASH_POINT("zeromq.receive.after_frame");
      if (!__builtin_expect(Take(*port, received), 1)) continue;
      CountReceived();
      if (__builtin_expect(!content_.parts.empty(), 0)) {
        parts_.swap(content_.parts);
        std::reverse(parts_.begin(), parts_.end());
        message = std::move(parts_.back());
        parts_.pop_back();
      } else {
        message = std::move(content_.message);
      }
      return true;
    }
  }
  if (__builtin_expect(may_be_drained_.load(std::memory_order_relaxed), 0) &&
      may_be_drained_.exchange(false, std::memory_order_relaxed)) {
    member_.channels().AgeClosed();
  }
  return false;
}

SocketResult ZeromqCarrier::TryReceive(Message& message) {
  return TakeNext(message) ? SocketResult::kOk : SocketResult::kWouldBlock;
}

SocketResult ZeromqCarrier::Receive(Message& message, const Deadline& deadline) {
  if (TakeNext(message)) return SocketResult::kOk;
  const int64_t began_ns = MonotonicClock().NowNanoseconds();
  const SocketResult result = Wait(ZMQ_POLLIN, deadline, [&] { return TryReceive(message); });
  counters_.ReceiveBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - began_ns));
  return result;
}

SocketResult ZeromqCarrier::ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) {
  Message first;
  const SocketResult result = deadline == nullptr ? TryReceive(first) : Receive(first, *deadline);
  if (result != SocketResult::kOk) return result;
  parts.reserve(parts.size() + 1 + parts_.size());
  parts.push_back(std::move(first));
  for (; !parts_.empty(); parts_.pop_back()) parts.push_back(std::move(parts_.back()));
  return result;
}

// Waiting.

template <class Attempt>
SocketResult ZeromqCarrier::Wait(int events, const Deadline& deadline, Attempt attempt) {
  for (;;) {
    if (context_.TakeInterruption()) return SocketResult::kInterrupted;
    if (!member_.Usable().ok()) return SocketResult::kUnusable;
    // Before the attempt, or a flood of frames that are dropped would hold us for ever.
    if (deadline.expired()) return SocketResult::kTimedOut;
    const SocketResult result = attempt();
    if (result != SocketResult::kWouldBlock) return result;
    // Nothing may touch the sockets between this and the sleep: descriptors tell of changes only.
    bool ready = false;
    for (const auto& port : ports_) ready = (port->Events() & events) != 0 || ready;
    if (!ready) Sleep(events == ZMQ_POLLIN ? kReceiveSlice : kSendSlice, deadline);
  }
}

template <class Attempt>
SocketResult ZeromqCarrier::WaitToSend(const Deadline& deadline, Attempt attempt) {
  const int64_t began_ns = MonotonicClock().NowNanoseconds();
  // REQ and REP are not ready just because there is room somewhere.
  const bool any_room =
      context_.pattern != Pattern::kRequest && context_.pattern != Pattern::kReply;
  const SocketResult result = Wait(any_room ? ZMQ_POLLOUT : 0, deadline, attempt);
  counters_.SendBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - began_ns));
  return result;
}

void ZeromqCarrier::Sleep(absl::Duration slice, const Deadline& deadline) {
  waited_.clear();
  const auto wait_for = [&](int fd) {
    waited_.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  };
  wait_for(context_.socket_interruption->fd());
  wait_for(context_.transport_interruption->fd());
  for (const auto& port : ports_) {
    wait_for(port->fd());
    if (context_.pattern == Pattern::kRequest) wait_for(port->peers().fd());
  }
  const auto limit = deadline.Slice(slice).RemainingTimespec();
  if (ppoll(waited_.data(), waited_.size(), limit.has_value() ? &*limit : nullptr, nullptr) > 0) {
    // Readable without a request: one that was taken back meanwhile.
    if (waited_[0].revents != 0 && !context_.socket_interruption->raised()) {
      context_.socket_interruption->Drain();
    }
    if (waited_[1].revents != 0 && !context_.transport_interruption->raised()) {
      context_.transport_interruption->Drain();
    }
  }
  for (const auto& port : ports_) port->peers().Count();
}

Readiness ZeromqCarrier::Look() {
  Readiness ready;
  ready.receive = !parts_.empty();
  for (const auto& port : ports_) {
    const bool has_peer = port->HasPeer();
    const int events = port->Events();
    ready.receive |= (events & ZMQ_POLLIN) != 0;
    ready.send |=
        (events & ZMQ_POLLOUT) != 0 && (has_peer || context_.pattern != Pattern::kRequest);
  }
  if (context_.pattern == Pattern::kReply) ready.send = asker_.has_value();
  return ready;
}

uint32_t ZeromqCarrier::PeerCount() const {
  uint32_t count = 0;
  for (const auto& port : ports_) count += port->peers().Count();
  return count;
}

absl::Status ZeromqCarrier::AddToAll(ZeromqPort& port) {
  epoll_event event{};
  event.events = EPOLLIN;
  for (const int fd : {port.fd(), port.peers().fd()}) {
    if (epoll_ctl(all_ports_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat("epoll_ctl: ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int> ZeromqCarrier::Descriptor() {
  if (context_.pattern != Pattern::kRequest) return ports_.front()->fd();
  if (!all_ports_.valid()) {
    all_ports_.reset(epoll_create1(EPOLL_CLOEXEC));
    if (!all_ports_.valid()) {
      return absl::ResourceExhaustedError(absl::StrCat("epoll_create1: ", std::strerror(errno)));
    }
    for (const auto& port : ports_) {
      const absl::Status added = AddToAll(*port);
      if (added.ok()) continue;
      all_ports_.reset();
      return added;
    }
  }
  return all_ports_.get();
}

// What has come to this process goes back now; what is on its way is lost when the sender sees the
// connection end.
void ZeromqCarrier::DropUnreceived() {
  ZeromqPort::Received received;
  for (const auto& port : ports_) {
    for (uint32_t i = 0; i < 2 * context_.options.receive_high_water_mark; ++i) {
      if (port->Receive(&received, &sender_) != ZeromqPort::Result::kDone) break;
      FrameContent unread;
      (void)TakeFrame(member_, received.bytes, &unread);
    }
  }
}

void ZeromqCarrier::Close() {
  if (closed_) return;
  closed_ = true;
  parts_.clear();
  all_ports_.reset();
  if (entered_) member_.rings().Unregister(this);
  if (receives_) DropUnreceived();
  if (channel_.has_value()) {
    OnTick();
    if (lost_) TakeAnotherChannel();
    (void)member_.channels().Move(*channel_, ChannelState::kClosed);
  }
  for (const auto& port : ports_) {
    if (channel_.has_value()) departures_.Keep(port->peers(), context_.options.linger);
    port->Close();
  }
  if (receives_ && entered_) member_.channels().RemoveReceiver();
}

SocketStatistics ZeromqCarrier::Statistics() const {
  SocketStatistics statistics = counters_.Snapshot();
  statistics.dropped_messages = dropped_.value();
  {
    absl::MutexLock lock(&ports_mutex_);
    for (const auto& port : ports_) statistics.connected_peers += port->peers().Count();
  }
  absl::MutexLock lock(&sources_mutex_);
  for (const auto& [owner, source] : sources_) {
    statistics.peers.push_back({.peer = source.peer,
                                .messages_received = source.messages.value(),
                                .bytes_received = source.bytes.value(),
                                .refused_frames = source.refused.value()});
  }
  return statistics;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Carrier>> MakeZeromqCarrier(const CarrierContext& context,
                                                           ZeromqContext& zeromq) {
  if (!ZeromqPort::Carries(context.pattern)) {
    return absl::InvalidArgumentError(
        absl::StrCat(PatternName(context.pattern),
                     " needs an address of ring://: one message goes to many without a copy only "
                     "there. ZeroMQ addresses carry PUSH, PULL, PAIR, REQUEST and REPLY"));
  }
  const absl::StatusOr<void*> zeromq_context = zeromq.Get();
  if (!zeromq_context.ok()) return zeromq_context.status();
  return std::make_unique<ZeromqCarrier>(context, *zeromq_context, zeromq.departures());
}

}  // namespace handoff::internal

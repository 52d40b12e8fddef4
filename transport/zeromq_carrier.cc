// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_carrier.h"

#include <poll.h>
#include <sys/epoll.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
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
#include "base/clock.h"
#include "base/counter.h"
#include "base/crash_point.h"
#include "base/unique_fd.h"
#include "transport/frame.h"
#include "transport/parcel.h"
#include "transport/socket_counters.h"
#include "transport/zeromq_port.h"

namespace handoff::internal {

namespace {

// A receive that never waits drops at most so many frames before it says that nothing has come.
constexpr int kDropsATry = 64;

// Whoever waits looks around that often: whether this process is still a member, and, who sends,
// whether there is somebody to send to.
constexpr absl::Duration kReceiveSlice = absl::Seconds(1);
constexpr absl::Duration kSendSlice = absl::Milliseconds(50);

class ZeromqCarrier final : public Carrier {
 public:
  ZeromqCarrier(const CarrierContext& context, void* zeromq)
      : context_(context), member_(*context.member), zeromq_(zeromq) {
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

  Readiness Look() override;
  uint32_t PeerCount() const override;
  absl::StatusOr<int> Descriptor() override;

  void Close() override;
  SocketStatistics Statistics() const override;

 private:
  absl::Status AddToAll(ZeromqPort& port);

  using AttachPort = absl::Status (ZeromqPort::*)(const Address&);
  absl::Status Attach(const Address& address, AttachPort attach);

  // The id under which words are posted.
  uint16_t PostingChannel() const { return 0; }

  // One attempt each.
  SocketResult SendParcel(Parcel* parcel, uint64_t size_bytes);
  SocketResult SendOnce(Message& message);
  ZeromqPort* PortToSend();
  bool TakeNext(Message& message);
  bool Take(ZeromqPort& port, const ZeromqPort::Received& received);

  // After a first attempt that would block.
  template <class Attempt>
  SocketResult Wait(int events, const Deadline& deadline, Attempt attempt);
  template <class Attempt>
  SocketResult WaitToSend(const Deadline& deadline, Attempt attempt);
  void Sleep(absl::Duration slice, const Deadline& deadline);

  const CarrierContext context_;
  Member& member_;
  void* const zeromq_;

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
  const absl::Status status = (port->get()->*attach)(address);
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
  static const std::string kNobody;
  ZeromqPort* const port = PortToSend();
  if (__builtin_expect(port == nullptr, 0)) return SocketResult::kWouldBlock;
  FrameTag tag{.channel = PostingChannel()};
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
    if (content_.drop == SocketCounters::Drop::kStale) member_.CountStaleHandle();
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
      counters_.Received(content_.size_bytes);
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

void ZeromqCarrier::Close() {
  if (closed_) return;
  closed_ = true;
  parts_.clear();
  all_ports_.reset();
  for (const auto& port : ports_) port->Close();
}

SocketStatistics ZeromqCarrier::Statistics() const {
  SocketStatistics statistics = counters_.Snapshot();
  statistics.dropped_messages = dropped_.value();
  absl::MutexLock lock(&ports_mutex_);
  for (const auto& port : ports_) statistics.connected_peers += port->peers().Count();
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
  return std::make_unique<ZeromqCarrier>(context, *zeromq_context);
}

}  // namespace handoff::internal

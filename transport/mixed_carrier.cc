// SPDX-License-Identifier: Apache-2.0
#include "transport/mixed_carrier.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/sync.h"
#include "base/unique_fd.h"

namespace handoff::internal {

namespace {

// Whoever waits looks around that often, whether this process is still a member.
constexpr absl::Duration kWaitSlice = absl::Seconds(1);

void AddTo(SocketStatistics& all, const SocketStatistics& more) {
  all.messages_sent += more.messages_sent;
  all.bytes_sent += more.bytes_sent;
  all.messages_received += more.messages_received;
  all.bytes_received += more.bytes_received;
  all.send_blocked += more.send_blocked;
  all.receive_blocked += more.receive_blocked;
  all.dropped_messages += more.dropped_messages;
  all.foreign_frames += more.foreign_frames;
  all.bad_frames += more.bad_frames;
  all.stale_handles += more.stale_handles;
  all.connected_peers += more.connected_peers;
  all.peers.insert(all.peers.end(), more.peers.begin(), more.peers.end());
  for (const RefusedPeer& refused : more.refused_peers) {
    if (all.refused_peers.size() < SocketStatistics::kMaxRefusedPeers) {
      all.refused_peers.push_back(refused);
    }
  }
}

class MixedCarrier final : public Carrier {
 public:
  MixedCarrier(const CarrierContext& context, Carrier& ring, Carrier& zeromq, UniqueFd both)
      : context_(context), carriers_{&ring, &zeromq}, both_(std::move(both)) {}

  // The socket attaches each carrier itself.
  absl::Status Bind(const Address& address) override {
    return carriers_[address.scheme == Scheme::kRing ? kRing : kZeromq]->Bind(address);
  }
  absl::Status Connect(const Address& address) override {
    return carriers_[address.scheme == Scheme::kRing ? kRing : kZeromq]->Connect(address);
  }
  std::string LastEndpoint() const override { return ""; }

  SocketResult TrySend(Message& message) override {
    return InTurnToSend([&](Carrier& carrier) { return carrier.TrySend(message); });
  }
  SocketResult Send(Message& message, const Deadline& deadline) override {
    return Wait(deadline, &MixedCarrier::send_blocked_ns_, [&] { return TrySend(message); });
  }
  SocketResult TryReceive(Message& message) override {
    return InTurnToReceive([&](Carrier& carrier) { return carrier.TryReceive(message); });
  }
  SocketResult Receive(Message& message, const Deadline& deadline) override {
    return Wait(deadline, &MixedCarrier::receive_blocked_ns_, [&] { return TryReceive(message); });
  }
  SocketResult SendParts(std::span<Message> parts, const Deadline* deadline) override {
    const auto attempt = [&] {
      return InTurnToSend([&](Carrier& carrier) { return carrier.SendParts(parts, nullptr); });
    };
    if (deadline == nullptr) return attempt();
    return Wait(*deadline, &MixedCarrier::send_blocked_ns_, attempt);
  }
  SocketResult ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) override {
    const auto attempt = [&] {
      return InTurnToReceive(
          [&](Carrier& carrier) { return carrier.ReceiveParts(parts, nullptr); });
    };
    if (deadline == nullptr) return attempt();
    return Wait(*deadline, &MixedCarrier::receive_blocked_ns_, attempt);
  }

  Readiness Look() override {
    Readiness ready;
    for (size_t i = 0; i < carriers_.size(); ++i) {
      const Readiness one = carriers_[i]->Look();
      ready.receive |= one.receive && MayReceiveFrom(i);
      ready.send |= one.send && MaySendTo(i);
    }
    return ready;
  }
  uint32_t PeerCount() const override {
    return carriers_[kRing]->PeerCount() + carriers_[kZeromq]->PeerCount();
  }
  absl::StatusOr<int> Descriptor() override { return both_.get(); }

  // Both are closed by the socket.
  void Close() override { both_.reset(); }

  SocketStatistics Statistics() const override {
    SocketStatistics all = carriers_[kRing]->Statistics();
    AddTo(all, carriers_[kZeromq]->Statistics());
    all.send_blocked += absl::Nanoseconds(send_blocked_ns_.value());
    all.receive_blocked += absl::Nanoseconds(receive_blocked_ns_.value());
    return all;
  }

 private:
  static constexpr size_t kRing = 0;
  static constexpr size_t kZeromq = 1;

  // A reply goes where the request came from, and a reply is awaited from where the request went.
  bool MaySendTo(size_t i) const { return context_.pattern != Pattern::kReply || i == last_; }
  bool MayReceiveFrom(size_t i) const {
    return context_.pattern != Pattern::kRequest || i == last_;
  }

  // Each has as many messages in a row as it has peers, so that every peer has its turn.
  template <class Attempt>
  SocketResult InTurnToSend(Attempt attempt) {
    if (context_.pattern == Pattern::kReply) return attempt(*carriers_[last_]);
    if (turns_left_ == 0) NextTurn();
    SocketResult result = attempt(*carriers_[turn_]);
    if (result == SocketResult::kOk) {
      --turns_left_;
      last_ = turn_;
      return result;
    }
    if (result != SocketResult::kWouldBlock) return result;
    // No room: the other one takes what it can, and the next turn begins with it.
    NextTurn();
    result = attempt(*carriers_[turn_]);
    if (result == SocketResult::kOk) {
      --turns_left_;
      last_ = turn_;
    }
    return result;
  }
  void NextTurn() {
    turn_ = 1 - turn_;
    // ZeroMQ does not count those of inproc://.
    turns_left_ = std::max<uint32_t>(carriers_[turn_]->PeerCount(), 1);
  }

  template <class Attempt>
  SocketResult InTurnToReceive(Attempt attempt) {
    if (context_.pattern == Pattern::kRequest) return attempt(*carriers_[last_]);
    // All of one message first.
    for (Carrier* const carrier : carriers_) {
      if (carrier->HasParts()) return attempt(*carrier);
    }
    SocketResult result = SocketResult::kWouldBlock;
    for (size_t i = 0; i < carriers_.size() && result == SocketResult::kWouldBlock; ++i) {
      const size_t from = receive_turn_;
      receive_turn_ = 1 - receive_turn_;
      result = attempt(*carriers_[from]);
      if (result == SocketResult::kOk) last_ = from;
    }
    return result;
  }

  // kWouldBlock: there is no reason not to.
  SocketResult MayWait(const Deadline& deadline);
  // As long as the option says. kWouldBlock: nothing has come by then.
  template <class Attempt>
  SocketResult WaitAwake(int64_t began_ns, const Deadline& deadline, Attempt attempt);
  template <class Attempt>
  SocketResult Wait(const Deadline& deadline, Counter MixedCarrier::*blocked_ns, Attempt attempt);

  const CarrierContext context_;
  const std::array<Carrier*, 2> carriers_;
  UniqueFd both_;  // readable while the descriptor of one of them is
  size_t turn_ = kRing;
  uint32_t turns_left_ = 0;
  size_t receive_turn_ = kRing;
  size_t last_ = kRing;  // which has sent or received last
  Counter send_blocked_ns_;
  Counter receive_blocked_ns_;
};

SocketResult MixedCarrier::MayWait(const Deadline& deadline) {
  if (context_.TakeInterruption()) return SocketResult::kInterrupted;
  if (!context_.member->Usable().ok()) return SocketResult::kUnusable;
  return deadline.expired() ? SocketResult::kTimedOut : SocketResult::kWouldBlock;
}

// Between attempts the core goes to others who want it.
template <class Attempt>
SocketResult MixedCarrier::WaitAwake(int64_t began_ns, const Deadline& deadline, Attempt attempt) {
  constexpr int kTurnsBetweenLooks = 16;
  const int64_t spin_ns = absl::ToInt64Nanoseconds(context_.options.spin);
  if (spin_ns == 0) return SocketResult::kWouldBlock;
  SocketResult result = SocketResult::kWouldBlock;
  carriers_[kRing]->PrepareDescriptor(false);
  while (result == SocketResult::kWouldBlock &&
         MonotonicClock().NowNanoseconds() - began_ns < spin_ns) {
    for (int i = 0; i < kTurnsBetweenLooks && result == SocketResult::kWouldBlock; ++i) {
      RealSync::Pause();
      result = attempt();
    }
    if (result != SocketResult::kWouldBlock) break;
    sched_yield();
    result = MayWait(deadline);
  }
  carriers_[kRing]->PrepareDescriptor(true);
  // The descriptors have to tell of what comes from here on.
  return result == SocketResult::kWouldBlock ? attempt() : result;
}

// An attempt that fails leaves the descriptors of both such that news make them readable.
template <class Attempt>
SocketResult MixedCarrier::Wait(const Deadline& deadline, Counter MixedCarrier::*blocked_ns,
                                Attempt attempt) {
  SocketResult result = attempt();
  if (result != SocketResult::kWouldBlock) return result;
  const int64_t began_ns = MonotonicClock().NowNanoseconds();
  result = WaitAwake(began_ns, deadline, attempt);
  while (result == SocketResult::kWouldBlock) {
    result = MayWait(deadline);
    if (result == SocketResult::kWouldBlock) {
      std::array<pollfd, 3> descriptors{
          pollfd{.fd = both_.get(), .events = POLLIN, .revents = 0},
          pollfd{.fd = context_.socket_interruption->fd(), .events = POLLIN, .revents = 0},
          pollfd{.fd = context_.transport_interruption->fd(), .events = POLLIN, .revents = 0}};
      const auto limit = deadline.Slice(kWaitSlice).RemainingTimespec();
      // What failed is tried again; that also tells ZeroMQ to look at the ends of its peers.
      (void)ppoll(descriptors.data(), descriptors.size(), limit.has_value() ? &*limit : nullptr,
                  nullptr);
      if (descriptors[1].revents != 0 && !context_.socket_interruption->raised()) {
        context_.socket_interruption->Drain();
      }
      if (descriptors[2].revents != 0 && !context_.transport_interruption->raised()) {
        context_.transport_interruption->Drain();
      }
      (void)Look();
      result = attempt();
    }
  }
  (this->*blocked_ns).Add(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - began_ns));
  return result;
}

}  // namespace

absl::Status CheckMixed(Pattern pattern) {
  switch (pattern) {
    case Pattern::kPush:
    case Pattern::kPull:
    case Pattern::kRequest:
    case Pattern::kReply:
      return absl::OkStatus();
    case Pattern::kPair:
      return absl::InvalidArgumentError(
          "a PAIR socket has one peer: its addresses are all of ring://, or none is");
    case Pattern::kPublish:
    case Pattern::kSubscribe:
      break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(PatternName(pattern), " needs addresses of ring:// only"));
}

absl::StatusOr<std::unique_ptr<Carrier>> MakeMixedCarrier(const CarrierContext& context,
                                                          Carrier& ring, Carrier& zeromq) {
  UniqueFd both(epoll_create1(EPOLL_CLOEXEC));
  if (!both.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("epoll_create1: ", std::strerror(errno)));
  }
  for (Carrier* carrier : {&ring, &zeromq}) {
    const absl::StatusOr<int> fd = carrier->Descriptor();
    if (!fd.ok()) return fd.status();
    epoll_event event{};
    event.events = EPOLLIN;
    if (epoll_ctl(both.get(), EPOLL_CTL_ADD, *fd, &event) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat("epoll_ctl: ", std::strerror(errno)));
    }
  }
  return std::make_unique<MixedCarrier>(context, ring, zeromq, std::move(both));
}

}  // namespace handoff::internal

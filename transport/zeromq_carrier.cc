// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_carrier.h"

#include <poll.h>
#include <sys/epoll.h>
#include <zmq.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allocator/channel_table.h"
#include "transport/zeromq_departures.h"
#include "transport/zeromq_port.h"
#include "transport/zeromq_socket.h"

namespace handoff::internal {

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

// Waiting.

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

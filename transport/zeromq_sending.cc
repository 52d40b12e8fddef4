// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <zmq.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/crash_point.h"
#include "transport/frame.h"
#include "transport/parcel.h"
#include "transport/zeromq_port.h"
#include "transport/zeromq_socket.h"

namespace handoff::internal {

// Sending. The life of a message on this carrier is in docs/message_life.md; the steps here are its
// numbers.

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
      waits_for_row_ = !Wrap(member_, parts, &*bundle).ok();
      if (waits_for_row_) {
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
  waits_for_row_ = false;
  if (result == SocketResult::kOk || !bundle.has_value()) return result;
  // Back to the caller.
  std::vector<Message> back;
  if (Unwrap(member_, *bundle, &back)) {
    std::move(back.begin(), back.begin() + std::min(back.size(), parts.size()), parts.begin());
  }
  return result;
}

}  // namespace handoff::internal

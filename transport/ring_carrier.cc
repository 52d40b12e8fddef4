// SPDX-License-Identifier: Apache-2.0
#include "transport/ring_carrier.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "transport/ring_pattern.h"
#include "transport/ring_wait.h"

namespace handoff::internal {

namespace {

RingSender::Options SenderOptions(Pattern pattern) {
  return {.receiver_pattern = static_cast<uint8_t>(Counterpart(pattern)),
          .deals = pattern == Pattern::kPush || pattern == Pattern::kPair,
          .exclusive = pattern == Pattern::kPair,
          .publishes = pattern == Pattern::kPublish,
          .requests = pattern == Pattern::kRequest,
          .replies = pattern == Pattern::kReply};
}

}  // namespace

RingCarrier::RingCarrier(const CarrierContext& context)
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

// REQ: replies come in the order of the requests, so the number of a reply tells what it answers.
bool RingCarrier::IsAwaited(const RingReceiver::Arrival& arrival) {
  if (!asked_ || IsNoReply(arrival.name)) return false;
  lock_.OwnerLock();
  const bool awaited = sender_.LastWas(arrival.from, arrival.number);
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
      // Whoever asked before and got no reply hears so with the next one (RingSender::Reply()).
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

}  // namespace handoff::internal

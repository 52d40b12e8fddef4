// SPDX-License-Identifier: Apache-2.0
#include "transport/socket.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/bundle.h"
#include "transport/mixed_carrier.h"
#include "transport/ring_carrier.h"
#include "transport/transport.h"
#include "transport/zeromq_carrier.h"

namespace handoff {

using internal::Carrier;

Socket::~Socket() {
  if (InForkedChild()) {
    // Its descriptors and threads are the parent's.
    for (auto* carrier : {&mixed_, &ring_, &zeromq_}) static_cast<void>(carrier->release());
    return;
  }
  Close();
  transport_.open_sockets_.fetch_sub(1, std::memory_order_acq_rel);
}

absl::Status Socket::Bind(std::string_view address) { return AttachTo(address, &Carrier::Bind); }

absl::Status Socket::Connect(std::string_view address) {
  return AttachTo(address, &Carrier::Connect);
}

absl::Status Socket::AttachTo(std::string_view address, Attach attach) {
  absl::Status status = transport_.Usable();
  if (!status.ok()) return status;
  if (closed_) return absl::FailedPreconditionError("the socket is closed");
  const absl::StatusOr<Address> parsed = Address::Parse(address);
  if (!parsed.ok()) return parsed.status();
  const bool is_ring = parsed->scheme == Scheme::kRing;
  std::unique_ptr<Carrier>& own = is_ring ? ring_ : zeromq_;
  if (own != nullptr) {
    status = (own.get()->*attach)(*parsed);
    if (status.ok()) last_endpoint_ = own->LastEndpoint();
    return status;
  }
  const bool mixes = ring_ != nullptr || zeromq_ != nullptr;
  if (mixes) {
    status = internal::CheckMixed(pattern_);
    if (status.ok() && gave_descriptor_) {
      status = absl::FailedPreconditionError(
          "the descriptor of the socket has been asked for, and is of its present addresses; the "
          "other kind has to come before that");
    }
    if (!status.ok()) {
      return absl::Status(
          status.code(),
          absl::StrCat("address \"", parsed->text, "\": this socket has addresses of ",
                       is_ring ? "ZeroMQ" : "rings", "; ", std::string(status.message())));
    }
  }
  const internal::CarrierContext context = Context();
  absl::StatusOr<std::unique_ptr<Carrier>> carrier =
      is_ring ? absl::StatusOr<std::unique_ptr<Carrier>>(
                    std::make_unique<internal::RingCarrier>(context))
              : internal::MakeZeromqCarrier(context, transport_.zeromq_);
  if (!carrier.ok()) return carrier.status();
  status = (carrier->get()->*attach)(*parsed);
  if (!status.ok()) return status;
  Carrier* front = carrier->get();
  if (mixes) {
    auto mixed =
        internal::MakeMixedCarrier(context, is_ring ? *front : *ring_, is_ring ? *zeromq_ : *front);
    if (!mixed.ok()) return mixed.status();
    mixed_ = *std::move(mixed);
    front = mixed_.get();
  }
  own = *std::move(carrier);
  last_endpoint_ = own->LastEndpoint();
  if (PatternSends(pattern_)) sender_ = front;
  if (PatternReceives(pattern_)) receiver_ = front;
  carrier_.store(front, std::memory_order_release);
  return status;
}

internal::CarrierContext Socket::Context() {
  return {.member = transport_.member_.get(),
          .socket_interruption = &interruption_,
          .transport_interruption = &transport_interruption_,
          .door_watches = &transport_.door_watches_,
          .pattern = pattern_,
          .options = options_};
}

std::string Socket::LastEndpoint() const { return last_endpoint_; }

Readiness Socket::Ready() {
  if (carrier() == nullptr || InForkedChild()) return {};
  return carrier()->Look();
}

absl::StatusOr<int> Socket::Descriptor() {
  absl::Status status = transport_.Usable();
  if (!status.ok()) return status;
  if (carrier() == nullptr) {
    return absl::FailedPreconditionError(closed_ ? "the socket is closed"
                                                 : "the socket has no address yet");
  }
  absl::StatusOr<int> fd = carrier()->Descriptor();
  if (fd.ok()) gave_descriptor_ = true;
  return fd;
}

SocketResult Socket::SendManyParts(std::span<Message> parts, const Deadline* deadline) {
  if (!MaySend() || (deadline != nullptr && Interrupted())) return RefuseToSend();
  if (parts.empty() || parts.size() > kMaxParts) return SocketResult::kPartCount;
  return sender_->SendParts(parts, deadline);
}

SocketResult Socket::ReceiveManyParts(std::vector<Message>* parts, const Deadline* deadline) {
  parts->clear();
  if (!MayReceive() || (deadline != nullptr && Interrupted())) return RefuseToReceive();
  return receiver_->ReceiveParts(*parts, deadline);
}

SocketResult Socket::RefuseToSend() { return Refuse(PatternSends(pattern_)); }

SocketResult Socket::RefuseToReceive() { return Refuse(PatternReceives(pattern_)); }

SocketResult Socket::WhyNot(bool right_pattern) const {
  if (InForkedChild()) return SocketResult::kUnusable;
  if (!right_pattern) return SocketResult::kWrongPattern;
  if (closed_) return SocketResult::kClosed;
  if (carrier() == nullptr) return SocketResult::kNoAddress;
  return SocketResult::kOk;
}

SocketResult Socket::Refuse(bool right_pattern) {
  const SocketResult reason = WhyNot(right_pattern);
  if (reason != SocketResult::kOk) return reason;
  // That of the transport stays, and one of the socket with it.
  if (!transport_interruption_.raised()) interruption_.Take();
  return SocketResult::kInterrupted;
}

void Socket::Interrupt() noexcept {
  if (InForkedChild()) return;
  interruption_.Raise();
  Carrier* const carrier = carrier_.load(std::memory_order_acquire);
  if (carrier != nullptr) carrier->Wake();
}

SocketStatistics Socket::Statistics() const {
  const Carrier* const carrier = carrier_.load(std::memory_order_acquire);
  if (carrier == nullptr || InForkedChild()) return {};
  return carrier->Statistics();
}

void Socket::Close() {
  if (closed_ || InForkedChild()) return;
  closed_ = true;
  sender_ = nullptr;
  receiver_ = nullptr;
  for (auto* carrier : {&mixed_, &ring_, &zeromq_}) {
    if (*carrier != nullptr) (*carrier)->Close();
  }
}

}  // namespace handoff

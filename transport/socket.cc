// SPDX-License-Identifier: Apache-2.0
#include "transport/socket.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/bundle.h"
#include "transport/ring_carrier.h"
#include "transport/transport.h"
#include "transport/zeromq_carrier.h"

namespace handoff {

using internal::Carrier;

Socket::~Socket() {
  if (InForkedChild()) {
    // Its descriptors and threads are the parent's.
    static_cast<void>(owned_carrier_.release());
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
  if (owned_carrier_ != nullptr) {
    if ((parsed->scheme == Scheme::kRing) != is_ring_) {
      return absl::InvalidArgumentError(
          absl::StrCat("address \"", parsed->text, "\": this socket has ",
                       is_ring_ ? "addresses of rings" : "addresses of ZeroMQ",
                       " and cannot have the other kind, too"));
    }
    return (owned_carrier_.get()->*attach)(*parsed);
  }
  absl::StatusOr<std::unique_ptr<Carrier>> carrier = MakeCarrier(parsed->scheme);
  if (!carrier.ok()) return carrier.status();
  status = (carrier->get()->*attach)(*parsed);
  if (!status.ok()) return status;
  owned_carrier_ = *std::move(carrier);
  is_ring_ = parsed->scheme == Scheme::kRing;
  if (PatternSends(pattern_)) sender_ = owned_carrier_.get();
  if (PatternReceives(pattern_)) receiver_ = owned_carrier_.get();
  carrier_.store(owned_carrier_.get(), std::memory_order_release);
  return status;
}

absl::StatusOr<std::unique_ptr<Carrier>> Socket::MakeCarrier(Scheme scheme) {
  const internal::CarrierContext context{.member = transport_.member_.get(),
                                         .socket_interruption = &interruption_,
                                         .transport_interruption = &transport_interruption_,
                                         .pattern = pattern_,
                                         .options = options_};
  switch (scheme) {
    case Scheme::kRing:
      return internal::MakeRingCarrier(context);
    case Scheme::kIpc:
    case Scheme::kTcp:
    case Scheme::kInproc:
      break;
  }
  return internal::MakeZeromqCarrier(context, transport_.zeromq_);
}

std::string Socket::LastEndpoint() const {
  return owned_carrier_ == nullptr ? "" : owned_carrier_->LastEndpoint();
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

SocketResult Socket::Refuse(bool right_pattern) {
  if (InForkedChild()) return SocketResult::kUnusable;
  if (!right_pattern) return SocketResult::kWrongPattern;
  if (closed_) return SocketResult::kClosed;
  if (owned_carrier_ == nullptr) return SocketResult::kNoAddress;
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
  if (owned_carrier_ != nullptr) owned_carrier_->Close();
}

}  // namespace handoff

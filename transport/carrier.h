// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_CARRIER_H_
#define HANDOFF_TRANSPORT_CARRIER_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "allocator/member.h"
#include "base/clock.h"
#include "transport/address.h"
#include "transport/interruption.h"
#include "transport/message.h"
#include "transport/socket_options.h"
#include "transport/socket_result.h"
#include "transport/socket_statistics.h"

namespace handoff::internal {

// What a carrier has of its socket and of its transport. All pointers outlive the carrier.
struct CarrierContext {
  Member* member = nullptr;
  Interruption* socket_interruption = nullptr;           // one request ends one call
  const Interruption* transport_interruption = nullptr;  // stays until it is taken back
  Pattern pattern = Pattern::kPair;
  SocketOptions options = {};

  // Whether whoever is about to wait must not. Uses up a request to the socket.
  bool TakeInterruption() const {
    return transport_interruption->raised() || socket_interruption->Take();
  }
};

// How the handles of one socket travel. A socket has one carrier, chosen by the scheme of its first
// address, so the path of a message has one virtual call and every wait is inside of it.
//
// One thread at a time, but for what says otherwise. Never called in a forked child, nor for a
// direction that the pattern does not have. Calls other than Close() and Statistics() are not made
// after Close().
class Carrier {
 public:
  virtual ~Carrier() = default;

  // Makes the socket reachable, or reaches out. Failed, nothing has changed.
  virtual absl::Status Bind(const Address& address) = 0;
  virtual absl::Status Connect(const Address& address) = 0;

  // The address of the last success, as a peer on this machine would write it.
  virtual std::string LastEndpoint() const = 0;

  // Hands `message` over and leaves it empty (kOk), or leaves it with the caller. TrySend() never
  // waits. Send() waits for room until the deadline or an interruption, and tries at least once.
  virtual SocketResult TrySend(Message& message) = 0;
  virtual SocketResult Send(Message& message, const Deadline& deadline) = 0;

  // Fills `message`, which is empty. What makes no sense is dropped and counted on the way.
  virtual SocketResult TryReceive(Message& message) = 0;
  virtual SocketResult Receive(Message& message, const Deadline& deadline) = 0;

  // The same for several messages as one, all or nothing. With no deadline they never wait.
  // `parts` of a send are 1 to kMaxParts; those of a receive are added to the vector.
  virtual SocketResult SendParts(std::span<Message> parts, const Deadline* deadline) = 0;
  virtual SocketResult ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) = 0;

  // Any thread or signal handler, after an interruption was raised: ends the wait that is under
  // way, where that takes more than the descriptors of the interruptions.
  virtual void Wake() noexcept {}

  // Lets go of all peers and names. Again: nothing.
  virtual void Close() = 0;

  // Any thread.
  virtual SocketStatistics Statistics() const = 0;
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_CARRIER_H_

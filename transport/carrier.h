// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_CARRIER_H_
#define HANDOFF_TRANSPORT_CARRIER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/member.h"
#include "allocator/ring_layout.h"
#include "base/clock.h"
#include "transport/address.h"
#include "transport/door_watch.h"
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
  DoorWatches* door_watches = nullptr;
  Pattern pattern = Pattern::kPair;
  SocketOptions options = {};

  // Whether whoever is about to wait must not. Uses up a request to the socket.
  bool TakeInterruption() const {
    return transport_interruption->raised() || socket_interruption->Take();
  }
};

// How the handles of one socket travel. A socket has one carrier for all its addresses of rings and
// one for all those of ZeroMQ; the path of a message has one virtual call and every wait is inside
// of it. Only a socket with both kinds has a third one in front, which deals to both.
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

  // Whether parts are left of a message that is received one by one.
  virtual bool HasParts() const { return false; }

  // What could be done now without waiting, for the directions that the pattern has. Right but for
  // what has come and makes no sense: that is dropped by the receive that finds it.
  virtual Readiness Look() = 0;

  // Peers that there are to send to, as far as is known.
  virtual uint32_t PeerCount() const = 0;

  // A descriptor that becomes readable when anything changes after the last Look(), or after the
  // last try that said kWouldBlock. The same at every call, until Close(). kResourceExhausted.
  virtual absl::StatusOr<int> Descriptor() = 0;

  // Whether tries that fail prepare Descriptor() for news, as they do at first: not needed, and
  // dearer for peers, while the caller stays awake.
  virtual void PrepareDescriptor(bool prepares) { static_cast<void>(prepares); }

  // The door where all that concerns the socket is told, for who sleeps at several by the protocol
  // of ring_wait.h. Null: there is more than a door.
  virtual Door* SleepsAt() { return nullptr; }

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

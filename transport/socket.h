// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_SOCKET_H_
#define HANDOFF_TRANSPORT_SOCKET_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fork_guard.h"
#include "transport/address.h"
#include "transport/carrier.h"
#include "transport/interruption.h"
#include "transport/message.h"
#include "transport/socket_options.h"
#include "transport/socket_result.h"
#include "transport/socket_statistics.h"

namespace handoff {

class Transport;

// One end of a channel: sends and receives messages by a pattern. Made by
// Transport::CreateSocket(), and gone before its transport.
//
//   auto socket = transport->CreateSocket(Pattern::kPush);
//   (*socket)->Bind("ipc:///tmp/frames");
//   if ((*socket)->Send(std::move(message), Deadline::After(absl::Seconds(1))) !=
//   SocketResult::kOk) ...
//
// One thread at a time uses a socket; any other thread or a signal handler may call Interrupt(),
// any thread Statistics(). In a forked child the calls fail with kUnusable or kFailedPrecondition.
class Socket {
 public:
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  Pattern pattern() const { return pattern_; }

  // Makes the socket reachable at an address (ring://, ipc://, tcp://, inproc://), or reaches out
  // to one; each any number of times and in either order. Connecting does not wait for the other
  // side; again to the same ring:// address, it changes nothing. tcp://*:* takes a free port,
  // LastEndpoint() tells which.
  //
  // A PUSH, PULL, REQUEST or REPLY socket may have addresses of rings and of ZeroMQ at once: it
  // deals to all peers in turn, takes from all in turn, and replies to who asked. It waits a little
  // longer for rings than a socket that has no others. The other patterns cannot: a PAIR has one
  // peer, and one-to-many needs ring://.
  //
  // Failed, nothing has changed. kInvalidArgument: no such address, or one that this pattern cannot
  // have. kAlreadyExists: another socket is bound there. kPermissionDenied, kNotFound,
  // kResourceExhausted: the system refuses. kFailedPrecondition: closed, forked, a socket of
  // another pattern waits there, or the first address of its kind after Descriptor().
  absl::Status Bind(std::string_view address);
  absl::Status Connect(std::string_view address);

  // The address of the last successful call of these, as a peer on this machine would write it;
  // empty before.
  std::string LastEndpoint() const;

  // Hands the message over; it is empty afterwards (kOk). On every other result the caller still
  // has it. Waits for a receiver with room until the deadline (kTimedOut), but tries at least once.
  // kInterrupted, kClosed, kNoAddress, kWrongPattern, kForeignMessage, kUnusable: as they say. The
  // try never waits: kWouldBlock where the other would have.
  SocketResult Send(Message&& message, const Deadline& deadline) {
    if (__builtin_expect(!MaySend() || Interrupted(), 0)) return RefuseToSend();
    return sender_->Send(message, deadline);
  }
  SocketResult TrySend(Message&& message) {
    if (__builtin_expect(!MaySend(), 0)) return RefuseToSend();
    return sender_->TrySend(message);
  }

  // Puts the next message into *message. What was in it is released first, whatever the result.
  // Waits until the deadline (kTimedOut), but looks at least once. What a peer sends that is no
  // valid handle is dropped and counted on the way. The try never waits: kWouldBlock. Other results
  // as of Send().
  SocketResult Receive(Message* message, const Deadline& deadline) {
    message->Release();
    if (__builtin_expect(!MayReceive() || Interrupted(), 0)) return RefuseToReceive();
    return receiver_->Receive(*message, deadline);
  }
  SocketResult TryReceive(Message* message) {
    message->Release();
    if (__builtin_expect(!MayReceive(), 0)) return RefuseToReceive();
    return receiver_->TryReceive(*message);
  }

  // Hands several messages over as one: all are empty afterwards, or none was changed but that some
  // may be shared now. 1 to kMaxParts (bundle.h: 4096), else kPartCount. Otherwise as Send() and
  // TrySend().
  SocketResult SendParts(std::span<Message> parts, const Deadline& deadline) {
    return SendManyParts(parts, &deadline);
  }
  SocketResult TrySendParts(std::span<Message> parts) { return SendManyParts(parts, nullptr); }

  // The parts of the next message, in order; what was in *parts is released first. A message that
  // was not sent in parts is one part. Receive() gives the parts of such a message one after the
  // other. Otherwise as Receive() and TryReceive().
  SocketResult ReceiveParts(std::vector<Message>* parts, const Deadline& deadline) {
    return ReceiveManyParts(parts, &deadline);
  }
  SocketResult TryReceiveParts(std::vector<Message>* parts) {
    return ReceiveManyParts(parts, nullptr);
  }

  // What could be done now without waiting; both false where the pattern, a missing address or
  // Close() forbid it. A receive may still find nothing, if what has come makes no sense.
  Readiness Ready();

  // For an event loop of somebody else: a descriptor to be watched for being readable (POLLIN,
  // EPOLLIN). It stays the same until Close(), and is neither read nor written nor closed by the
  // caller. It tells of changes only, in either direction:
  //
  //   1. readable: use the try-variants until they say kWouldBlock, or Ready()
  //   2. only then wait: what happens after the last such call makes it readable again
  //
  // Whoever sends and receives on one socket takes Ready() as that last call, since a try in one
  // direction may use up the news of the other. It may be readable without need. From the first
  // call on a socket of rings has a thread of the transport to write the descriptor: messages come
  // some 20 us later than to who sleeps in Receive() or in a Poller.
  // kFailedPrecondition: no address yet, closed, or forked. kResourceExhausted: no descriptors.
  absl::StatusOr<int> Descriptor();

  // Ends the Send() or Receive() that is under way, or else the next one, with kInterrupted, once.
  // Any thread, any number of times; async-signal-safe.
  void Interrupt() noexcept;

  // Any thread.
  SocketStatistics Statistics() const;

  // Lets go of all addresses; everything later ends with kClosed. Handles that were sent go on, up
  // to the option `linger`. Again: nothing.
  void Close();

 private:
  friend class Transport;
  friend class Poller;

  Socket(Transport& transport, const Interruption& transport_interruption, Pattern pattern,
         const SocketOptions& options)
      : transport_(transport),
        transport_interruption_(transport_interruption),
        pattern_(pattern),
        options_(options) {}

  bool MaySend() const { return sender_ != nullptr && !InForkedChild(); }
  bool MayReceive() const { return receiver_ != nullptr && !InForkedChild(); }
  bool InForkedChild() const { return ForkGeneration() != fork_generation_; }
  bool Interrupted() const { return interruption_.raised() || transport_interruption_.raised(); }
  SocketResult SendManyParts(std::span<Message> parts, const Deadline* deadline);
  SocketResult ReceiveManyParts(std::vector<Message>* parts, const Deadline* deadline);
  SocketResult RefuseToSend();
  SocketResult RefuseToReceive();
  // Says why not; with no other reason it is an interruption.
  SocketResult Refuse(bool right_pattern);
  SocketResult WhyNot(bool right_pattern) const;
  internal::Carrier* carrier() const { return sender_ != nullptr ? sender_ : receiver_; }

  using Attach = absl::Status (internal::Carrier::*)(const Address&);
  absl::Status AttachTo(std::string_view address, Attach attach);
  internal::CarrierContext Context();

  Transport& transport_;
  const Interruption& transport_interruption_;
  const Pattern pattern_;
  const SocketOptions options_;
  const uint32_t fork_generation_ = ForkGeneration();
  Interruption interruption_;

  // The carrier in the directions that the pattern has, once there is one and until Close(): that
  // of rings, that of ZeroMQ, or the mixed one, which uses both.
  internal::Carrier* sender_ = nullptr;
  internal::Carrier* receiver_ = nullptr;

  // The same for other threads. All live as long as the socket.
  std::atomic<internal::Carrier*> carrier_{nullptr};
  std::unique_ptr<internal::Carrier> ring_;
  std::unique_ptr<internal::Carrier> zeromq_;
  std::unique_ptr<internal::Carrier> mixed_;
  std::string last_endpoint_;
  bool gave_descriptor_ = false;
  bool closed_ = false;
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_SOCKET_H_

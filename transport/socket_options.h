// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_SOCKET_OPTIONS_H_
#define HANDOFF_TRANSPORT_SOCKET_OPTIONS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace handoff {

// What a socket does with messages.
enum class Pattern {
  kPush,       // sends each message to one of the connected kPull, in turn, to who has room
  kPull,       // receives from all connected kPush in turn
  kPair,       // sends to and receives from exactly one other kPair
  kRequest,    // sends a request to one of the connected kReply, then receives the reply
  kReply,      // receives a request, then sends the reply to who asked
  kPublish,    // sends each message to all connected kSubscribe
  kSubscribe,  // receives from all connected kPublish
};

// "PUSH", "PULL", ...
const char* PatternName(Pattern pattern);

// Whether a socket of this pattern can send, or receive, at all.
bool PatternSends(Pattern pattern);
bool PatternReceives(Pattern pattern);

// What a subscriber wants of a publisher when it has as many messages waiting as it wants.
enum class SlowPolicy : uint8_t {
  kBlock = 0,       // the publisher waits
  kDropNewest = 1,  // what does not fit is not sent to it
  kDropOldest = 2,  // the oldest that it has not taken makes room
};

// For Transport::CreateSocket(), which keeps a copy.
struct SocketOptions {
  // High-water marks, in messages, for each peer: so many may wait at the sender, and as many at
  // the receiver, before a send has to wait. 1 to 1 000 000; on ring:// up to 8192, which Bind()
  // and Connect() check. On ZeroMQ addresses what the kernel's buffers hold comes on top of that.
  // Raise them for bursts, lower them to keep less memory under way.
  uint32_t send_high_water_mark = 1024;
  uint32_t receive_high_water_mark = 1024;

  // Kernel buffers of ipc:// and tcp://, in bytes, up to 1 GiB; 0: what the system gives. A handle
  // takes 58.
  uint32_t kernel_send_buffer_bytes = 0;
  uint32_t kernel_receive_buffer_bytes = 0;

  // Of ZeroMQ addresses: how long the end of the transport waits, from the Close() of the socket
  // on, for handles that have been sent but not handed to the system, or, on ipc://, not read by
  // the receiver's process, whose queue may be full; what waits then is lost. 0 to 1 hour.
  absl::Duration linger = absl::Milliseconds(500);

  // Pause before a lost or refused connection is tried again; with every failure it doubles, up to
  // the second value (zero: stays the same). 1 ms to 1 hour.
  absl::Duration reconnect_interval = absl::Milliseconds(20);
  absl::Duration reconnect_interval_max = absl::Seconds(1);

  // Of bound ipc:// and tcp:// addresses: connections that wait to be taken up. 1 to 65 535. Raise
  // it where thousands connect at once.
  uint32_t backlog = 100;

  // Of tcp:// addresses. Lets the system notice a machine that has gone without a word, in a time
  // that it chooses (often two hours); no notice is taken of a process that is merely stopped.
  bool tcp_keepalive = false;

  // Of tcp:// addresses: names and addresses of IPv6, too.
  bool ipv6 = false;

  // Of ring:// addresses, and of a socket that has others as well. How long a call that has to wait
  // stays awake before it sleeps: what comes within that time is received some 50 us earlier, for a
  // processor that is busy meanwhile. 0 to 1 s.
  absl::Duration spin = absl::Microseconds(30);

  // Of kSubscribe on ring:// addresses: what a publisher does when `receive_high_water_mark`
  // messages wait for this subscriber.
  SlowPolicy slow_policy = SlowPolicy::kBlock;

  // Of kSubscribe: messages that begin with one of these are received. Up to 32 of up to 63 bytes;
  // the empty one stands for all messages.
  std::vector<std::string> topics = {""};

  // kInvalidArgument: names the option, its value and its range.
  absl::Status Validate() const;

  // Sets one option by its name in configuration files:
  //
  //   snd-hwm, rcv-hwm                    the high-water marks
  //   snd-kernel-size, rcv-kernel-size    the kernel buffers
  //   slow-policy                         block, drop-newest or drop-oldest
  //   topics                              separated by commas
  //
  // and backlog, ipv6, linger, reconnect-interval, reconnect-interval-max, spin, tcp-keepalive.
  // Durations have a unit ("20ms", "1.5s"); a bare number is milliseconds. Switches are true or
  // false, 1 or 0. kInvalidArgument: no such option, naming all there are; or no such value, or one
  // out of its range. Then nothing has changed.
  absl::Status Set(std::string_view name, std::string_view value);
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_SOCKET_OPTIONS_H_

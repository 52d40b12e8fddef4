// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_POLLER_H_
#define HANDOFF_TRANSPORT_POLLER_H_

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "transport/interruption.h"
#include "transport/socket.h"
#include "transport/socket_result.h"

namespace handoff {

struct PollerOptions {
  // How long Wait() stays awake before it sleeps, if one of its sockets has ring:// addresses: what
  // comes within that time is seen some 50 us earlier, for a processor that is busy meanwhile.
  // 0 to 1 s.
  absl::Duration spin = absl::Microseconds(30);
};

// What Wait() waits for: a socket, or, without one, a descriptor of the system; a negative one is
// never ready. Both stay their owner's.
struct PollItem {
  Socket* socket = nullptr;
  int fd = -1;

  // To receive, or to read; to send, or to write.
  bool for_receive = true;
  bool for_send = false;

  // Set by Wait(): what can be done now, of what was asked for. A descriptor with an error, or
  // whose other end has gone, can be read, and written: that tells.
  Readiness ready = {};
};

// Waits for several sockets, of any carriers and transports, and for plain descriptors.
//
//   PollItem items[] = {{.socket = commands.get()}, {.socket = data.get()}, {.fd = STDIN_FILENO}};
//   while (poller->Wait(items, Deadline::Infinite()) == SocketResult::kOk) {
//     if (items[0].ready.receive) ...
//   }
//
// One thread at a time waits, with sockets that no other thread uses meanwhile; any other thread or
// a signal handler may call Interrupt(). Sockets of ring:// alone are waited for by one sleep at
// all of their doors, if the kernel can do that (Linux 5.16) and there are at most 127; otherwise,
// and with others among them, by the descriptors of all. In both cases sleeping costs nothing, and
// a wake that was lost because the waker was killed is made up for within 50 ms.
class Poller {
 public:
  // kInvalidArgument: an option. kResourceExhausted: no descriptors left.
  static absl::StatusOr<std::unique_ptr<Poller>> Create(const PollerOptions& options = {});
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  // Waits until at least one item is ready, but looks at least once, and sets `ready` of all.
  // Without items it waits for an interruption or the deadline. What is ready stays so until it is
  // used, so a further call returns at once. A receive may still find nothing, if what has come
  // makes no sense: use TryReceive(), or a deadline.
  // kTimedOut: nothing until the deadline. kInterrupted: Interrupt(), or Interrupt() of the
  // transport of one of the sockets. kWrongPattern, kNoAddress, kClosed: one of the sockets cannot
  // do what it is waited for. kUnusable: in a forked child, or no descriptors are left.
  SocketResult Wait(std::span<PollItem> items, const Deadline& deadline);

  // Ends the Wait() that is under way, or else the next one, with kInterrupted, once. Any thread,
  // any number of times; async-signal-safe.
  void Interrupt() noexcept;

 private:
  explicit Poller(absl::Duration spin) : spin_ns_(absl::ToInt64Nanoseconds(spin)) {}

  SocketResult Check(std::span<PollItem> items) const;
  // Sets `ready`; true if an item is.
  static bool Look(std::span<PollItem> items);
  bool TakeInterruption(std::span<PollItem> items);
  bool IsInterrupted(std::span<PollItem> items) const;
  bool Spin(std::span<PollItem> items, const Deadline& deadline);
  void SleepAtDoors(std::span<PollItem> items, const Deadline& deadline);
  bool SleepAtDescriptors(std::span<PollItem> items, const Deadline& deadline);

  const int64_t spin_ns_;
  Interruption interruption_;
  std::atomic<uint32_t> interrupted_{0};  // the same, to sleep on
  std::vector<pollfd> descriptors_;       // for the next sleep
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_POLLER_H_

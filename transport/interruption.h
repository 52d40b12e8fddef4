// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_INTERRUPTION_H_
#define HANDOFF_TRANSPORT_INTERRUPTION_H_

#include <atomic>

#include "absl/status/status.h"
#include "base/unique_fd.h"

namespace handoff {

// A request to stop waiting: raised by any thread or signal handler, seen by who is about to wait,
// and a descriptor that wakes who waits already.
//
//   1. who raises sets the flag (release), then makes the descriptor readable
//   2. who waits looks at the flag (acquire), then sleeps on the descriptor
// So whoever sleeps after 1 is woken, and whoever looks after 1 does not sleep. One who wakes and
// finds the flag down calls Drain() and sleeps again.
class Interruption {
 public:
  Interruption() = default;
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  // Before anything else, once. kResourceExhausted: no descriptor left.
  absl::Status Open();

  // Any thread, any number at a time; async-signal-safe.
  void Raise() noexcept;

  // Any thread. One load.
  bool raised() const { return raised_.load(std::memory_order_acquire); }
  const std::atomic<bool>& flag() const { return raised_; }

  // Takes the request back. True if there was one.
  bool Take();

  // Makes the descriptor unreadable while the flag is down.
  void Drain() const;

  // Readable while raised. Not blocking, close-on-exec.
  int fd() const { return event_fd_.get(); }

 private:
  void MakeReadable() const noexcept;

  std::atomic<bool> raised_{false};
  UniqueFd event_fd_;
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_INTERRUPTION_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ZEROMQ_PEERS_H_
#define HANDOFF_TRANSPORT_ZEROMQ_PEERS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace handoff::internal {

// Counts the peers of one ZeroMQ socket, from the events that ZeroMQ reports about it. Those of
// inproc:// are not reported.
class ZeromqPeers {
 public:
  // Before the socket is bound or connected. `context` is that of `socket`; both outlive this
  // object, unless Stop() was called. kResourceExhausted: no descriptors left.
  static absl::StatusOr<std::unique_ptr<ZeromqPeers>> Watch(void* context, void* socket);
  ~ZeromqPeers();
  ZeromqPeers(const ZeromqPeers&) = delete;
  ZeromqPeers& operator=(const ZeromqPeers&) = delete;

  // Those that are connected now. Any thread. Called now and then by whoever waits, too: ZeroMQ
  // keeps what it has to report until somebody asks.
  uint32_t Count();

  // Readable when there may be something to count; Count() makes it unreadable. -1 once stopped.
  int fd();

  // Whether Count() has learned of a peer's end since this was asked last. The socket may not know
  // it yet and take messages for that peer, until it has looked at what other threads have told it.
  bool TakeLoss() {
    return lost_.load(std::memory_order_relaxed) &&
           lost_.exchange(false, std::memory_order_relaxed);
  }

  // How many connections have ended, as far as Count() has learned. Any thread.
  uint64_t losses() const { return losses_.load(std::memory_order_relaxed); }

  // Of the connections, as far as ZeroMQ has reported them. They are ZeroMQ's, which may close them
  // at any time. Any thread.
  std::set<int> Descriptors();

  // Before the socket is closed, by the thread that uses it. Then there are no peers.
  void Stop();

 private:
  ZeromqPeers(void* socket, void* events) : socket_(socket), events_(events) {}

  void Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Handle(uint16_t event, int value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void* const socket_;
  absl::Mutex mutex_;
  void* events_ ABSL_GUARDED_BY(mutex_);  // where the reports come; null once stopped
  int64_t connected_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<int> descriptors_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> lost_{false};
  std::atomic<uint64_t> losses_{0};
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_ZEROMQ_PEERS_H_

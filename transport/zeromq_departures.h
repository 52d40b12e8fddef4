// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ZEROMQ_DEPARTURES_H_
#define HANDOFF_TRANSPORT_ZEROMQ_DEPARTURES_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allocator/ring_table.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "transport/zeromq_peers.h"

namespace handoff::internal {

// Keeps the ipc:// connections of closed sockets open until their peers have read what was sent.
//
// ZeroMQ stops reading a connection while its receiver's queue is full, and drops all that the
// system still holds for it when it learns in that time that the other side has closed. A Unix
// socket says so at once; a TCP connection only behind the last byte, so those are left alone. The
// other side has not closed as long as there is a copy of its descriptor. Any thread.
class ZeromqDepartures final : public RingUser {
 public:
  ZeromqDepartures() = default;
  ZeromqDepartures(const ZeromqDepartures&) = delete;
  ZeromqDepartures& operator=(const ZeromqDepartures&) = delete;

  // Right before the socket that has these peers is closed. None is kept longer than `linger`. With
  // no descriptors left, nothing is kept.
  void Keep(ZeromqPeers& peers, absl::Duration linger);

  // Closes what nobody has to wait for any more.
  void OnTick() override { (void)Settle(); }

  // Until all are closed. The context of their sockets is terminated: all is handed to the system.
  void Wait();

 private:
  struct Connection {
    int original;  // of ZeroMQ, which closes it once all is handed to the system
    UniqueFd copy;
    Deadline end;
  };

  static bool IsOver(const Connection& connection);
  // Whether none is left.
  bool Settle();

  absl::Mutex mutex_;
  std::vector<Connection> connections_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_ZEROMQ_DEPARTURES_H_

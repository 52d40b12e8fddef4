// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_SOCKET_COUNTERS_H_
#define HANDOFF_TRANSPORT_SOCKET_COUNTERS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/counter.h"
#include "transport/socket_statistics.h"

namespace handoff {

// What a carrier counts. The thread that uses the socket counts, any thread takes a snapshot.
class SocketCounters {
 public:
  void Sent(uint64_t size_bytes) {
    messages_sent_.Add(1);
    bytes_sent_.Add(size_bytes);
  }
  void Received(uint64_t size_bytes) {
    messages_received_.Add(1);
    bytes_received_.Add(size_bytes);
  }
  void SendBlocked(uint64_t nanoseconds) { send_blocked_ns_.Add(nanoseconds); }
  void ReceiveBlocked(uint64_t nanoseconds) { receive_blocked_ns_.Add(nanoseconds); }

  enum class Drop { kForeign, kBad, kStale };
  // Something of `peer` was dropped. Takes a lock.
  void Dropped(Drop drop, const std::string& peer, const std::string& reason);

  // All but connected_peers.
  SocketStatistics Snapshot() const;

 private:
  Counter messages_sent_;
  Counter bytes_sent_;
  Counter messages_received_;
  Counter bytes_received_;
  Counter send_blocked_ns_;
  Counter receive_blocked_ns_;
  Counter foreign_frames_;
  Counter bad_frames_;
  Counter stale_handles_;

  mutable absl::Mutex mutex_;
  std::map<std::string, RefusedPeer> refused_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_SOCKET_COUNTERS_H_

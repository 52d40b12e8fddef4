// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_counters.h"

namespace handoff {

void SocketCounters::Dropped(Drop drop, const std::string& peer, const std::string& reason) {
  switch (drop) {
    case Drop::kForeign:
      foreign_frames_.Add(1);
      break;
    case Drop::kBad:
      bad_frames_.Add(1);
      break;
    case Drop::kStale:
      stale_handles_.Add(1);
      break;
  }
  absl::MutexLock lock(&mutex_);
  const auto known = refused_.find(peer);
  if (known != refused_.end()) {
    ++known->second.frames;
  } else if (refused_.size() < SocketStatistics::kMaxRefusedPeers) {
    refused_.emplace(peer, RefusedPeer{peer, reason, 1});
  }
}

SocketStatistics SocketCounters::Snapshot() const {
  SocketStatistics statistics;
  statistics.messages_sent = messages_sent_.value();
  statistics.bytes_sent = bytes_sent_.value();
  statistics.messages_received = messages_received_.value();
  statistics.bytes_received = bytes_received_.value();
  statistics.send_blocked = absl::Nanoseconds(send_blocked_ns_.value());
  statistics.receive_blocked = absl::Nanoseconds(receive_blocked_ns_.value());
  statistics.foreign_frames = foreign_frames_.value();
  statistics.bad_frames = bad_frames_.value();
  statistics.stale_handles = stale_handles_.value();
  absl::MutexLock lock(&mutex_);
  for (const auto& [peer, refused] : refused_) statistics.refused_peers.push_back(refused);
  return statistics;
}

}  // namespace handoff

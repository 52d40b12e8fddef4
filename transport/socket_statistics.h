// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_SOCKET_STATISTICS_H_
#define HANDOFF_TRANSPORT_SOCKET_STATISTICS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace handoff {

// A peer of which something was refused.
struct RefusedPeer {
  std::string peer;    // "pid 4711 (uid 1000)", an IP address, or "this process"
  std::string reason;  // of the first refusal, with both sides named where they differ
  uint64_t frames = 0;
};

// A peer, in one direction: on ring:// addresses one that is connected now. Time that a call has
// waited is nobody's: whoever waits, waits for any of its peers.
struct PeerStatistics {
  std::string peer;  // as above, with the member's name
  uint64_t messages_sent = 0;
  uint64_t bytes_sent = 0;
  uint64_t messages_received = 0;
  uint64_t bytes_received = 0;
  // On ring:// addresses: messages sent to it that it has not taken, or those of it that wait here.
  // 0 on ZeroMQ addresses, where nobody can tell.
  uint64_t depth = 0;
  uint64_t dropped_messages = 0;  // not sent to it, or taken back from it, because it was slow
  uint64_t refused_frames = 0;    // of all that came from it and was dropped
};

// A socket since it was made, at about one moment.
struct SocketStatistics {
  uint64_t messages_sent = 0;
  uint64_t bytes_sent = 0;  // of the messages, which nobody copied
  uint64_t messages_received = 0;
  uint64_t bytes_received = 0;

  // Time that calls have waited, for room or for a message.
  absl::Duration send_blocked;
  absl::Duration receive_blocked;

  // Not sent, or taken back, because a subscriber was slow or an asker had gone.
  uint64_t dropped_messages = 0;

  // What has come and was dropped.
  uint64_t foreign_frames = 0;  // handles of another session or build
  uint64_t bad_frames = 0;      // no handles at all, or ones that make no sense here
  uint64_t stale_handles = 0;   // their block belongs to somebody else by now

  // Whose those were, at most kMaxRefusedPeers; the frames of further ones are only counted above.
  static constexpr size_t kMaxRefusedPeers = 64;
  std::vector<RefusedPeer> refused_peers;

  // Peers at the other end now. Those of inproc:// are not counted.
  uint32_t connected_peers = 0;
  // On ZeroMQ addresses those that something has come from, also if they have gone since: who takes
  // what is sent is not known there.
  std::vector<PeerStatistics> peers;
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_SOCKET_STATISTICS_H_

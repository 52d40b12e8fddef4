// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/channel.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace handoff::pipeline {

absl::StatusOr<std::unique_ptr<Transport>> OpenTransport(const Options& options,
                                                         const std::string& name) {
  TransportOptions transport;
  transport.session = options.session;
  transport.shm_dir = options.shm_dir;
  transport.segment_size_bytes = options.segment_bytes;
  transport.member_name = name;
  return Transport::Open(transport);
}

absl::Status SendUnlessStopped(Socket& socket, Message& message, const Progress& progress) {
  for (;;) {
    const SocketResult result = socket.Send(std::move(message), Deadline::After(kSlice));
    if (result == SocketResult::kOk) return absl::OkStatus();
    if (result != SocketResult::kTimedOut) {
      return absl::InternalError(absl::StrCat("send: ", DescribeSocketResult(result)));
    }
    if (progress.Stopped()) return absl::CancelledError("stopped");
  }
}

absl::Status ReceiveForASlice(Socket& socket, Message* message) {
  const SocketResult result = socket.Receive(message, Deadline::After(kSlice));
  if (result == SocketResult::kOk || result == SocketResult::kTimedOut) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("receive: ", DescribeSocketResult(result)));
}

bool KnowsOnlyTheLiving(const Socket& socket, const Options& options, const Progress& progress) {
  const SocketStatistics statistics = socket.Statistics();
  // On ZeroMQ addresses the list of peers has those, too, that have gone.
  if (!absl::StartsWith(options.done_address, "ring://")) {
    uint32_t living = 0;
    for (uint32_t i = 0; i < options.workers; ++i) {
      if (progress.workers[i].pid.load(std::memory_order_acquire) != 0) ++living;
    }
    return statistics.connected_peers <= living;
  }
  return std::all_of(statistics.peers.begin(), statistics.peers.end(), [&](const auto& peer) {
    for (uint32_t i = 0; i < options.workers; ++i) {
      const int32_t pid = progress.workers[i].pid.load(std::memory_order_acquire);
      if (pid != 0 && absl::StartsWith(peer.peer, absl::StrCat("pid ", pid, " "))) return true;
    }
    return false;
  });
}

}  // namespace handoff::pipeline

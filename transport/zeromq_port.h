// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ZEROMQ_PORT_H_
#define HANDOFF_TRANSPORT_ZEROMQ_PORT_H_

#include <zmq.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/address.h"
#include "transport/ipc_path.h"
#include "transport/socket_options.h"
#include "transport/zeromq_peers.h"

namespace handoff::internal {

// One socket of ZeroMQ, with our patterns and options, that sends and receives frames without ever
// waiting. One thread at a time, but for peers().
//
// PUSH, PULL and PAIR are ZeroMQ's. REQ is its DEALER and REP its ROUTER, because ZeroMQ's own REQ
// and REP stop for ever when a peer dies between request and reply: the frames say themselves what
// they answer.
class ZeromqPort {
 public:
  // `context` outlives it. kResourceExhausted: no descriptors left.
  static absl::StatusOr<std::unique_ptr<ZeromqPort>> Open(void* context, Pattern pattern,
                                                          const SocketOptions& options);
  ~ZeromqPort();
  ZeromqPort(const ZeromqPort&) = delete;
  ZeromqPort& operator=(const ZeromqPort&) = delete;

  // Whether ZeroMQ carries this pattern at all.
  static bool Carries(Pattern pattern);

  // Failed, nothing has changed.
  absl::Status Bind(const Address& address);
  absl::Status Connect(const Address& address);
  // The address of the last success.
  const std::string& last_endpoint() const { return last_endpoint_; }

  enum class [[nodiscard]] Result{
      kDone,
      kWouldBlock,  // no room, or nothing there
      kPeerGone,    // REP: who asked has gone
  };
  // To whom ZeroMQ chooses; REP: to `peer`, as Receive() named it.
  Result Send(std::span<const std::byte> bytes, const std::string& peer);
  // The next frame, until the next call; REP: and who sent it. `several`: it came with others,
  // which are dropped.
  struct Received {
    std::span<const std::byte> bytes;
    bool several = false;
  };
  Result Receive(Received* received, std::string* peer);
  // For people: who has sent the last frame.
  std::string DescribeSender();

  // What it can do now, as ZMQ_POLLIN and ZMQ_POLLOUT. Handles all that other threads have told the
  // socket: from here on news make fd() readable, until the next call.
  int Events();
  int fd() const { return fd_; }

  // Whether somebody is there to send to, as far as can be known. Any thread.
  bool HasPeer() const {
    return has_inproc_.load(std::memory_order_relaxed) || peers_->Count() > 0;
  }
  ZeromqPeers& peers() const { return *peers_; }

  // Lets go of all addresses. Handles that were sent go on, up to the linger.
  void Close();

 private:
  ZeromqPort(void* socket, bool routes, std::unique_ptr<ZeromqPeers> peers, int fd)
      : socket_(socket), routes_(routes), peers_(std::move(peers)), fd_(fd) {
    zmq_msg_init(&frame_);
  }

  absl::Status BindIpc(const Address& address);
  void Attached(const Address& address);
  // 0, or the error of ZeroMQ.
  int SendPart(std::span<const std::byte> bytes, int flags);
  bool ReceivePart();

  void* socket_;  // null once closed
  const bool routes_;
  const std::unique_ptr<ZeromqPeers> peers_;
  const int fd_;
  zmq_msg_t frame_;                      // the last one received
  std::atomic<bool> has_inproc_{false};  // read by other threads
  std::string last_endpoint_;
  std::vector<IpcFile> ipc_files_;
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_ZEROMQ_PORT_H_

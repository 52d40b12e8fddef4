// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_peers.h"

#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace handoff::internal {

namespace {

constexpr int kFailures = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

}  // namespace

absl::StatusOr<std::unique_ptr<ZeromqPeers>> ZeromqPeers::Watch(void* context, void* socket) {
  static std::atomic<uint64_t> number{0};
  const std::string name =
      absl::StrCat("inproc://handoff.peers.", number.fetch_add(1, std::memory_order_relaxed));
  const auto failed = [&](const char* what) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", zmq_strerror(errno)));
  };
  constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | kFailures;
  if (zmq_socket_monitor(socket, name.c_str(), kEvents) != 0) return failed("zmq_socket_monitor");
  void* const events = zmq_socket(context, ZMQ_PAIR);
  if (events == nullptr) {
    const absl::Status status = failed("zmq_socket");
    zmq_socket_monitor(socket, nullptr, 0);
    return status;
  }
  // Without a limit, or ZeroMQ's own threads would wait for us to read.
  const int none = 0;
  HANDOFF_CHECK_EQ(zmq_setsockopt(events, ZMQ_RCVHWM, &none, sizeof(none)), 0);
  HANDOFF_CHECK_EQ(zmq_setsockopt(events, ZMQ_LINGER, &none, sizeof(none)), 0);
  HANDOFF_CHECK_EQ(zmq_connect(events, name.c_str()), 0) << zmq_strerror(errno);
  return std::unique_ptr<ZeromqPeers>(new ZeromqPeers(socket, events));
}

ZeromqPeers::~ZeromqPeers() { Stop(); }

void ZeromqPeers::Stop() {
  absl::MutexLock lock(&mutex_);
  if (events_ == nullptr) return;
  zmq_socket_monitor(socket_, nullptr, 0);
  zmq_close(events_);
  events_ = nullptr;
  connected_ = 0;
}

int ZeromqPeers::fd() {
  absl::MutexLock lock(&mutex_);
  if (events_ == nullptr) return -1;
  int fd = -1;
  size_t length = sizeof(fd);
  HANDOFF_CHECK_EQ(zmq_getsockopt(events_, ZMQ_FD, &fd, &length), 0) << zmq_strerror(errno);
  return fd;
}

uint32_t ZeromqPeers::Count() {
  absl::MutexLock lock(&mutex_);
  if (events_ == nullptr) return 0;
  zmq_msg_t frame;
  zmq_msg_init(&frame);
  // Each report is a frame that begins with the number of the event, and one with the address.
  bool first = true;
  while (zmq_msg_recv(&frame, events_, ZMQ_DONTWAIT) >= 0) {
    if (first && zmq_msg_size(&frame) >= sizeof(uint16_t)) {
      uint16_t event;
      std::memcpy(&event, zmq_msg_data(&frame), sizeof(event));
      Handle(event);
    }
    first = zmq_msg_more(&frame) == 0;
  }
  zmq_msg_close(&frame);
  return static_cast<uint32_t>(std::max<int64_t>(connected_, 0));
}

void ZeromqPeers::Handle(uint16_t event) {
  // A connection that ends is reported as disconnected in any case: if it never got beyond the
  // handshake, after a report of that.
  if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED || (event & kFailures) != 0) {
    ++connected_;
  } else if (event == ZMQ_EVENT_DISCONNECTED) {
    --connected_;
    lost_.store(true, std::memory_order_relaxed);
    losses_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace handoff::internal

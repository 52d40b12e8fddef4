// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_peers.h"

#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace handoff::internal {

namespace {

constexpr int kFailures = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

// These and the end carry the descriptor.
constexpr int kBeginnings = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_ACCEPTED;

}  // namespace

absl::StatusOr<std::unique_ptr<ZeromqPeers>> ZeromqPeers::Watch(void* context, void* socket) {
  static std::atomic<uint64_t> number{0};
  const std::string name =
      absl::StrCat("inproc://handoff.peers.", number.fetch_add(1, std::memory_order_relaxed));
  const auto failed = [&](const char* what) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", zmq_strerror(errno)));
  };
  constexpr int kEvents =
      kBeginnings | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | kFailures;
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
  descriptors_.clear();
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
  Read();
  return static_cast<uint32_t>(std::max<int64_t>(connected_, 0));
}

std::set<int> ZeromqPeers::Descriptors() {
  absl::MutexLock lock(&mutex_);
  Read();
  return descriptors_;
}

void ZeromqPeers::Read() {
  if (events_ == nullptr) return;
  zmq_msg_t frame;
  zmq_msg_init(&frame);
  // Each report is a frame with the number of the event and its value, and one with the address.
  bool first = true;
  while (zmq_msg_recv(&frame, events_, ZMQ_DONTWAIT) >= 0) {
    uint16_t event;
    int32_t value;
    if (first && zmq_msg_size(&frame) >= sizeof(event) + sizeof(value)) {
      const auto* const bytes = static_cast<const std::byte*>(zmq_msg_data(&frame));
      std::memcpy(&event, bytes, sizeof(event));
      std::memcpy(&value, bytes + sizeof(event), sizeof(value));
      Handle(event, value);
    }
    first = zmq_msg_more(&frame) == 0;
  }
  zmq_msg_close(&frame);
}

void ZeromqPeers::Handle(uint16_t event, int value) {
  if ((event & kBeginnings) != 0) descriptors_.insert(value);
  // A connection that ends is reported as disconnected in any case: if it never got beyond the
  // handshake, after a report of that.
  if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED || (event & kFailures) != 0) {
    ++connected_;
  } else if (event == ZMQ_EVENT_DISCONNECTED) {
    --connected_;
    descriptors_.erase(value);
    lost_.store(true, std::memory_order_relaxed);
    losses_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace handoff::internal

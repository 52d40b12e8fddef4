// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ZEROMQ_CONTEXT_H_
#define HANDOFF_TRANSPORT_ZEROMQ_CONTEXT_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "transport/zeromq_departures.h"

namespace handoff::internal {

// The ZeroMQ context of one transport, made when the first ZeroMQ address is used: a transport that
// uses none has no threads of ZeroMQ. Any thread.
class ZeromqContext {
 public:
  // `io_threads` from 1 to 16.
  explicit ZeromqContext(uint32_t io_threads) : io_threads_(io_threads) {}
  // All its sockets are closed. Waits until their handles are handed to the system, and on ipc://
  // read by the receivers' processes, as long as their linger says. In a forked child it leaves
  // everything as it is: the threads are the parent's.
  ~ZeromqContext();
  ZeromqContext(const ZeromqContext&) = delete;
  ZeromqContext& operator=(const ZeromqContext&) = delete;

  // For zmq_socket(). kResourceExhausted: no descriptors left.
  absl::StatusOr<void*> Get();

  // For the regular work, too.
  ZeromqDepartures& departures() { return departures_; }

 private:
  const uint32_t io_threads_;
  ZeromqDepartures departures_;
  absl::Mutex mutex_;
  void* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint32_t fork_generation_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_ZEROMQ_CONTEXT_H_

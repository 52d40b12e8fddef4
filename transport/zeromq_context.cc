// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_context.h"

#include <zmq.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "base/fork_guard.h"

namespace handoff::internal {

namespace {

// Three for each socket of ours: itself, and the pair that tells of its peers.
constexpr int kMaxSockets = 3 * 4096;

}  // namespace

ZeromqContext::~ZeromqContext() {
  absl::MutexLock lock(&mutex_);
  if (context_ == nullptr || ForkGeneration() != fork_generation_) return;
  while (zmq_ctx_term(context_) != 0) {
    HANDOFF_CHECK_EQ(errno, EINTR) << "zmq_ctx_term: " << zmq_strerror(errno);
  }
  HANDOFF_CRASH_POINT("zeromq.context.after_term");
  departures_.Wait();
}

absl::StatusOr<void*> ZeromqContext::Get() {
  absl::MutexLock lock(&mutex_);
  if (context_ != nullptr) return context_;
  context_ = zmq_ctx_new();
  if (context_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("zmq_ctx_new: ", zmq_strerror(errno)));
  }
  fork_generation_ = ForkGeneration();
  HANDOFF_CHECK_EQ(zmq_ctx_set(context_, ZMQ_IO_THREADS, static_cast<int>(io_threads_)), 0);
  HANDOFF_CHECK_EQ(zmq_ctx_set(context_, ZMQ_MAX_SOCKETS, kMaxSockets), 0);
  return context_;
}

}  // namespace handoff::internal

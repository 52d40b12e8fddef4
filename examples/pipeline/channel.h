// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_CHANNEL_H_
#define HANDOFF_EXAMPLES_PIPELINE_CHANNEL_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "examples/pipeline/options.h"
#include "examples/pipeline/progress.h"
#include "transport/message.h"
#include "transport/socket.h"
#include "transport/transport.h"

namespace handoff::pipeline {

// What the processes of a run have in common: how they join, send and receive.

// Nobody waits longer than this without looking whether the run has been stopped.
inline constexpr absl::Duration kSlice = absl::Milliseconds(50);

absl::StatusOr<std::unique_ptr<Transport>> OpenTransport(const Options& options,
                                                         const std::string& name);

// kCancelled: the run was stopped, the message is still the caller's.
absl::Status SendUnlessStopped(Socket& socket, Message& message, const Progress& progress);

// OK with an empty message: nothing came, look around.
absl::Status ReceiveForASlice(Socket& socket, Message* message);

// Whether the socket has let go of all workers that have died.
bool KnowsOnlyTheLiving(const Socket& socket, const Options& options, const Progress& progress);

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_CHANNEL_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_ROLES_H_
#define HANDOFF_EXAMPLES_PIPELINE_ROLES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "examples/pipeline/options.h"
#include "examples/pipeline/progress.h"

namespace handoff::pipeline {

// What each process of a run does, from joining the session to leaving it. kCancelled:
// `progress.stop` was set.

// Fills messages with the bytes of the source, straight into shared memory, and hands them to the
// workers.
absl::Status RunReader(const Options& options, Progress& progress);
// Computes a checksum of each message in place and passes it on.
absl::Status RunWorker(const Options& options, Progress& progress, uint32_t worker);
// Puts the stream in order again and writes it out, straight from shared memory.
absl::Status RunWriter(const Options& options, Progress& progress);

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_ROLES_H_

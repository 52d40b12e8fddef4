// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_SUPERVISOR_H_
#define HANDOFF_EXAMPLES_PIPELINE_SUPERVISOR_H_

#include "examples/pipeline/options.h"

namespace handoff::pipeline {

// Exit status of a run that came to its end, but without what killed workers had in their hands.
inline constexpr int kExitMessagesLost = 2;

// Starts the reader, the workers and the writer as processes of their own, shows how they get on,
// ends them in order on SIGINT, SIGTERM and SIGHUP, and prints the summary. Returns the exit
// status: 0 only if what came out is what went in and nothing is left, kExitMessagesLost if all but
// the messages named in the summary has, else 1. The calling process has one thread and is no
// member of the session.
int Supervise(const Options& options);

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_SUPERVISOR_H_

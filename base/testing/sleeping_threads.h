// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_TESTING_SLEEPING_THREADS_H_
#define HANDOFF_BASE_TESTING_SLEEPING_THREADS_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>

namespace handoff {

// By thread id, how often a thread has been taken off a processor: another number, another sleep.
using Sleeps = std::map<pid_t, uint64_t>;

// The sleeps of all other threads of this process, or nullopt if one of them is awake. Asleep is
// who waits in the kernel for others or for a time; not who waits for memory, as in a page fault.
//
// Two equal results: none of these threads has run in between, not a single instruction. So a
// fork() in between has found no lock of the allocator, or of any other library, in the hands of a
// thread that the child does not have.
std::optional<Sleeps> SleepsOfOtherThreads();

}  // namespace handoff

#endif  // HANDOFF_BASE_TESTING_SLEEPING_THREADS_H_

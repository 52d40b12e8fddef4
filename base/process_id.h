// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_PROCESS_ID_H_
#define HANDOFF_BASE_PROCESS_ID_H_

#include <sys/types.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace handoff {

// Names a process beyond the reuse of its pid, for processes of one PID namespace and one boot.
struct ProcessId {
  pid_t pid = 0;
  uint64_t start_time = 0;     // clock ticks since boot, field 22 of /proc/PID/stat
  uint64_t pid_namespace = 0;  // inode of /proc/PID/ns/pid: in which namespace `pid` means anything

  friend bool operator==(const ProcessId&, const ProcessId&) = default;
};

// This process. Reads /proc each time: not for hot paths. kUnavailable: /proc cannot be read.
absl::StatusOr<ProcessId> CurrentProcessId();

// When process `pid` of this namespace was started, also if it is a zombie. kNotFound: there is
// none. kUnavailable: /proc does not tell.
absl::StatusOr<uint64_t> ProcessStartTime(pid_t pid);

// Whether process `pid` of this namespace, started at `start_time`, still has a thread that may
// run. A zombie has none. True if there is such a pid and /proc does not tell more (hidepid, not
// mounted): nobody is declared dead on a guess.
bool IsRunning(pid_t pid, uint64_t start_time);

// A descriptor, close-on-exec, that polls readable once process `pid` has terminated. Invalid with
// errno set if there is no such process (ESRCH) or the kernel is older than 5.3 (ENOSYS).
UniqueFd OpenPidfd(pid_t pid);

}  // namespace handoff

#endif  // HANDOFF_BASE_PROCESS_ID_H_

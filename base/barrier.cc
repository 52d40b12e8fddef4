// SPDX-License-Identifier: Apache-2.0
#include "base/barrier.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/sync.h"

namespace handoff {

bool RegisterForRareSideBarrier() {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool RareSideBarrier() {
  // For the caller, where the kernel refuses, or has nothing to do on a machine with one processor.
  RealSync::FullFence();
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}

}  // namespace handoff

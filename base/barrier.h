// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_BARRIER_H_
#define HANDOFF_BASE_BARRIER_H_

namespace handoff {

// The expensive half of an asymmetric fence between processes. Two sides each store one word and
// then look at the other's; at least one must see the other's store. The frequent side puts
// RealSync::CompilerFence() between store and look, the rare side RareSideBarrier(): the kernel
// (membarrier, GLOBAL_EXPEDITED) makes every thread that runs in a registered process pass a full
// fence. Costs the rare side microseconds and the frequent side nothing.

// Makes this process's threads subject to the barriers of others; a forked child inherits it, exec
// ends it. May be called again. False: the kernel refuses (older than 4.16, or a system call
// filter), so the frequent sides of this process need RealSync::FullFence().
[[nodiscard]] bool RegisterForRareSideBarrier();

// Returns after all threads that run in registered processes have passed a full fence; is one for
// the caller, too. False: the kernel refuses; only the caller has passed one.
[[nodiscard]] bool RareSideBarrier();

}  // namespace handoff

#endif  // HANDOFF_BASE_BARRIER_H_

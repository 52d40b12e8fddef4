// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_FORK_GUARD_H_
#define HANDOFF_BASE_FORK_GUARD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace handoff {

// What has to be known and done when the process forks: the child has a copy of our objects and
// descriptors, but is not a member of anything. Works for fork(); a child made by vfork(),
// posix_spawn() or a raw clone system call is not noticed (the first two go on to exec, which
// closes what is close-on-exec).

namespace internal {
extern std::atomic<uint32_t> fork_generation;
}  // namespace internal

// How many forks lie between this process and the one that was started. An object remembers the
// value of its creation; another value later means that it is used in a forked child. One relaxed
// load.
inline uint32_t ForkGeneration() {
  return internal::fork_generation.load(std::memory_order_relaxed);
}

// While one lives, no other thread of the process forks: they wait in fork(). Makes "open and
// register" or "unregister and close" one step for a fork. Hold it briefly, and neither fork nor
// make a second one meanwhile.
class ForkLock {
 public:
  ForkLock();
  ~ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;
};

// How many functions may be registered at a time.
inline constexpr size_t kMaxForkHooks = 256;

using ForkHook = void (*)(void*);

// From now on every forked child calls `hook(argument)` before its fork() returns, after
// ForkGeneration() has moved on. Meant for closing descriptors. The hook must be async-signal-safe
// (no allocation, no lock), must not use this header, and is called again in the child's own
// children. False: kMaxForkHooks are registered.
[[nodiscard]] bool AtForkInChild(const ForkLock&, ForkHook hook, void* argument);

// Takes back one registration of exactly this pair, if there is one.
void RemoveAtForkInChild(const ForkLock&, ForkHook hook, void* argument);

}  // namespace handoff

#endif  // HANDOFF_BASE_FORK_GUARD_H_

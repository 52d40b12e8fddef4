// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_SYNC_H_
#define HANDOFF_BASE_SYNC_H_

#include <atomic>
#include <cstdint>

#include "base/mutation.h"
#include "base/sanitizer.h"

namespace handoff {

// The processor as protocol code sees it. Code whose correctness depends on the order of steps in
// several processes takes a `Sync` as template parameter and uses nothing else for atomics, fences
// and pauses; RealSync is what programs run. A test gives a Sync whose every step first asks a
// scheduler, which then tries all interleavings and kills between any two steps.
//
//   template <typename Sync = RealSync>
//   class SpscRing { typename Sync::template Atomic<uint64_t> head_; ... };
struct RealSync {
  template <typename T>
  using Atomic = std::atomic<T>;

  // Orders all that is before against all that is after, also a store against a later load.
  static void FullFence() { Fence<std::memory_order_seq_cst>(); }
  // Later reads and writes stay after earlier reads.
  static void AcquireFence() { Fence<std::memory_order_acquire>(); }
  // Earlier reads and writes stay before later writes.
  static void ReleaseFence() { Fence<std::memory_order_release>(); }

  // Orders for the compiler only: the frequent side of a pair whose rare side calls
  // RareSideBarrier() (base/barrier.h).
  static void CompilerFence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

  // In a spin loop: lets the other hardware thread run and saves power.
  static void Pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");  // longer than `yield`, which does nothing on most cores
#endif
  }

#ifdef HANDOFF_CRASH_POINTS
  // Where tests kill processes they also show that a wrong step would be seen.
  static bool Mutated(Mutation mutation) {
    return __builtin_expect(internal::taken_mutation.load(std::memory_order_relaxed) == mutation,
                            0);
  }
#endif

 private:
  // The thread sanitizer does not know fences. A locked operation on one word that all fences share
  // orders at least as much, and tells it so.
  template <std::memory_order kOrder>
  static void Fence() {
    if constexpr (kThreadSanitizer) {
      fence_word_.fetch_add(1, std::memory_order_seq_cst);
    } else {
      std::atomic_thread_fence(kOrder);
    }
  }
  static constinit inline std::atomic<uint32_t> fence_word_{0};
};

// A lock inside an atomic would be the private lock of each process.
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);
static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == 8);

}  // namespace handoff

#endif  // HANDOFF_BASE_SYNC_H_

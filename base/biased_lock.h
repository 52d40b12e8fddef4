// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_BIASED_LOCK_H_
#define HANDOFF_BASE_BIASED_LOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace handoff {

// A lock between one thread that takes it all the time, its owner, and others that take it rarely,
// all of one process. The owner pays two plain stores and a load (biased locking with an asymmetric
// fence, as in "Quickly Reacquirable Locks" by Dice, Moir and Scherer).
//
//   1. owner: busy := 1, compiler fence, wanted = 0? It has the lock, until busy := 0 (release).
//   2. other: takes `mutex`, wanted := 1, rare-side barrier (base/barrier.h), waits for busy = 0
//   (acquire). It has
//      the lock, until wanted := 0 (release) and `mutex` is released.
//   3. owner that sees wanted = 1: busy := 0, waits for `mutex`, takes it for itself.
// Of 1 and 2 at least one sees the other's store. Where the kernel refuses the barrier, `wanted` is
// always 1, so that all take `mutex`. The owner may hand its role to another thread, if it
// synchronizes with it. Not recursive.
class ABSL_LOCKABLE BiasedLock {
 public:
  BiasedLock();
  BiasedLock(const BiasedLock&) = delete;
  BiasedLock& operator=(const BiasedLock&) = delete;

  void OwnerLock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    if (__builtin_expect(!OwnerTryLock(), 0)) OwnerLockSlowly();
  }
  void OwnerUnlock() ABSL_UNLOCK_FUNCTION() {
    if (__builtin_expect(owner_has_mutex_, 0)) {
      OwnerUnlockSlowly();
      return;
    }
    OwnerUnlockQuickly();
  }

  // The same without a call, for the shortest of paths: false while another wants the lock. Ends
  // with OwnerUnlockQuickly().
  [[nodiscard]] bool OwnerTryLock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    busy_.store(1, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (__builtin_expect(wanted_.load(std::memory_order_acquire) == 0, 1)) return true;
    busy_.store(0, std::memory_order_release);
    return false;
  }
  void OwnerUnlockQuickly() ABSL_UNLOCK_FUNCTION() { busy_.store(0, std::memory_order_release); }

  void OtherLock() ABSL_EXCLUSIVE_LOCK_FUNCTION();
  void OtherUnlock() ABSL_UNLOCK_FUNCTION();

  // By others: from here on OwnerTryLock() fails, and OwnerLock() takes the mutex.
  void KeepOwnerSlow();

 private:
  void OwnerLockSlowly();
  void OwnerUnlockSlowly();
  void SetOwnerSlow();

  std::atomic<uint32_t> busy_{0};
  std::atomic<uint32_t> wanted_;
  bool owner_has_mutex_ = false;  // read and written by the owner only
  absl::Mutex mutex_;
  bool owner_is_slow_ ABSL_GUARDED_BY(mutex_) = false;  // `wanted_` stays 1
};

}  // namespace handoff

#endif  // HANDOFF_BASE_BIASED_LOCK_H_

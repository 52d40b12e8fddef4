// SPDX-License-Identifier: Apache-2.0
#include "base/biased_lock.h"

#include <sched.h>

#include "base/barrier.h"
#include "base/sanitizer.h"

namespace handoff {

namespace {

// Whether the owner may rely on the barrier of the others.
bool HasBarrier() {
  static const bool has_barrier = !kThreadSanitizer && RegisterForRareSideBarrier();
  return has_barrier;
}

}  // namespace

BiasedLock::BiasedLock() : wanted_(HasBarrier() ? 0 : 1) {}

void BiasedLock::OwnerLockSlowly() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  mutex_.Lock();
  owner_has_mutex_ = true;
}

void BiasedLock::OwnerUnlockSlowly() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  owner_has_mutex_ = false;
  mutex_.Unlock();
}

void BiasedLock::OtherLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  mutex_.Lock();
  if (!HasBarrier()) return;
  wanted_.store(1, std::memory_order_relaxed);
  (void)RareSideBarrier();
  while (busy_.load(std::memory_order_acquire) != 0) sched_yield();
}

void BiasedLock::OtherUnlock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (HasBarrier() && !owner_is_slow_) wanted_.store(0, std::memory_order_release);
  mutex_.Unlock();
}

void BiasedLock::KeepOwnerSlow() {
  OtherLock();
  SetOwnerSlow();
  OtherUnlock();
}

void BiasedLock::SetOwnerSlow() ABSL_NO_THREAD_SAFETY_ANALYSIS { owner_is_slow_ = true; }

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/biased_lock.h"

#include <sched.h>

#include "base/barrier.h"
#include "base/sanitizer.h"
#include "base/sync.h"

namespace handoff {

namespace {

bool FencesNeeded() {
  static const bool needed = kThreadSanitizer || !RegisterForRareSideBarrier();
  return needed;
}

}  // namespace

BiasedLock::BiasedLock() : fences_(FencesNeeded()) {}

void BiasedLock::OwnerLockSlowly() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  busy_.store(0, std::memory_order_release);
  mutex_.Lock();
  owner_has_mutex_ = true;
}

void BiasedLock::OwnerUnlockSlowly() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  owner_has_mutex_ = false;
  mutex_.Unlock();
}

void BiasedLock::OtherLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  mutex_.Lock();
  wanted_.store(1, std::memory_order_relaxed);
  if (fences_) {
    RealSync::FullFence();
  } else {
    (void)RareSideBarrier();
  }
  while (busy_.load(std::memory_order_acquire) != 0) sched_yield();
}

void BiasedLock::OtherUnlock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  wanted_.store(0, std::memory_order_release);
  mutex_.Unlock();
}

}  // namespace handoff

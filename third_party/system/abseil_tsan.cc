// SPDX-License-Identifier: Apache-2.0

// Tells the thread sanitizer what Debian's Abseil does: its archives are compiled without the
// sanitizer, which would see no lock where there is one and report races that are none. Linked in
// place of the functions below with --config=tsan
// (--wrap in abseil-cpp.BUILD). An Abseil that is built from source, as from the registry, needs
// none of this.

#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

using absl::BlockingCounter;
using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Notification;
using absl::Time;

// Everything before Left(x) in one thread happens before what follows Entered(x) in another.
void Left(const void* object) { __tsan_release(const_cast<void*>(object)); }
void Entered(const void* object) { __tsan_acquire(const_cast<void*>(object)); }

// A condition that whoever evaluates it enters the lock for it: that may be the thread that
// unlocks, for one that waits. The waiting thread leaves the lock before it waits, so that its
// condition has been seen. Not instrumented, because it reads the other thread's stack before that.
struct Entering {
  const Condition& condition;
  Mutex* mutex;

  __attribute__((no_sanitize("thread"))) static bool Eval(void* pointer) {
    auto* self = static_cast<Entering*>(pointer);
    __tsan_acquire(self->mutex);
    const bool met = self->condition.Eval();
    __tsan_release(self->mutex);
    return met;
  }
};

// Abseil's search for deadlocks keeps a graph of its own, under a lock that the sanitizer does not
// see either. The sanitizer searches for deadlocks itself.
[[maybe_unused]] const bool deadlock_search_is_off = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

}  // namespace

// The linker turns a call of SYMBOL into one of __wrap_SYMBOL; __real_SYMBOL is Abseil's own
// function.
#define HANDOFF_WRAP(result, name, symbol, ...)         \
  result Real##name(__VA_ARGS__) asm("__real_" symbol); \
  result Wrap##name(__VA_ARGS__) asm("__wrap_" symbol); \
  result Wrap##name(__VA_ARGS__)

HANDOFF_WRAP(void, Lock, "_ZN4absl7debian35Mutex4LockEv", Mutex* mutex) {
  RealLock(mutex);
  Entered(mutex);
}

HANDOFF_WRAP(void, ReaderLock, "_ZN4absl7debian35Mutex10ReaderLockEv", Mutex* mutex) {
  RealReaderLock(mutex);
  Entered(mutex);
}

HANDOFF_WRAP(bool, TryLock, "_ZN4absl7debian35Mutex7TryLockEv", Mutex* mutex) {
  const bool locked = RealTryLock(mutex);
  if (locked) Entered(mutex);
  return locked;
}

HANDOFF_WRAP(bool, ReaderTryLock, "_ZN4absl7debian35Mutex13ReaderTryLockEv", Mutex* mutex) {
  const bool locked = RealReaderTryLock(mutex);
  if (locked) Entered(mutex);
  return locked;
}

HANDOFF_WRAP(void, Unlock, "_ZN4absl7debian35Mutex6UnlockEv", Mutex* mutex) {
  Left(mutex);
  RealUnlock(mutex);
}

HANDOFF_WRAP(void, ReaderUnlock, "_ZN4absl7debian35Mutex12ReaderUnlockEv", Mutex* mutex) {
  Left(mutex);
  RealReaderUnlock(mutex);
}

HANDOFF_WRAP(void, Await, "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE", Mutex* mutex,
             const Condition& condition) {
  Entering entering{condition, mutex};
  Left(mutex);
  RealAwait(mutex, Condition(&Entering::Eval, &entering));
  Entered(mutex);
}

HANDOFF_WRAP(bool, AwaitWithTimeout,
             "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE",
             Mutex* mutex, const Condition& condition, Duration limit) {
  Entering entering{condition, mutex};
  Left(mutex);
  const bool met = RealAwaitWithTimeout(mutex, Condition(&Entering::Eval, &entering), limit);
  Entered(mutex);
  return met;
}

HANDOFF_WRAP(bool, AwaitWithDeadline,
             "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE", Mutex* mutex,
             const Condition& condition, Time limit) {
  Entering entering{condition, mutex};
  Left(mutex);
  const bool met = RealAwaitWithDeadline(mutex, Condition(&Entering::Eval, &entering), limit);
  Entered(mutex);
  return met;
}

HANDOFF_WRAP(void, LockWhen, "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE", Mutex* mutex,
             const Condition& condition) {
  Entering entering{condition, mutex};
  Left(mutex);
  RealLockWhen(mutex, Condition(&Entering::Eval, &entering));
  Entered(mutex);
}

HANDOFF_WRAP(bool, LockWhenWithTimeout,
             "_ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE",
             Mutex* mutex, const Condition& condition, Duration limit) {
  Entering entering{condition, mutex};
  Left(mutex);
  const bool met = RealLockWhenWithTimeout(mutex, Condition(&Entering::Eval, &entering), limit);
  Entered(mutex);
  return met;
}

HANDOFF_WRAP(bool, LockWhenWithDeadline,
             "_ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE",
             Mutex* mutex, const Condition& condition, Time limit) {
  Entering entering{condition, mutex};
  Left(mutex);
  const bool met = RealLockWhenWithDeadline(mutex, Condition(&Entering::Eval, &entering), limit);
  Entered(mutex);
  return met;
}

HANDOFF_WRAP(void, ReaderLockWhen, "_ZN4absl7debian35Mutex14ReaderLockWhenERKNS0_9ConditionE",
             Mutex* mutex, const Condition& condition) {
  Entering entering{condition, mutex};
  Left(mutex);
  RealReaderLockWhen(mutex, Condition(&Entering::Eval, &entering));
  Entered(mutex);
}

HANDOFF_WRAP(bool, ReaderLockWhenWithTimeout,
             "_ZN4absl7debian35Mutex25ReaderLockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE",
             Mutex* mutex, const Condition& condition, Duration limit) {
  Entering entering{condition, mutex};
  Left(mutex);
  const bool met =
      RealReaderLockWhenWithTimeout(mutex, Condition(&Entering::Eval, &entering), limit);
  Entered(mutex);
  return met;
}

HANDOFF_WRAP(bool, ReaderLockWhenWithDeadline,
             "_ZN4absl7debian35Mutex26ReaderLockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE",
             Mutex* mutex, const Condition& condition, Time limit) {
  Entering entering{condition, mutex};
  Left(mutex);
  const bool met =
      RealReaderLockWhenWithDeadline(mutex, Condition(&Entering::Eval, &entering), limit);
  Entered(mutex);
  return met;
}

HANDOFF_WRAP(void, Wait, "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE", CondVar* variable,
             Mutex* mutex) {
  Left(mutex);
  RealWait(variable, mutex);
  Entered(mutex);
}

HANDOFF_WRAP(bool, WaitWithTimeout,
             "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
             CondVar* variable, Mutex* mutex, Duration limit) {
  Left(mutex);
  const bool timed_out = RealWaitWithTimeout(variable, mutex, limit);
  Entered(mutex);
  return timed_out;
}

HANDOFF_WRAP(bool, WaitWithDeadline,
             "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", CondVar* variable,
             Mutex* mutex, Time limit) {
  Left(mutex);
  const bool timed_out = RealWaitWithDeadline(variable, mutex, limit);
  Entered(mutex);
  return timed_out;
}

// HasBeenNotified() is inline and loads the flag, which lies behind the mutex.
HANDOFF_WRAP(void, Notify, "_ZN4absl7debian312Notification6NotifyEv", Notification* notification) {
  Left(reinterpret_cast<const char*>(notification) + sizeof(Mutex));
  Left(notification);
  RealNotify(notification);
}

HANDOFF_WRAP(void, WaitForNotification, "_ZNK4absl7debian312Notification19WaitForNotificationEv",
             const Notification* notification) {
  RealWaitForNotification(notification);
  Entered(notification);
}

HANDOFF_WRAP(bool, WaitForNotificationWithTimeout,
             "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE",
             const Notification* notification, Duration limit) {
  const bool notified = RealWaitForNotificationWithTimeout(notification, limit);
  if (notified) Entered(notification);
  return notified;
}

HANDOFF_WRAP(bool, WaitForNotificationWithDeadline,
             "_ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE",
             const Notification* notification, Time limit) {
  const bool notified = RealWaitForNotificationWithDeadline(notification, limit);
  if (notified) Entered(notification);
  return notified;
}

HANDOFF_WRAP(bool, DecrementCount, "_ZN4absl7debian315BlockingCounter14DecrementCountEv",
             BlockingCounter* counter) {
  Left(counter);
  return RealDecrementCount(counter);
}

HANDOFF_WRAP(void, WaitForCount, "_ZN4absl7debian315BlockingCounter4WaitEv",
             BlockingCounter* counter) {
  RealWaitForCount(counter);
  Entered(counter);
}

// Abseil's search for deadlocks keeps its graph under a lock of its own.
extern "C" const char* __tsan_default_suppressions() { return "race:GraphCycles\n"; }

// SPDX-License-Identifier: Apache-2.0

// Each test is free of races if Abseil's locks work. With --config=tsan that is a test of the
// thread sanitizer: a report here means that it does not see what Abseil does
// (third_party/system/abseil_tsan.cc).

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr int kRounds = 100;
constexpr absl::Duration kLimit = absl::Seconds(30);

struct Counted {
  // True once Add has been called kRounds times.
  bool Full() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return count == kRounds; }

  void Add() ABSL_LOCKS_EXCLUDED(mutex) {
    for (int i = 0; i < kRounds; ++i) {
      const absl::MutexLock lock(&mutex);
      ++count;
      changed.Signal();
    }
  }

  absl::Mutex mutex;
  absl::CondVar changed;
  int count ABSL_GUARDED_BY(mutex) = 0;
};

TEST(LocksTest, AMutexOrdersItsHolders) {
  Counted counted;
  std::thread other([&counted] { counted.Add(); });
  counted.Add();
  other.join();
  const absl::ReaderMutexLock lock(&counted.mutex);
  EXPECT_EQ(counted.count, 2 * kRounds);
}

TEST(LocksTest, AConditionIsEvaluatedUnderTheLock) {
  Counted counted;
  std::thread other([&counted] { counted.Add(); });
  {
    const absl::MutexLock lock(&counted.mutex);
    EXPECT_TRUE(counted.mutex.AwaitWithTimeout(absl::Condition(&counted, &Counted::Full), kLimit));
    counted.count = 0;
  }
  std::thread third([&counted] { counted.Add(); });
  {
    const absl::MutexLock lock(&counted.mutex, absl::Condition(&counted, &Counted::Full));
    counted.count = 0;
  }
  other.join();
  third.join();
}

TEST(LocksTest, AConditionVariableReturnsWithTheLock) {
  Counted counted;
  std::thread other([&counted] { counted.Add(); });
  {
    const absl::MutexLock lock(&counted.mutex);
    while (!counted.Full()) {
      ASSERT_FALSE(counted.changed.WaitWithTimeout(&counted.mutex, kLimit));
    }
    counted.count = 0;
  }
  other.join();
}

TEST(LocksTest, WhatPrecedesANotificationIsSeenAfterIt) {
  for (int i = 0; i < kRounds; ++i) {
    absl::Notification done;
    int value = 0;
    std::thread other([&value, &done] {
      value = 1;
      done.Notify();
    });
    if (i % 2 == 0) {
      done.WaitForNotification();
    } else {
      while (!done.HasBeenNotified()) std::this_thread::yield();
    }
    EXPECT_EQ(value++, 1);
    other.join();
  }
}

TEST(LocksTest, WhatPrecedesACountdownIsSeenAfterIt) {
  for (int i = 0; i < kRounds; ++i) {
    absl::BlockingCounter left(1);
    int value = 0;
    std::thread other([&value, &left] {
      value = 1;
      left.DecrementCount();
    });
    left.Wait();
    EXPECT_EQ(value++, 1);
    other.join();
  }
}

}  // namespace
}  // namespace handoff

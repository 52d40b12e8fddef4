// SPDX-License-Identifier: Apache-2.0
#include "base/testing/sleeping_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>

#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

TEST(SleepingThreadsTest, AreThoseThatWait) {
  ProcessSignal end;
  std::thread other([&] { EXPECT_TRUE(end.Wait()); });
  std::optional<Sleeps> sleeps;
  EXPECT_TRUE(WaitFor([&] {
    sleeps = SleepsOfOtherThreads();
    return sleeps.has_value() && sleeps == SleepsOfOtherThreads();
  }));
  EXPECT_GE(sleeps->size(), 1u);  // a sanitizer may have a thread of its own
  end.Signal();
  other.join();
}

TEST(SleepingThreadsTest, AreNotThoseThatRun) {
  std::atomic<bool> runs{false};
  std::atomic<bool> end{false};
  std::thread other([&] {
    while (!end.load(std::memory_order_relaxed)) runs.store(true, std::memory_order_relaxed);
  });
  EXPECT_TRUE(WaitFor([&] { return runs.load(std::memory_order_relaxed); }));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(SleepsOfOtherThreads().has_value());
  end.store(true, std::memory_order_relaxed);
  other.join();
}

TEST(SleepingThreadsTest, SleepAnotherSleepOnceTheyHaveRun) {
  ProcessSignal next;
  ProcessSignal ran;
  std::thread other([&] {
    EXPECT_TRUE(next.Wait());
    ran.Signal();
    EXPECT_TRUE(next.Wait());
  });
  std::optional<Sleeps> first;
  EXPECT_TRUE(WaitFor([&] { return (first = SleepsOfOtherThreads()).has_value(); }));
  next.Signal();
  EXPECT_TRUE(ran.Wait());
  std::optional<Sleeps> second;
  EXPECT_TRUE(WaitFor([&] { return (second = SleepsOfOtherThreads()).has_value(); }));
  EXPECT_NE(first, second);
  next.Signal();
  other.join();
}

TEST(SleepingThreadsTest, AreNotThoseThatHaveEnded) {
  std::thread([] {}).join();
  EXPECT_TRUE(WaitFor([] { return SleepsOfOtherThreads().has_value(); }));
}

}  // namespace
}  // namespace handoff

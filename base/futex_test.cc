// SPDX-License-Identifier: Apache-2.0
#include "base/futex.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

TEST(FutexTest, DoesNotSleepIfTheValueHasChanged) {
  const std::atomic<uint32_t> word{2};
  EXPECT_EQ(FutexWait(word, 1, Deadline::Infinite()), FutexResult::kValueChanged);
  EXPECT_EQ(FutexWait(word, 1, Deadline::After(absl::ZeroDuration())), FutexResult::kValueChanged);
}

TEST(FutexTest, EndsAtItsDeadlineAndNotBefore) {
  const std::atomic<uint32_t> word{1};
  const Deadline deadline = Deadline::After(absl::Milliseconds(5));
  EXPECT_EQ(FutexWait(word, 1, deadline), FutexResult::kTimedOut);
  EXPECT_TRUE(deadline.expired());
  EXPECT_EQ(FutexWait(word, 1, deadline), FutexResult::kTimedOut);
}

TEST(FutexTest, WakesASleeperInAnotherProcess) {
  void* const memory =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto& word = *new (memory) std::atomic<uint32_t>{0};
  ChildProcess child = ChildProcess::Start([&] {
    // Only the wake ends the sleep, since the word stays the same.
    return FutexWait(word, 0, Deadline::After(absl::Seconds(20))) == FutexResult::kWoken ? 0 : 1;
  });
  EXPECT_TRUE(WaitFor([&] { return FutexWake(word, 1) == 1; }));
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_EQ(FutexWake(word, 1), 0);
  ::munmap(memory, 4096);
}

TEST(FutexTest, WakesNoMoreSleepersThanAskedFor) {
  std::atomic<uint32_t> word{0};
  std::atomic<int> woken{0};
  const auto sleep = [&] {
    if (FutexWait(word, 0, Deadline::After(absl::Seconds(20))) == FutexResult::kWoken)
      woken.fetch_add(1, std::memory_order_relaxed);
  };
  std::thread first(sleep);
  std::thread second(sleep);
  EXPECT_TRUE(WaitFor([&] { return FutexWake(word, 1) == 1; }));
  EXPECT_TRUE(WaitFor([&] { return FutexWake(word, 1) == 1; }));
  first.join();
  second.join();
  EXPECT_EQ(woken.load(std::memory_order_relaxed), 2);
}

TEST(FutexTest, ReportsThatASignalInterruptedIt) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  std::atomic<uint32_t> word{0};
  std::atomic<bool> interrupted{false};
  std::thread sleeper([&] {
    while (FutexWait(word, 0, Deadline::After(absl::Seconds(20))) == FutexResult::kWoken) {
    }
    interrupted.store(true, std::memory_order_relaxed);
  });
  // The signal may come before the sleep, so it is repeated.
  EXPECT_TRUE(WaitFor([&] {
    ::pthread_kill(sleeper.native_handle(), SIGUSR1);
    return interrupted.load(std::memory_order_relaxed);
  }));
  sleeper.join();
  ::sigaction(SIGUSR1, &before, nullptr);
}

TEST(FutexTest, SleepsOnSeveralWordsUntilOneIsWoken) {
  if (!CanFutexWaitAny()) GTEST_SKIP() << "this kernel cannot";
  std::array<std::atomic<uint32_t>, kMaxFutexWords> words{};
  std::vector<FutexWord> list;
  for (const auto& word : words) list.push_back({&word, 0});
  std::thread sleeper([&] {
    EXPECT_EQ(FutexWaitAny(list, Deadline::After(absl::Seconds(20))), FutexResult::kWoken);
  });
  EXPECT_TRUE(WaitFor([&] { return FutexWake(words.back(), 1) == 1; }));
  sleeper.join();
  EXPECT_EQ(FutexWaitAny(list, Deadline::After(absl::Milliseconds(2))), FutexResult::kTimedOut);
  words[5].store(1, std::memory_order_relaxed);
  EXPECT_EQ(FutexWaitAny(list, Deadline::Infinite()), FutexResult::kValueChanged);
}

}  // namespace
}  // namespace handoff

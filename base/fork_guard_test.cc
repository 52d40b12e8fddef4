// SPDX-License-Identifier: Apache-2.0
#include "base/fork_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/testing/child_process.h"

namespace handoff {
namespace {

void Increment(void* counter) { ++*static_cast<int*>(counter); }

bool Register(int* counter) {
  const ForkLock lock;
  return AtForkInChild(lock, &Increment, counter);
}

void Remove(int* counter) {
  const ForkLock lock;
  RemoveAtForkInChild(lock, &Increment, counter);
}

TEST(ForkGenerationTest, MovesOnInTheChildOnly) {
  const uint32_t before = ForkGeneration();
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(ForkGeneration(), before + 1);
    ChildProcess grandchild = ChildProcess::Start([&] {
      EXPECT_EQ(ForkGeneration(), before + 2);
      return 0;
    });
    EXPECT_EQ(grandchild.Wait(), ChildExit::Code(0));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_EQ(ForkGeneration(), before);
}

TEST(AtForkInChildTest, RunsInEveryChildAndNotInTheParent) {
  int calls = 0;
  ASSERT_TRUE(Register(&calls));
  for (int i = 0; i < 2; ++i) {
    ChildProcess child = ChildProcess::Start([&] { return calls; });
    EXPECT_EQ(child.Wait(), ChildExit::Code(1));
  }
  EXPECT_EQ(calls, 0);
  Remove(&calls);
}

TEST(AtForkInChildTest, RunsAfterTheGenerationHasMovedOn) {
  static uint32_t seen;
  const uint32_t before = ForkGeneration();
  const ForkHook hook = [](void*) { seen = ForkGeneration(); };
  {
    const ForkLock lock;
    ASSERT_TRUE(AtForkInChild(lock, hook, nullptr));
  }
  ChildProcess child = ChildProcess::Start([&] { return seen == before + 1 ? 0 : 1; });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  const ForkLock lock;
  RemoveAtForkInChild(lock, hook, nullptr);
}

TEST(AtForkInChildTest, IsOverAfterRemoval) {
  int calls = 0;
  ASSERT_TRUE(Register(&calls));
  ASSERT_TRUE(Register(&calls));
  Remove(&calls);
  ChildProcess child = ChildProcess::Start([&] { return calls; });
  EXPECT_EQ(child.Wait(), ChildExit::Code(1)) << "one of two equal registrations is removed";
  Remove(&calls);
  Remove(&calls);
  ChildProcess second = ChildProcess::Start([&] { return calls; });
  EXPECT_EQ(second.Wait(), ChildExit::Code(0));
}

TEST(AtForkInChildTest, RefusesMoreThanItsLimitAndTakesAFreedPlaceAgain) {
  std::vector<int> counters(kMaxForkHooks + 1);
  for (size_t i = 0; i < kMaxForkHooks; ++i) ASSERT_TRUE(Register(&counters[i])) << i;
  EXPECT_FALSE(Register(&counters[kMaxForkHooks]));
  Remove(&counters[3]);
  EXPECT_TRUE(Register(&counters[kMaxForkHooks]));
  for (int& counter : counters) Remove(&counter);
}

TEST(AtForkInChildTest, NeverSeesADescriptorOpenButNotRegistered) {
  // One thread opens and closes all the time, the other forks: no child may have the descriptor.
  // Not by ChildProcess, which would wait until the first thread sleeps.
  struct Descriptor {
    int fd = -1;
  } descriptor;
  const ForkHook close = [](void* argument) {
    auto* const mine = static_cast<Descriptor*>(argument);
    ::close(mine->fd);
    mine->fd = -1;
  };
  constexpr int kNumber = 900;  // unlike any that the test has otherwise
  std::atomic<bool> stop{false};
  std::thread opener([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      {
        const ForkLock lock;
        descriptor.fd = ::dup2(STDERR_FILENO, kNumber);
        EXPECT_TRUE(AtForkInChild(lock, close, &descriptor));
      }
      const ForkLock lock;
      RemoveAtForkInChild(lock, close, &descriptor);
      ::close(descriptor.fd);
    }
  });
  for (int i = 0; i < 200; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(::fcntl(kNumber, F_GETFD) == -1 && errno == EBADF ? 0 : 1);
    EXPECT_GT(child, 0);
    int status = 1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  stop.store(true, std::memory_order_relaxed);
  opener.join();
}

}  // namespace
}  // namespace handoff

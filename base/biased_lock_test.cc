// SPDX-License-Identifier: Apache-2.0
#include "base/biased_lock.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace handoff {
namespace {

TEST(BiasedLockTest, LetsOneInAtATime) {
  constexpr int kOwnerRounds = 400000;
  constexpr int kOtherRounds = 2000;
  BiasedLock lock;
  uint64_t count =
      0;  // without the lock, increments would be lost (and the thread sanitizer would see it)
  std::thread owner([&] {
    for (int i = 0; i < kOwnerRounds; ++i) {
      lock.OwnerLock();
      ++count;
      lock.OwnerUnlock();
    }
  });
  std::vector<std::thread> others;
  for (int t = 0; t < 2; ++t) {
    others.emplace_back([&] {
      for (int i = 0; i < kOtherRounds; ++i) {
        lock.OtherLock();
        ++count;
        lock.OtherUnlock();
      }
    });
  }
  owner.join();
  for (std::thread& other : others) other.join();
  EXPECT_EQ(count, uint64_t{kOwnerRounds} + 2 * kOtherRounds);
}

TEST(BiasedLockTest, KeepsTheOwnerOutWhileAnotherHasIt) {
  BiasedLock lock;
  lock.OtherLock();
  std::atomic<bool> entered{false};
  std::thread owner([&] {
    lock.OwnerLock();
    entered.store(true);
    lock.OwnerUnlock();
    lock.OwnerLock();
    lock.OwnerUnlock();
  });
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(entered.load());
    std::this_thread::yield();
  }
  lock.OtherUnlock();
  owner.join();
  EXPECT_TRUE(entered.load());
}

}  // namespace
}  // namespace handoff

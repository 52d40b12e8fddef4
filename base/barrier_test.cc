// SPDX-License-Identifier: Apache-2.0
#include "base/barrier.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/sync.h"

namespace handoff {
namespace {

TEST(RareSideBarrierTest, MayBeRegisteredForMoreThanOnce) {
  if (!RegisterForRareSideBarrier()) GTEST_SKIP() << "the kernel refuses membarrier";
  EXPECT_TRUE(RegisterForRareSideBarrier());
  EXPECT_TRUE(RareSideBarrier());
}

TEST(RareSideBarrierTest, OrdersTheFrequentSideThatHasOnlyACompilerFence) {
  if (!RegisterForRareSideBarrier()) GTEST_SKIP() << "the kernel refuses membarrier";
  // As in sync_test.cc, with one side that fences by itself for both.
  constexpr uint32_t kTurns = 20'000;
  std::atomic<uint32_t> frequent_word{0};
  std::atomic<uint32_t> rare_word{0};
  std::atomic<uint32_t> frequent_done{0};
  std::atomic<uint32_t> rare_done{0};
  std::vector<char> frequent_saw;
  std::vector<char> rare_saw;
  std::thread frequent([&] {
    for (uint32_t turn = 1; turn <= kTurns; ++turn) {
      frequent_word.store(turn, std::memory_order_relaxed);
      RealSync::CompilerFence();
      frequent_saw.push_back(rare_word.load(std::memory_order_relaxed) == turn);
      frequent_done.store(turn, std::memory_order_release);
      while (rare_done.load(std::memory_order_acquire) < turn) std::this_thread::yield();
    }
  });
  for (uint32_t turn = 1; turn <= kTurns; ++turn) {
    rare_word.store(turn, std::memory_order_relaxed);
    EXPECT_TRUE(RareSideBarrier());
    rare_saw.push_back(frequent_word.load(std::memory_order_relaxed) == turn);
    rare_done.store(turn, std::memory_order_release);
    while (frequent_done.load(std::memory_order_acquire) < turn) std::this_thread::yield();
  }
  frequent.join();
  for (uint32_t i = 0; i < kTurns; ++i) ASSERT_TRUE(frequent_saw[i] || rare_saw[i]) << "turn " << i;
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/sync.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <thread>
#include <vector>

namespace handoff {
namespace {

TEST(RealSyncTest, FullFenceOrdersAStoreBeforeALaterLoad) {
  // In each turn two threads store one word each and look at the other's. At least one must see the
  // other's store.
  constexpr uint32_t kTurns = 20'000;
  RealSync::Atomic<uint32_t> words[2] = {0, 0};
  RealSync::Atomic<uint32_t> done[2] = {0, 0};
  std::vector<char> saw[2];
  const auto run = [&](int me) {
    for (uint32_t turn = 1; turn <= kTurns; ++turn) {
      words[me].store(turn, std::memory_order_relaxed);
      RealSync::FullFence();
      saw[me].push_back(words[1 - me].load(std::memory_order_relaxed) == turn);
      done[me].store(turn, std::memory_order_release);
      while (done[1 - me].load(std::memory_order_acquire) < turn) std::this_thread::yield();
    }
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  for (uint32_t i = 0; i < kTurns; ++i) ASSERT_TRUE(saw[0][i] || saw[1][i]) << "turn " << i;
}

TEST(RealSyncTest, ReleaseAndAcquireFencesPublishPlainData) {
  uint64_t data = 0;
  RealSync::Atomic<bool> published{false};
  std::thread writer([&] {
    data = 42;
    RealSync::ReleaseFence();
    published.store(true, std::memory_order_relaxed);
  });
  while (!published.load(std::memory_order_relaxed)) RealSync::Pause();
  RealSync::AcquireFence();
  EXPECT_EQ(data, 42u);
  writer.join();
}

}  // namespace
}  // namespace handoff

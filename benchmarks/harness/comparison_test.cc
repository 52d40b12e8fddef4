// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/comparison.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "absl/time/time.h"
#include "benchmarks/harness/placement.h"

namespace handoff {
namespace {

// What the processes of a comparison have counted.
struct Counts {
  std::atomic<uint64_t> messages[2];
  std::atomic<uint64_t> pids[2];
  std::atomic<uint64_t> cores[2];
  std::atomic<uint64_t> closed[2];
};

class ComparisonTest : public ::testing::Test {
 protected:
  ComparisonTest() {
    void* page =
        mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    counts_ = new (page) Counts();
  }
  ~ComparisonTest() override { munmap(counts_, sizeof(Counts)); }

  Contender Counting() {
    return {.name = "counting", .open = [counts = counts_](Side side) {
              const int i = side == Side::kA ? 0 : 1;
              counts->pids[i] = static_cast<uint64_t>(getpid());
              std::shared_ptr<int> closing(new int, [counts, i](int* value) {
                ++counts->closed[i];
                delete value;
              });
              return [counts, i, closing](uint64_t messages, std::vector<double>& latencies_ns) {
                counts->cores[i] = static_cast<uint64_t>(CoreCount());
                counts->messages[i] += messages;
                for (uint64_t j = 0; j < messages; ++j) Spin();
                latencies_ns.push_back(1);
              };
            }};
  }

  // How many cores the calling thread may use.
  static int CoreCount() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof(set), &set);
    return CPU_COUNT(&set);
  }
  static void Spin() {
    for (int i = 0; i < 100; ++i) asm volatile("");
  }

  Counts* counts_;
};

TEST_F(ComparisonTest, BothSidesDoTheSameBurstsInTwoProcessesOnOneCoreEach) {
  const int cores = CoreCount();
  const auto all = Compare({Counting()}, {.rounds = 2, .burst = absl::Microseconds(50)});
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].name, "counting");
  EXPECT_GT(all[0].messages, 0u);
  EXPECT_GT(counts_->messages[0], 0u);
  EXPECT_EQ(counts_->messages[0], counts_->messages[1]);
  EXPECT_EQ(counts_->pids[0], static_cast<uint64_t>(getpid()));
  EXPECT_NE(counts_->pids[1], counts_->pids[0]);
  EXPECT_EQ(counts_->cores[0], 1u);
  EXPECT_EQ(counts_->cores[1], 1u);
  EXPECT_EQ(CoreCount(), cores);
}

TEST_F(ComparisonTest, WhatABurstHasCapturedIsDestroyedInBothProcesses) {
  (void)Compare({Counting(), Counting()}, {.rounds = 1, .burst = absl::Microseconds(50)});
  EXPECT_EQ(counts_->closed[0], 2u);
  EXPECT_EQ(counts_->closed[1], 2u);
}

TEST_F(ComparisonTest, EveryBurstIsFiledUnderAPlacementOrDropped) {
  Contender yielding = Counting();
  yielding.yields = true;
  const auto all = Compare({yielding}, {.rounds = 20, .burst = absl::Microseconds(50)});
  const size_t near = all[0].MessageNs(Placement::kNear).count();
  const size_t far = all[0].MessageNs(Placement::kFar).count();
  EXPECT_EQ(near + far + static_cast<size_t>(all[0].preempted + all[0].moved), 20u);
  EXPECT_EQ(all[0].LatencyNs(Placement::kNear).count(), near);
  EXPECT_EQ(all[0].LatencyNs(Placement::kFar).count(), far);
}

TEST_F(ComparisonTest, ABurstHasNoMoreMessagesThanTheContenderAllows) {
  Contender one = Counting();
  one.most_messages = 1;
  const auto all = Compare({one}, {.rounds = 1, .burst = absl::Milliseconds(10)});
  EXPECT_EQ(all[0].messages, 1u);
}

}  // namespace
}  // namespace handoff

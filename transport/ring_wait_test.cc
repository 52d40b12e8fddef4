// SPDX-License-Identifier: Apache-2.0
#include "transport/ring_wait.h"

#include <atomic>
#include <memory>
#include <thread>

#include "absl/time/time.h"
#include "allocator/ring_layout.h"
#include "allocator/ring_table.h"
#include "base/clock.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"

namespace handoff::internal {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;

Deadline Soon() { return Deadline::After(absl::Seconds(20)); }

const auto kNever = [] { return false; };
const auto kNothing = [] {};

// Doors are on the heap: on the stack gcc's address sanitizer does not align to a cache line.

bool SleepsAt(const Door& door) {
  return door.sleeping.load(std::memory_order_acquire) == Door::kSleeps;
}

TEST(RingWaitTest, StaysAwakeAsLongAsItIsToSpin) {
  const auto owned = std::make_unique<Door>();
  Door& door = *owned;
  bool has_slept = false;
  const auto attempt = [&] {
    has_slept = has_slept || SleepsAt(door);
    return false;
  };
  EXPECT_EQ(WaitAtDoor(door, kSecondNs, Deadline::After(absl::Milliseconds(20)), kNever, attempt,
                       kNever, kNothing),
            WaitResult::kTimedOut);
  EXPECT_FALSE(has_slept);
}

TEST(RingWaitTest, GoesToSleepAtOnceWithoutASpin) {
  const auto owned = std::make_unique<Door>();
  Door& door = *owned;
  int quick_tries = 0;
  int tries = 0;
  const auto quick = [&] { return ++quick_tries > 0; };
  const auto attempt = [&] {
    ++tries;
    EXPECT_TRUE(SleepsAt(door)) << "the try before the sleep comes after the word";
    return true;
  };
  EXPECT_EQ(WaitAtDoor(door, 0, Soon(), quick, attempt, kNever, kNothing), WaitResult::kDone);
  EXPECT_EQ(quick_tries, 0);
  EXPECT_EQ(tries, 1);
  EXPECT_EQ(door.sleeping.load(), 0u);
}

TEST(RingWaitTest, SleepsAfterItsSpinAndIsWokenByWhoFindsItSleeping) {
  const auto owned = std::make_unique<Door>();
  Door& door = *owned;
  std::atomic<bool> published{false};
  std::thread peer([&] {
    EXPECT_TRUE(WaitFor([&] { return SleepsAt(door); }));
    published.store(true, std::memory_order_seq_cst);
    RingTable::Wake(door);
  });
  const auto attempt = [&] { return published.load(std::memory_order_acquire); };
  EXPECT_EQ(WaitAtDoor(door, 1000, Soon(), kNever, attempt, kNever, kNothing), WaitResult::kDone);
  peer.join();
  EXPECT_EQ(door.sleeping.load(), 0u);
}

TEST(RingWaitTest, FindsWhatAWakerHasPublishedThatWasKilledBeforeItWoke) {
  const auto owned = std::make_unique<Door>();
  Door& door = *owned;
  std::atomic<bool> published{false};
  std::thread killed([&] {
    EXPECT_TRUE(WaitFor([&] { return SleepsAt(door); }));
    published.store(true, std::memory_order_seq_cst);
    // It has taken the word, and dies.
    door.sleeping.exchange(0, std::memory_order_acq_rel);
  });
  const auto attempt = [&] { return published.load(std::memory_order_acquire); };
  EXPECT_EQ(WaitAtDoor(door, 0, Deadline::Infinite(), kNever, attempt, kNever, kNothing),
            WaitResult::kDone);
  killed.join();
}

TEST(RingWaitTest, LooksAroundAfterASliceForWhatNobodyHasCounted) {
  const auto owned = std::make_unique<Door>();
  Door& door = *owned;
  bool looked = false;
  EXPECT_EQ(WaitAtDoor(
                door, 0, Deadline::Infinite(), kNever, [&] { return looked; }, kNever,
                [&] { looked = true; }),
            WaitResult::kDone);
}

TEST(RingWaitTest, IsInterruptedAwakeAndAsleep) {
  for (const int64_t spin_ns : {kSecondNs, int64_t{0}}) {
    const auto owned = std::make_unique<Door>();
    Door& door = *owned;
    std::atomic<bool> interrupted{false};
    bool tried = false;
    const auto attempt = [&] {
      tried = true;
      interrupted.store(true, std::memory_order_release);
      return false;
    };
    EXPECT_EQ(WaitAtDoor(
                  door, spin_ns, Deadline::Infinite(), kNever, attempt,
                  [&] { return interrupted.load(std::memory_order_acquire); }, kNothing),
              WaitResult::kInterrupted);
    EXPECT_TRUE(tried);
    EXPECT_EQ(door.sleeping.load(), 0u);
  }
}

}  // namespace
}  // namespace handoff::internal

// SPDX-License-Identifier: Apache-2.0
// What an allocation does and says that finds no room.
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/segment.h"
#include "allocator/testing/plain_segment.h"
#include "allocator/testing/segment_checks.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSegmentBytes = 8 << 20;

TEST(SegmentShortageTest, SaysPreciselyWhyThereIsNoRoom) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  auto other = memory.Join(2);
  const Block mine = MustAllocate(*segment, 5 << 20);
  const Block theirs = MustAllocate(*other, 2 << 20);
  const auto error = segment->Allocate(3 << 20, 64, Deadline::After(absl::ZeroDuration()));
  ASSERT_EQ(error.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string text(error.status().message());
  EXPECT_THAT(text, HasSubstr("requested 3 MiB"));
  EXPECT_THAT(text, HasSubstr("1 MiB of 8 MiB free"));
  EXPECT_THAT(text, HasSubstr("largest free block 1 MiB"));
  EXPECT_THAT(text, HasSubstr("member 1 (5 MiB in 1 blocks), member 2 (2 MiB in 1 blocks)"));
  segment->Release(mine);
  other->Release(theirs);
  other->Trim();
  ExpectWhole(memory, *segment);
}

TEST(SegmentShortageTest, WaitsUntilAnotherMemberReleases) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  auto other = memory.Join(2);
  const Block theirs = MustAllocate(*other, 6 << 20);
  std::thread releaser([&] {
    while (memory.view().header().waiters.load(std::memory_order_relaxed) == 0) {
      std::this_thread::yield();
    }
    other->Release(theirs);
  });
  const auto block = segment->Allocate(4 << 20, 64, Deadline::After(absl::Seconds(60)));
  releaser.join();
  ASSERT_TRUE(block.ok()) << block.status().ToString();
  segment->Release(*block);
  EXPECT_EQ(memory.view().header().waiters.load(std::memory_order_relaxed), 0u);
  ExpectWhole(memory, *segment);
}

TEST(SegmentShortageTest, AReleaseEndsAWaitAtOnceAndNotWithItsSlice) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  auto other = memory.Join(2);
  // Half a slice: one that begins to wait right before the release would sleep twice as long
  // without it.
  constexpr absl::Duration kLimit = absl::Milliseconds(25);
  constexpr int kTimes = 11;
  int at_once = 0;
  for (int i = 0; i < kTimes; ++i) {
    const Block theirs = MustAllocate(*other, 6 << 20);
    std::atomic<int64_t> released_ns{0};
    std::thread releaser([&] {
      while (memory.view().header().waiters.load(std::memory_order_relaxed) == 0) {
        std::this_thread::yield();
      }
      // Now it looks once more, and sleeps.
      absl::SleepFor(absl::Milliseconds(2));
      released_ns.store(MonotonicClock().NowNanoseconds(), std::memory_order_relaxed);
      other->Release(theirs);
    });
    const auto block = segment->Allocate(4 << 20, 64, Deadline::After(absl::Seconds(60)));
    const int64_t now_ns = MonotonicClock().NowNanoseconds();
    releaser.join();
    ASSERT_TRUE(block.ok()) << block.status().ToString();
    const absl::Duration waited =
        absl::Nanoseconds(now_ns - released_ns.load(std::memory_order_relaxed));
    if (waited < kLimit) ++at_once;
    segment->Release(*block);
    segment->Trim();
  }
  // Not all: a busy machine may have let a thread wait.
  EXPECT_GT(at_once, kTimes / 2);
}

TEST(SegmentShortageTest, OneThreadThatStopsWaitingDoesNotSpeakForTheOthers) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  const Block all = MustAllocate(*segment, 7 << 20);
  const SegmentHeader<RealSync>& header = memory.view().header();
  std::atomic<bool> interrupted{false};
  std::thread patient([&] {
    EXPECT_FALSE(segment->Allocate(4 << 20, 64, Deadline::Infinite(), &interrupted).ok());
  });
  while (header.waiting[1].load(std::memory_order_relaxed) == 0) std::this_thread::yield();
  // Each time is a chance for the mistake; a slice of the other may repair it.
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(segment->Allocate(4 << 20, 64, Deadline::After(absl::Microseconds(500))).ok());
    EXPECT_EQ(header.waiting[1].load(std::memory_order_relaxed), 1);
    EXPECT_EQ(header.waiters.load(std::memory_order_relaxed), 1u);
  }
  interrupted.store(true, std::memory_order_release);
  patient.join();
  EXPECT_EQ(header.waiting[1].load(std::memory_order_relaxed), 0);
  EXPECT_EQ(header.waiters.load(std::memory_order_relaxed), 0u);
  segment->Release(all);
}

TEST(SegmentShortageTest, NobodyWakesAMemberThatDiedWhileItWaited) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto survivor = memory.Join(1);
  const auto victim = memory.members().Publish(2, MemberIdentity{});
  ASSERT_TRUE(victim.has_value());
  SegmentHeader<RealSync>& header = memory.view().header();
  header.waiting[2].store(1, std::memory_order_relaxed);
  header.waiters.store(1, std::memory_order_relaxed);
  memory.Reclaim(*survivor, *victim);
  EXPECT_EQ(header.waiting[2].load(std::memory_order_relaxed), 0);
  EXPECT_EQ(header.waiters.load(std::memory_order_relaxed), 0u);
}

TEST(SegmentShortageTest, TickForgetsWaitersThatAreGone) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  std::atomic<uint32_t>& waiters = memory.view().header().waiters;
  waiters.store(1, std::memory_order_relaxed);
  segment->Tick();
  EXPECT_EQ(waiters.load(std::memory_order_relaxed), 0u);
}

TEST(SegmentShortageTest, StopsWaitingAtTheDeadlineAndWhenInterrupted) {
  PlainSegmentMemory memory(kSegmentBytes);
  auto segment = memory.Join(1);
  const Block all = MustAllocate(*segment, 7 << 20);
  EXPECT_EQ(segment->Allocate(4 << 20, 64, Deadline::After(absl::Milliseconds(20))).status().code(),
            absl::StatusCode::kResourceExhausted);
  const std::atomic<bool> interrupted{true};
  EXPECT_EQ(segment->Allocate(4 << 20, 64, Deadline::Infinite(), &interrupted).status().code(),
            absl::StatusCode::kCancelled);
  segment->Release(all);
}

TEST(SegmentShortageTest, NamesAFullFileSystem) {
  PlainSegmentMemory memory(kSegmentBytes, /*payload_limit_bytes=*/1 << 20);
  auto segment = memory.Join(1);
  const Block block = MustAllocate(*segment, 900 << 10);
  Block more;
  EXPECT_EQ(segment->TryAllocate(900 << 10, 64, &more), AllocateResult::kFileSystem);
  EXPECT_THAT(
      segment->Allocate(900 << 10, 64, Deadline::After(absl::ZeroDuration())).status().ToString(),
      HasSubstr("no room left"));
  segment->Release(block);
  segment->Release(MustAllocate(*segment, 900 << 10));
}

}  // namespace
}  // namespace handoff

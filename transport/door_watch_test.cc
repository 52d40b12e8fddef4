// SPDX-License-Identifier: Apache-2.0
#include "transport/door_watch.h"

#include <poll.h>

#include <atomic>
#include <memory>
#include <utility>

#include "allocator/ring_layout.h"
#include "base/futex.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"

namespace handoff::internal {
namespace {

bool IsReadable(int fd) {
  pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&one, 1, 0) == 1;
}

// With one thread for each door, as on a kernel that cannot wait for several.
class DoorWatchTest : public ::testing::TestWithParam<bool> {
 protected:
  DoorWatchTest() { PretendThatNobodyCanFutexWaitAny(!GetParam()); }
  ~DoorWatchTest() override { PretendThatNobodyCanFutexWaitAny(false); }

  static std::unique_ptr<WatchedDoor> Watch(DoorWatches& watches, Door& door) {
    auto watched = watches.Watch(door);
    EXPECT_TRUE(watched.ok()) << watched.status();
    return watched.ok() ? *std::move(watched) : nullptr;
  }
  // Returns once the thread has slept at the door, to which it goes back.
  static bool IsWatched(Door& door) {
    return WaitFor([&] { return FutexWake(door.sleeping, 1) == 1; });
  }
  // As WaitAtDoor() does.
  static void SleepThere(Door& door) {
    door.sleeping.store(Door::kSleeps);
    door.sleeping.exchange(0);
  }
};
INSTANTIATE_TEST_SUITE_P(All, DoorWatchTest, ::testing::Bool());

TEST_P(DoorWatchTest, LeavesADoorWhoseWordItsSocketHasTaken) {
  for (int round = 0; round < 50; ++round) {
    // Not on the stack, which gcc's address sanitizer does not align to a cache line.
    const auto doors = std::make_unique<Door[]>(2);
    Door& first = doors[0];
    Door& second = doors[1];
    DoorWatches watches;
    auto watched = Watch(watches, first);
    EXPECT_TRUE(watched->Arm());
    ASSERT_TRUE(IsWatched(first));
    ASSERT_TRUE(IsWatched(first));
    SleepThere(first);
    watched.reset();

    watched = Watch(watches, second);
    EXPECT_TRUE(watched->Arm());
    ASSERT_TRUE(IsWatched(second));
    second.sleeping.store(0);
    FutexWake(second.sleeping, 1);
    EXPECT_TRUE(WaitFor([&] { return IsReadable(watched->fd()); }));
    EXPECT_TRUE(watched->Arm());
    SleepThere(second);
    watched.reset();
  }  // and its thread ends
}

}  // namespace
}  // namespace handoff::internal

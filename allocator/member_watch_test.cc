// SPDX-License-Identifier: Apache-2.0
#include "allocator/member_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/testing/member_fixture.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;

class MemberWatchTest : public MemberFixture {
 protected:
  static constexpr absl::Duration kShort = absl::Milliseconds(2);
  // Longer than anything here waits: what happens happens before it ends.
  static constexpr absl::Duration kLong = absl::Minutes(10);

  std::unique_ptr<MemberWatch> Watch(absl::Duration period,
                                     std::function<WatchTurn()> on_period = nullptr) {
    MemberWatchOptions options;
    options.period = period;
    options.on_dead = [this](const Probe& probe) {
      const std::lock_guard lock(mutex_);
      dead_.push_back(probe);
    };
    options.on_lock_lost = [this](const Probe& probe) {
      const std::lock_guard lock(mutex_);
      lost_.push_back(probe.member);
    };
    options.on_period = [this, on_period] {
      ++periods_;
      return on_period ? on_period() : WatchTurn::kGoOn;
    };
    absl::StatusOr<std::unique_ptr<MemberWatch>> watch =
        MemberWatch::Start(*members_, probe_, MemberId{.slot = 1, .epoch = 0}, options);
    EXPECT_TRUE(watch.ok()) << watch.status();
    return *std::move(watch);
  }

  std::vector<MemberId> Dead() const {
    const std::lock_guard lock(mutex_);
    std::vector<MemberId> dead;
    for (const Probe& probe : dead_) dead.push_back(probe.member);
    return dead;
  }
  std::vector<MemberId> Lost() const {
    const std::lock_guard lock(mutex_);
    return lost_;
  }
  bool WaitForPeriods(int more) {
    const int from = periods_;
    return WaitFor([&] { return periods_ >= from + more; });
  }

  // How many threads this process has.
  static size_t ThreadCount() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
  }

  static constexpr MemberId kVictim = {.slot = 3, .epoch = 0};
  const DeathProbe probe_ = Prober(/*self=*/1);
  mutable std::mutex mutex_;
  std::vector<Probe> dead_;
  std::vector<MemberId> lost_;
  std::atomic<int> periods_{0};
};

TEST_F(MemberWatchTest, NoticesADeathLongBeforeThePeriodEnds) {
  ChildProcess member = StartMember(3, [](LifeLock&) {});
  const size_t pidfds = PidfdCount();
  const auto watch = Watch(kLong);
  ASSERT_TRUE(WaitFor([&] { return PidfdCount() > pidfds; }));
  member.Kill();
  ASSERT_TRUE(WaitFor([&] { return !Dead().empty(); }));
  EXPECT_THAT(Dead(), ElementsAre(kVictim));
  const std::lock_guard lock(mutex_);
  EXPECT_TRUE(dead_[0].found_now);
  EXPECT_EQ(dead_[0].identity.pid, static_cast<uint32_t>(member.pid()));
}

TEST_F(MemberWatchTest, TellsOfADeathOnceInAPeriodAlsoIfItLooksBeforeTheKernelTells) {
  ChildProcess member = StartMember(3, [](LifeLock&) {});
  // In the watch's thread: it dies right before a look at all members, and has a pidfd by then.
  int period = 0;
  std::atomic<int> told{-1};
  const auto watch = Watch(kShort, [&] {
    if (period == MemberWatch::kPeriodsToFullLook) {
      member.Kill();
      EXPECT_TRUE(member.Wait().has_value());
    }
    if (period == MemberWatch::kPeriodsToFullLook + 1) told = static_cast<int>(Dead().size());
    ++period;
    return WatchTurn::kGoOn;
  });
  ASSERT_TRUE(WaitFor([&] { return told >= 0; }));
  EXPECT_EQ(told, 1);
}

TEST_F(MemberWatchTest, NoticesMembersThatJoinLaterAlsoInAUsedSlot) {
  const auto watch = Watch(kShort);
  for (uint32_t epoch = 0; epoch < 3; ++epoch) {
    ChildProcess member = StartMember(3, [](LifeLock&) {});
    ASSERT_TRUE(WaitForPeriods(2));
    member.Kill();
    ASSERT_TRUE(WaitFor([&] {
      return members_->Word(3) == MemberWord{.epoch = epoch, .state = MemberState::kDead};
    }));
    ASSERT_TRUE(member.Wait().has_value());
    ASSERT_TRUE(members_->Free({.slot = 3, .epoch = epoch}));
  }
  EXPECT_THAT(Dead(), ::testing::Contains(MemberId{.slot = 3, .epoch = 2}));
}

TEST_F(MemberWatchTest, LooksEveryPeriodWhereThereIsNoPidfd) {
  MemberIdentity foreign = Own();
  foreign.pid_namespace += 1;
  const std::shared_ptr<LifeLock> other = Open();
  ASSERT_TRUE(other->TryLock(3).value());
  ASSERT_TRUE(members_->Publish(3, foreign).has_value());
  const auto watch = Watch(kShort);
  ASSERT_TRUE(WaitForPeriods(3));
  EXPECT_TRUE(Dead().empty());
  ASSERT_TRUE(other->Unlock(3).ok());
  EXPECT_TRUE(WaitFor([&] { return !Dead().empty(); }));
}

TEST_F(MemberWatchTest, LeavesTheDeadToWhoeverFoundThemButNotForEver) {
  ASSERT_TRUE(members_->Publish(3, Own()).has_value());
  const auto watch = Watch(kShort);
  ASSERT_TRUE(WaitForPeriods(2));
  ASSERT_TRUE(members_->MarkDead(kVictim));
  ASSERT_TRUE(WaitFor([&] { return Dead().size() >= 3; })) << "asked again every period";
  ASSERT_TRUE(members_->Free(kVictim));
  ASSERT_TRUE(WaitForPeriods(2));
  const size_t calls = Dead().size();
  ASSERT_TRUE(WaitForPeriods(3));
  EXPECT_EQ(Dead().size(), calls);
  const std::lock_guard lock(mutex_);
  EXPECT_FALSE(dead_[0].found_now);
}

TEST_F(MemberWatchTest, ReportsOnceThatAMemberRunsWithoutItsLock) {
  ChildProcess member = StartMember(3, [](LifeLock& lock) { EXPECT_TRUE(lock.Unlock(3).ok()); });
  const auto watch = Watch(kShort);
  ASSERT_TRUE(WaitFor([&] { return !Lost().empty(); }));
  ASSERT_TRUE(WaitForPeriods(2 * MemberWatch::kPeriodsToFullLook));
  EXPECT_THAT(Lost(), ElementsAre(kVictim));
  EXPECT_TRUE(Dead().empty());
}

TEST_F(MemberWatchTest, EndsWhenToldAndCanBeDestroyedThen) {
  const size_t threads = ThreadCount();
  auto watch = Watch(kShort, [] { return WatchTurn::kEnd; });
  EXPECT_TRUE(WaitFor([&] { return periods_ == 1 && ThreadCount() == threads; }));
  watch.reset();
  EXPECT_EQ(periods_, 1);
}

TEST_F(MemberWatchTest, StopsWithoutWaitingForThePeriodToEnd) {
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 20; ++i) {
    auto watch = Watch(kLong);
    ASSERT_TRUE(WaitFor([&] { return periods_ > i; }));
  }
  EXPECT_LT(absl::Now() - begin, kLong);
}

TEST_F(MemberWatchTest, GoesOnWithNewDescriptorsWhenItsOwnWereClosed) {
  ProcessSignal watching;
  ChildProcess child = ChildProcess::Start([&] {
    ChildProcess member = StartMember(3, [](LifeLock&) {});
    std::atomic<bool> lost{false};
    const auto watch = Watch(kShort, [&] {
      return lost.exchange(false) ? WatchTurn::kDescriptorsLost : WatchTurn::kGoOn;
    });
    EXPECT_TRUE(WaitForPeriods(2));
    closefrom(3);
    lock_ = Open();
    lost = true;
    EXPECT_TRUE(WaitForPeriods(3));
    kill(member.pid(), SIGKILL);
    EXPECT_TRUE(WaitFor([&] { return !Dead().empty(); }));
    _exit(::testing::Test::HasFailure() ? 1 : 0);  // `member` has lost its descriptor, too
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(MemberWatchTest, DoesNotExistInAForkedChild) {
  auto watch = Watch(kShort);
  ASSERT_TRUE(WaitForPeriods(2));
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(ThreadCount(), 1u);
    watch.reset();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(WaitForPeriods(2)) << "the parent's goes on";
}

TEST_F(MemberWatchTest, TakesNoSignalOfTheProgram) {
  static std::atomic<bool> by_main_thread;
  static pthread_t main_thread;
  main_thread = pthread_self();
  by_main_thread = false;
  const auto previous = signal(
      SIGUSR1, [](int) { by_main_thread = pthread_equal(pthread_self(), main_thread) != 0; });
  const auto watch = Watch(kShort);
  ASSERT_TRUE(WaitForPeriods(1));
  kill(getpid(), SIGUSR1);
  EXPECT_TRUE(WaitFor([] { return by_main_thread.load(); }));
  signal(SIGUSR1, previous);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "control_queue/life_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/fake_clock.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "control_queue/member_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

// A lock file that is gone after the test.
class LifeLockTest : public ::testing::Test {
 protected:
  LifeLockTest() : path_(session_.directory() + "/" + session_.name() + "_mutex") {}
  ~LifeLockTest() override { ::unlink(path_.c_str()); }

  std::unique_ptr<LifeLock> Open() const {
    absl::StatusOr<std::unique_ptr<LifeLock>> life_lock = LifeLock::Open(path_, {.create = true});
    EXPECT_TRUE(life_lock.ok()) << life_lock.status();
    return *std::move(life_lock);
  }

  // A process that has taken `byte` and does nothing more.
  ChildProcess StartHolderOf(uint32_t byte) const {
    ProcessSignal locked;
    ChildProcess holder = ChildProcess::Start([&] {
      const auto own = Open();
      EXPECT_TRUE(*own->TryLock(byte));
      locked.Signal();
      for (;;) ::pause();
      return 0;
    });
    EXPECT_TRUE(locked.Wait());
    return holder;
  }

  const TestSession session_;
  const std::string path_;
};

TEST_F(LifeLockTest, TakesAByteOnce) {
  const auto mine = Open();
  EXPECT_TRUE(*mine->TryLock(7));
  EXPECT_FALSE(*mine->TryLock(7)) << "the kernel would grant it";
  EXPECT_TRUE(*mine->TryLock(8));
}

TEST_F(LifeLockTest, RefusesAnotherDescriptionInTheSameProcess) {
  const auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*mine->TryLock(7));
  EXPECT_FALSE(*other->TryLock(7));
  ASSERT_TRUE(mine->Unlock(7).ok());
  EXPECT_TRUE(*other->TryLock(7));
  EXPECT_FALSE(*mine->TryLock(7));
}

TEST_F(LifeLockTest, SeesWhatOthersHoldButNotWhatItHoldsItself) {
  const auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*mine->TryLock(kMaxMembers - 1));
  EXPECT_FALSE(*mine->IsHeld(kMaxMembers - 1));
  EXPECT_TRUE(*other->IsHeld(kMaxMembers - 1));
  EXPECT_FALSE(*other->IsHeld(kMaxMembers - 2));
}

TEST_F(LifeLockTest, GivesItsBytesBackWhenItIsDestroyed) {
  auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*mine->TryLock(7));
  mine.reset();
  EXPECT_FALSE(*other->IsHeld(7));
}

TEST_F(LifeLockTest, RefusesToGiveBackWhatItDoesNotHold) {
  const auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*other->TryLock(7));
  EXPECT_EQ(mine->Unlock(7).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(*mine->IsHeld(7));
}

TEST_F(LifeLockTest, ExcludesThreadsThatUseOneObject) {
  const auto shared = Open();
  int inside = 0;  // guarded by the byte
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 50; ++turn) {
        ASSERT_TRUE(shared->Lock(7, Deadline::After(absl::Seconds(20))).ok());
        EXPECT_EQ(++inside, 1);
        --inside;
        ASSERT_TRUE(shared->Unlock(7).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(LifeLockTest, IsReleasedByTheKernelWhenTheHolderIsKilledAlsoWhileItIsAZombie) {
  const auto mine = Open();
  ChildProcess victim = StartHolderOf(7);
  ASSERT_TRUE(*mine->IsHeld(7));
  const absl::Time killed = absl::Now();
  victim.Kill();
  EXPECT_TRUE(WaitFor([&] { return !*mine->IsHeld(7); }));
  const double release_ms = absl::ToDoubleMilliseconds(absl::Now() - killed);
  RecordProperty("release_ms", std::to_string(release_ms));
  EXPECT_EQ(::kill(victim.pid(), 0), 0) << "not reaped yet";
  EXPECT_EQ(victim.Wait(), ChildExit::Signal(SIGKILL));
}

TEST_F(LifeLockTest, IsKeptByAStoppedHolder) {
  const auto mine = Open();
  ChildProcess holder = StartHolderOf(7);
  ASSERT_TRUE(holder.Stop());
  EXPECT_EQ(mine->Lock(7, Deadline::After(absl::Milliseconds(100))).code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(LifeLockTest, DoesNotSurviveExec) {
  const auto mine = Open();
  ProcessSignal locked;
  ProcessSignal execute;
  ChildProcess child = ChildProcess::Start([&] {
    const auto own = Open();
    EXPECT_TRUE(*own->TryLock(7));
    locked.Signal();
    EXPECT_TRUE(execute.Wait());
    ::execlp("sleep", "sleep", "60", nullptr);
    return 1;
  });
  ASSERT_TRUE(locked.Wait());
  ASSERT_TRUE(*mine->IsHeld(7));
  execute.Signal();
  EXPECT_TRUE(WaitFor([&] { return !*mine->IsHeld(7); }));
  EXPECT_EQ(child.Wait(absl::ZeroDuration()), std::nullopt) << "it runs another program now";
}

TEST_F(LifeLockTest, IsNotKeptByAForkedChildOfAKilledHolder) {
  const auto mine = Open();
  ProcessSignal forked;
  ProcessSignal end;
  ProcessSignal ended;
  ChildProcess victim = ChildProcess::Start([&] {
    const auto own = Open();
    EXPECT_TRUE(*own->TryLock(7));
    if (::fork() == 0) {
      // Also of use to nobody here.
      if (own->TryLock(8).status().code() == absl::StatusCode::kFailedPrecondition) {
        forked.Signal();
      }
      if (end.Wait()) ended.Signal();
      ::_exit(0);
    }
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(forked.Wait());
  EXPECT_TRUE(*mine->IsHeld(7)) << "the fork has taken nothing from the parent";
  victim.Kill();
  EXPECT_TRUE(WaitFor([&] { return !*mine->IsHeld(7); }));
  end.Signal();
  EXPECT_TRUE(ended.Wait()) << "the grandchild was alive all the time";
}

TEST_F(LifeLockTest, NoticesThatItsDescriptorWasClosedAndDoesNotTouchTheNextFileOfThatNumber) {
  auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*mine->TryLock(7));
  EXPECT_TRUE(mine->IsOpen());
  EXPECT_EQ(mine->inode(), other->inode());
  int number = -1;
  for (int fd = 3; fd < 64 && number < 0; ++fd) {
    struct stat file;
    if (::fstat(fd, &file) == 0 && file.st_ino == mine->inode()) number = fd;
  }
  ASSERT_GE(number, 0);
  ASSERT_EQ(::close(number), 0);  // as a library does that closes all descriptors
  EXPECT_FALSE(mine->IsOpen());
  EXPECT_FALSE(*other->IsHeld(7)) << "the kernel has given the byte back";
  auto again = Open();
  EXPECT_FALSE(mine->IsOpen()) << "though the file has the number again";
  again.reset();

  const std::string foreign_path = path_ + "_foreign";
  ASSERT_EQ(::open(foreign_path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600), number);
  EXPECT_FALSE(mine->IsOpen());
  EXPECT_EQ(mine->TryLock(8).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(mine->IsHeld(8).status().code(), absl::StatusCode::kFailedPrecondition);
  mine.reset();
  EXPECT_EQ(::close(number), 0) << "it is the other file's descriptor, and open";
  ::unlink(foreign_path.c_str());
}

TEST_F(LifeLockTest, KnowsWhenItsFileHasLostItsName) {
  const auto mine = Open();
  EXPECT_TRUE(*mine->SameFile(path_));
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_FALSE(*mine->SameFile(path_));
  const auto next = Open();
  EXPECT_FALSE(*mine->SameFile(path_)) << "made again";
  EXPECT_TRUE(*next->SameFile(path_));
  ASSERT_TRUE(*mine->TryLock(7));
  EXPECT_FALSE(*next->IsHeld(7)) << "another file";
}

TEST_F(LifeLockTest, WaitsForAByteUntilItIsGivenBack) {
  const auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*other->TryLock(7));
  std::thread release([&] {
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_TRUE(other->Unlock(7).ok());
  });
  EXPECT_TRUE(mine->Lock(7, Deadline::Infinite()).ok());
  release.join();
}

TEST_F(LifeLockTest, HonoursItsDeadline) {
  const auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*other->TryLock(7));
  const absl::Time before = absl::Now();
  const absl::Status late = mine->Lock(7, Deadline::After(absl::Milliseconds(30)));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(30));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("byte 7 of " + path_));
  EXPECT_TRUE(other->Unlock(7).ok());
  EXPECT_TRUE(mine->Lock(7, Deadline::After(absl::ZeroDuration())).ok()) << "tries at least once";
}

TEST_F(LifeLockTest, GoesByTheClockOfTheDeadline) {
  const auto mine = Open();
  const auto other = Open();
  ASSERT_TRUE(*other->TryLock(7));
  FakeClock clock;
  std::atomic<bool> done{false};
  const Deadline deadline = Deadline::After(absl::Hours(1), clock);
  std::thread waiter([&] {
    EXPECT_EQ(mine->Lock(7, deadline).code(), absl::StatusCode::kDeadlineExceeded);
    done = true;
  });
  EXPECT_FALSE(done);
  clock.Advance(absl::Hours(1));
  waiter.join();
}

TEST_F(LifeLockTest, NamesTheProcessThatHoldsTheGuard) {
  const auto mine = Open();
  EXPECT_EQ(mine->HolderOfGuard(), 0);
  ProcessSignal locked;
  ProcessSignal unlock;
  ProcessSignal unlocked;
  ChildProcess holder = ChildProcess::Start([&] {
    const auto own = Open();
    EXPECT_TRUE(*own->TryLock(kGuardByte));
    EXPECT_EQ(own->HolderOfGuard(), 0) << "nobody else";
    locked.Signal();
    EXPECT_TRUE(unlock.Wait());
    EXPECT_TRUE(own->Unlock(kGuardByte).ok());
    unlocked.Signal();
    for (;;) ::pause();
    return 0;
  });
  ASSERT_TRUE(locked.Wait());
  EXPECT_EQ(mine->HolderOfGuard(), holder.pid());
  const absl::Status late = mine->Lock(kGuardByte, Deadline::After(absl::ZeroDuration()));
  EXPECT_THAT(std::string(late.message()), HasSubstr("by process " + std::to_string(holder.pid())));
  unlock.Signal();
  ASSERT_TRUE(unlocked.Wait());
  EXPECT_EQ(mine->HolderOfGuard(), 0);
}

TEST_F(LifeLockTest, ForgetsTheHolderOfTheGuardWhenItIsKilled) {
  const auto mine = Open();
  ChildProcess holder = StartHolderOf(kGuardByte);
  holder.Kill();
  EXPECT_TRUE(WaitFor([&] { return !*mine->IsHeld(kGuardByte); }));
  EXPECT_EQ(mine->HolderOfGuard(), 0);
}

TEST_F(LifeLockTest, MakesTheFileForItsOwnerAloneUnlessToldOtherwise) {
  const mode_t umask_before = ::umask(0077);
  struct stat file;
  Open();
  ASSERT_EQ(::stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 07777, 0600u);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  ASSERT_TRUE(LifeLock::Open(path_, {.create = true, .mode = 0660}).ok());
  ASSERT_EQ(::stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 07777, 0660u) << "the umask does not count";
  ::umask(umask_before);
}

TEST_F(LifeLockTest, MakesNoFileUnlessAsked) {
  EXPECT_EQ(LifeLock::Open(path_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(::access(path_.c_str(), F_OK), 0);
}

TEST_F(LifeLockTest, RefusesWhatIsNoFile) {
  ASSERT_EQ(::symlink("/etc/passwd", path_.c_str()), 0);
  EXPECT_EQ(LifeLock::Open(path_, {.create = true}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(LifeLock::Open(path_, {.create = true}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace handoff

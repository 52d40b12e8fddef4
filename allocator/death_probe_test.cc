// SPDX-License-Identifier: Apache-2.0
#include "allocator/death_probe.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>

#include "base/process_id.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "base/unique_fd.h"

namespace handoff {
namespace {

// A member table in memory that children share, and a lock file. The file of the table stands for
// the management object.
class DeathProbeTest : public ::testing::Test {
 protected:
  DeathProbeTest() {
    lock_ = Open();
    file_.reset(open(table_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(file_.get(), static_cast<off_t>(kBytes)), 0);
    bytes_ = static_cast<std::byte*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0));
    struct stat info = {};
    EXPECT_EQ(fstat(file_.get(), &info), 0);
    inode_ = info.st_ino;
    members_ = std::make_unique<MemberTable<RealSync>>(std::span(bytes_, kBytes));
  }
  ~DeathProbeTest() override {
    munmap(bytes_, kBytes);
    unlink(table_path_.c_str());
    unlink(lock_path_.c_str());
  }

  std::shared_ptr<LifeLock> Open() const {
    return std::shared_ptr<LifeLock>(LifeLock::Open(lock_path_, {.create = true}).value());
  }

  static MemberIdentity Own() {
    MemberIdentity identity;
    const ProcessId process = CurrentProcessId().value();
    identity.pid = static_cast<uint32_t>(process.pid);
    identity.start_time = process.start_time;
    identity.pid_namespace = process.pid_namespace;
    return identity;
  }

  // A process that is the member in `slot`: with its byte and its row. `body` runs then.
  ChildProcess StartMember(uint32_t slot, const std::function<void(LifeLock&)>& body) {
    ProcessSignal joined;
    ChildProcess child = ChildProcess::Start([&] {
      const std::shared_ptr<LifeLock> lock = Open();
      EXPECT_TRUE(lock->TryLock(slot).value());
      EXPECT_TRUE(members_->Publish(slot, Own()).has_value());
      body(*lock);
      joined.Signal();
      for (;;) pause();
      return 0;
    });
    EXPECT_TRUE(joined.Wait());
    return child;
  }

  DeathProbe Prober(uint32_t self = 0) {
    return DeathProbe(
        *members_, [this] { return lock_; }, inode_, self);
  }

  static constexpr size_t kBytes = MemberTable<RealSync>::BytesNeeded();
  TestSession session_{TestSessionOptions{.own_directory = true}};
  const std::string lock_path_ = session_.directory() + "/mutex";
  const std::string table_path_ = session_.directory() + "/table";
  std::shared_ptr<LifeLock> lock_;
  UniqueFd file_;
  std::byte* bytes_ = nullptr;
  uint64_t inode_ = 0;
  std::unique_ptr<MemberTable<RealSync>> members_;
};

TEST_F(DeathProbeTest, SeesNobodyInAFreeRowAndItselfAlive) {
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kFree);
  ASSERT_TRUE(lock_->TryLock(3).value());
  ASSERT_TRUE(members_->Publish(3, Own()).has_value());
  EXPECT_EQ(Prober(/*self=*/3).Look(3).result, ProbeResult::kAlive);
}

TEST_F(DeathProbeTest, LeavesALivingAndAStoppedMemberAlone) {
  ChildProcess member = StartMember(3, [](LifeLock&) {});
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kAlive);
  ASSERT_TRUE(member.Stop());
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kAlive);
  EXPECT_EQ(members_->Word(3).state, MemberState::kLive);
}

TEST_F(DeathProbeTest, FindsAKilledMemberDeadOnce) {
  ChildProcess member = StartMember(3, [](LifeLock&) {});
  const auto pid = static_cast<uint32_t>(member.pid());
  member.Kill();
  ASSERT_TRUE(WaitFor([&] { return Prober().Look(3).result == ProbeResult::kDead; }));
  EXPECT_EQ(members_->Word(3), (MemberWord{.epoch = 0, .state = MemberState::kDead}));
  const Probe again = Prober().Look(3);
  EXPECT_EQ(again.result, ProbeResult::kDead);
  EXPECT_FALSE(again.found_now);
  EXPECT_EQ(again.identity.pid, pid);
  EXPECT_EQ(again.member, (MemberId{.slot = 3, .epoch = 0}));
}

TEST_F(DeathProbeTest, FindsAZombieDead) {
  ChildProcess member = StartMember(3, [](LifeLock&) {});
  kill(member.pid(), SIGKILL);  // not reaped
  EXPECT_TRUE(WaitFor([&] { return Prober().Look(3).result == ProbeResult::kDead; }));
}

TEST_F(DeathProbeTest, SparesAMemberThatRunsWithoutItsLock) {
  ChildProcess member = StartMember(3, [](LifeLock& lock) { EXPECT_TRUE(lock.Unlock(3).ok()); });
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Prober().Look(3).result, ProbeResult::kLockLostButRunning);
  }
  EXPECT_EQ(members_->Word(3).state, MemberState::kLive);
  member.Kill();
  EXPECT_TRUE(WaitFor([&] { return Prober().Look(3).result == ProbeResult::kDead; }));
}

TEST_F(DeathProbeTest, FindsAMemberDeadThatRunsAnotherProgramNow) {
  ProcessSignal joined;
  ChildProcess member = ChildProcess::Start([&] {
    const std::shared_ptr<LifeLock> lock = Open();
    EXPECT_TRUE(lock->TryLock(3).value());
    EXPECT_TRUE(members_->Publish(3, Own()).has_value());
    joined.Signal();
    execl("/bin/sleep", "sleep", "60", nullptr);
    return 1;
  });
  ASSERT_TRUE(joined.Wait());
  EXPECT_TRUE(WaitFor([&] { return Prober().Look(3).result == ProbeResult::kDead; }));
  EXPECT_TRUE(IsRunning(member.pid(), ProcessStartTime(member.pid()).value()));
}

TEST_F(DeathProbeTest, FindsAMemberDeadWhoseLockIsKeptByAChildThatNobodyNoticed) {
  ProcessSignal joined;
  ProcessSignal end;
  ChildProcess member = ChildProcess::Start([&] {
    const std::shared_ptr<LifeLock> lock = Open();
    EXPECT_TRUE(lock->TryLock(3).value());
    EXPECT_TRUE(members_->Publish(3, Own()).has_value());
    // Not fork(): no handler runs, the descriptor stays open in the child.
    if (syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr) == 0) {
      EXPECT_TRUE(end.Wait());
      _exit(0);
    }
    joined.Signal();
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(joined.Wait());
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kAlive);
  member.Kill();
  Probe probe;
  ASSERT_TRUE(WaitFor([&] {
    probe = Prober().Look(3);
    return probe.result == ProbeResult::kDead;
  }));
  EXPECT_TRUE(probe.found_now);
  EXPECT_TRUE(probe.lock_outlived_process);
  EXPECT_TRUE(lock_->IsHeld(3).value());
  end.Signal();
  EXPECT_TRUE(WaitFor([&] { return !lock_->IsHeld(3).value(); }));
}

TEST_F(DeathProbeTest, GoesByTheLockAloneInAnotherPidNamespace) {
  MemberIdentity foreign = Own();
  foreign.pid_namespace += 1;
  const std::shared_ptr<LifeLock> other = Open();
  ASSERT_TRUE(other->TryLock(3).value());
  foreign.pid = 4'000'000;  // no such process here
  ASSERT_TRUE(members_->Publish(3, foreign).has_value());
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kAlive);
  foreign.pid = static_cast<uint32_t>(getpid());  // such a process, but another one
  ASSERT_TRUE(other->TryLock(4).value());
  ASSERT_TRUE(members_->Publish(4, foreign).has_value());
  ASSERT_TRUE(other->Unlock(4).ok());
  EXPECT_EQ(Prober().Look(4).result, ProbeResult::kDead);
}

TEST_F(DeathProbeTest, DoesNotTakeAnotherProcessOfThePidForTheMember) {
  MemberIdentity earlier = Own();
  earlier.start_time -= 1;
  ASSERT_TRUE(members_->Publish(3, earlier).has_value());
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kDead);
}

TEST_F(DeathProbeTest, DeclaresNobodyDeadWhenItsOwnDescriptorIsGone) {
  ASSERT_TRUE(members_->Publish(3, MemberIdentity{.pid = 1}).has_value());
  for (int fd = 3; fd < 64; ++fd) {
    struct stat info = {};
    if (fstat(fd, &info) == 0 && info.st_ino == lock_->inode()) close(fd);
  }
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kAlive);
  lock_ = Open();
  EXPECT_EQ(Prober().Look(3).result, ProbeResult::kDead);
}

TEST_F(DeathProbeTest, KnowsWhatAProcessHasMapped) {
  EXPECT_TRUE(MayHaveMapped(getpid(), inode_));
  EXPECT_FALSE(MayHaveMapped(getpid(), lock_->inode()));
  EXPECT_TRUE(MayHaveMapped(4'000'000, inode_)) << "nothing is known of it";
}

}  // namespace
}  // namespace handoff

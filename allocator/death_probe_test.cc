// SPDX-License-Identifier: Apache-2.0
#include "allocator/death_probe.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>

#include "allocator/testing/member_fixture.h"
#include "base/process_id.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

class DeathProbeTest : public MemberFixture {};

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

// SPDX-License-Identifier: Apache-2.0
// What a session does while it is joined: it reclaims the dead, and survives what is done to its
// own process.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "allocator/session.h"
#include "allocator/testing/session_fixture.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "control_queue/member_table.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SessionMembersTest : public SessionFixture {};

TEST_F(SessionMembersTest, MakesTheForkedChildAStranger) {
  RecordingHooks hooks;
  std::unique_ptr<Session> session = Join();
  session->set_hooks(&hooks);
  ChildProcess child = ChildProcess::Start([&] {
    using enum absl::StatusCode;
    EXPECT_EQ(session->CheckUsable().code(), kFailedPrecondition);
    EXPECT_THAT(std::string(session->CheckUsable().message()), HasSubstr("forked"));
    EXPECT_EQ(session->CreateSegment({.id = 1, .size_bytes = kMiB}).status().code(),
              kFailedPrecondition);
    EXPECT_EQ(session->OpenSegment(0).status().code(), kFailedPrecondition);
    EXPECT_EQ(session->RemoveSegment(0).code(), kFailedPrecondition);
    EXPECT_EQ(session->Leave().code(), kFailedPrecondition);
    EXPECT_FALSE(session->ReclaimDead());
    session->set_hooks(nullptr);
    session.reset();
    EXPECT_EQ(hooks.stops, 0);
    EXPECT_NE(Join(), nullptr) << "it may join for itself";
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(session->CheckUsable().ok());
  EXPECT_TRUE(session->members().Alive(session->id()));
  const int before = hooks.ticks;
  EXPECT_TRUE(WaitFor([&] { return hooks.ticks > before; })) << "the parent's thread goes on";
}

TEST_F(SessionMembersTest, IsNotKeptAliveByAForkedChild) {
  const std::unique_ptr<Session> session = Join();
  ProcessSignal forked;
  ProcessSignal end;
  ProcessSignal ended;
  ChildProcess member = ChildProcess::Start([&] {
    const std::unique_ptr<Session> own = Join();
    if (fork() == 0) {
      EXPECT_TRUE(end.Wait());
      ended.Signal();
      _exit(0);
    }
    forked.Signal();
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(forked.Wait());
  member.Kill();
  EXPECT_TRUE(WaitFor([&] { return !session->members().Alive({.slot = 2, .epoch = 0}); }));
  end.Signal();
  EXPECT_TRUE(ended.Wait());
}

TEST_F(SessionMembersTest, ReclaimsAKilledMemberAndFreesItsRow) {
  RecordingHooks hooks;
  std::vector<SessionNotice::Kind> notices;
  std::mutex mutex;
  SessionOptions options = Options();
  options.on_notice = [&](const SessionNotice& notice) {
    std::lock_guard lock(mutex);
    notices.push_back(notice.kind);
  };
  const std::unique_ptr<Session> session = Join(options);
  session->set_hooks(&hooks);
  ChildProcess member = StartMember();
  const MemberId victim = {.slot = 2, .epoch = 0};
  ASSERT_TRUE(session->members().Alive(victim));
  member.Kill();
  ASSERT_TRUE(WaitFor([&] { return session->members().Word(2).epoch == 1; }));
  EXPECT_THAT(hooks.reclaimed(), ElementsAre(victim));
  EXPECT_EQ(session->members().Word(2).state, MemberState::kFree);
  std::lock_guard lock(mutex);
  EXPECT_THAT(notices, ElementsAre(SessionNotice::Kind::kMemberDied));
}

TEST_F(SessionMembersTest, AsksAgainWhenAMemberCouldNotBeReclaimed) {
  RecordingHooks hooks;
  hooks.answer = false;
  const std::unique_ptr<Session> session = Join();
  session->set_hooks(&hooks);
  KillAndReap(StartMember());
  ASSERT_TRUE(WaitFor([&] { return hooks.reclaimed().size() >= 3; }));
  EXPECT_EQ(session->members().Word(2).state, MemberState::kDead);
  hooks.answer = true;
  EXPECT_TRUE(WaitFor([&] { return session->members().Word(2).state == MemberState::kFree; }));
}

TEST_F(SessionMembersTest, KeepsTheDeadUntilItHasHooks) {
  RecordingHooks hooks;
  const std::unique_ptr<Session> session = Join();
  KillAndReap(StartMember());
  ASSERT_TRUE(WaitFor([&] { return session->members().Word(2).state == MemberState::kDead; }));
  session->set_hooks(&hooks);
  EXPECT_THAT(hooks.reclaimed(), ElementsAre(MemberId{.slot = 2, .epoch = 0}))
      << "those dead already, at once";
  EXPECT_EQ(session->members().Word(2).state, MemberState::kFree);
}

TEST_F(SessionMembersTest, FreesRowsWithoutHooksWhenToldThatThereAreNone) {
  const std::unique_ptr<Session> session = Join();
  session->set_hooks(nullptr);
  KillAndReap(StartMember());
  EXPECT_TRUE(WaitFor([&] { return session->members().Word(2).epoch == 1; }));
}

TEST_F(SessionMembersTest, TakesOverFromAReclaimerThatWasKilled) {
  RecordingHooks hooks;
  const std::unique_ptr<Session> session = Join();
  session->set_hooks(&hooks);
  ChildProcess victim = StartMember();
  // The other member marks the victim dead and then stops for ever, as its reclaimer.
  ASSERT_TRUE(session->members().MarkDead({.slot = 2, .epoch = 0}));
  EXPECT_TRUE(WaitFor([&] { return session->members().Word(2).epoch == 1; }));
  EXPECT_THAT(hooks.reclaimed(), ElementsAre(MemberId{.slot = 2, .epoch = 0}));
}

TEST_F(SessionMembersTest, LooksAtOnceWhenAsked) {
  SessionOptions options = Options();
  options.watch_period = absl::Seconds(1);
  RecordingHooks hooks;
  const std::unique_ptr<Session> session = Join(options);
  session->set_hooks(&hooks);
  EXPECT_FALSE(session->ReclaimDead());
  ChildProcess member = StartMember();
  EXPECT_FALSE(session->ReclaimDead());
  member.Kill();
  EXPECT_TRUE(WaitFor([&] {
    session->ReclaimDead();
    return session->members().Word(2).epoch == 1;
  }));
}

TEST_F(SessionMembersTest, StopsMovesOnceBeforeItsRowTurnsDead) {
  class Hooks : public RecordingHooks {
   public:
    void StopMoves() override {
      RecordingHooks::StopMoves();
      alive_at_stop = session->members().Alive(session->id());
    }
    bool ReclaimMember(MemberId member) override {
      dead_at_reclaim = session->members().Word(member.slot).state == MemberState::kDead;
      return RecordingHooks::ReclaimMember(member);
    }
    Session* session = nullptr;
    bool alive_at_stop = false;
    bool dead_at_reclaim = false;
  };
  Hooks hooks;
  std::unique_ptr<Session> session = Join();
  hooks.session = session.get();
  session->set_hooks(&hooks);
  EXPECT_TRUE(session->Leave().ok());
  EXPECT_EQ(hooks.stops, 1);
  EXPECT_TRUE(hooks.alive_at_stop);
  EXPECT_TRUE(hooks.dead_at_reclaim);
  EXPECT_THAT(hooks.reclaimed(), ElementsAre(session->id()));
}

TEST_F(SessionMembersTest, TakesItsLifeLockAgainWhenALibraryHasClosedItsDescriptors) {
  std::atomic<int> taken_again{0};
  SessionOptions options = Options();
  options.on_notice = [&](const SessionNotice& notice) {
    if (notice.kind == SessionNotice::Kind::kOwnLockTakenAgain) ++taken_again;
  };
  const std::unique_ptr<Session> other = Join();
  ChildProcess child = ChildProcess::Start([&] {
    RecordingHooks hooks;
    std::unique_ptr<Session> session = Join(options);
    session->set_hooks(&hooks);
    // Until its watch has begun, which opens descriptors and closes some of them at once: those
    // might get the numbers of others.
    EXPECT_TRUE(WaitFor([&] { return hooks.ticks >= 2; }));
    closefrom(3);
    std::vector<int> foreign;  // somebody else gets the numbers
    for (int i = 0; i < 32; ++i) foreign.push_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(WaitFor([&] { return taken_again == 1; }));
    EXPECT_TRUE(session->CheckUsable().ok());
    EXPECT_TRUE(session->CreateSegment({.id = 1, .size_bytes = kMiB}).ok());
    EXPECT_TRUE(session->RemoveSegment(1).ok());
    session.reset();
    for (const int fd : foreign) EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC) << "still open";
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(other->members().Alive(other->id()));
}

TEST_F(SessionMembersTest, StopsForGoodWhenItWasDeclaredDead) {
  RecordingHooks hooks;
  std::atomic<int> lost{0};
  SessionOptions options = Options();
  options.on_notice = [&](const SessionNotice& notice) {
    if (notice.kind == SessionNotice::Kind::kOwnLockLost) ++lost;
  };
  std::unique_ptr<Session> session = Join(options);
  session->set_hooks(&hooks);
  ASSERT_TRUE(session->members().MarkDead(session->id()));
  ASSERT_TRUE(WaitFor([&] { return lost == 1; }));
  EXPECT_EQ(session->CheckUsable().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(session->CheckUsable().message()), HasSubstr("declared dead"));
  EXPECT_EQ(hooks.stops, 1);
  EXPECT_TRUE(session->Leave().ok());
  EXPECT_EQ(hooks.stops, 1);
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionMembersTest, ReportsOnceThatItsObjectsWereRemovedAndGoesOn) {
  std::atomic<int> removed{0};
  SessionOptions options = Options();
  options.on_notice = [&](const SessionNotice& notice) {
    if (notice.kind == SessionNotice::Kind::kObjectsRemoved) ++removed;
  };
  RecordingHooks hooks;
  std::unique_ptr<Session> session = Join(options);
  session->set_hooks(&hooks);
  for (const std::string& name : test_session_.Objects()) {
    std::filesystem::remove(test_session_.directory() + "/" + name);
  }
  ASSERT_TRUE(WaitFor([&] { return removed == 1; }));
  const int before = hooks.ticks;
  ASSERT_TRUE(WaitFor([&] { return hooks.ticks > before + 3; }));
  EXPECT_EQ(removed, 1);
  EXPECT_TRUE(session->CheckUsable().ok());
  EXPECT_EQ(session->CreateSegment({.id = 1, .size_bytes = kMiB}).status().code(),
            absl::StatusCode::kFailedPrecondition);

  const std::unique_ptr<Session> next = Join();
  EXPECT_NE(next->nonce(), session->nonce());
  EXPECT_TRUE(session->Leave().ok());
  EXPECT_THAT(Objects(), ElementsAre("_control_queue", "_main", "_management", "_mutex"))
      << "they are the next session's";
}

}  // namespace
}  // namespace handoff

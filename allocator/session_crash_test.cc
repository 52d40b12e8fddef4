// SPDX-License-Identifier: Apache-2.0
// A process is killed at every crash point of an operation. Whoever comes next goes on, every
// operation still works, and nothing stays behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "allocator/cleanup.h"
#include "allocator/session.h"
#include "allocator/testing/session_fixture.h"
#include "base/crash_point.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;

class SessionCrashTest : public SessionFixture {
 protected:
  void SetUp() override {
    if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  }

  struct Point {
    std::string name;
    uint64_t passes;
  };

  // The crash points that a process passes in `operation`, in the order of the first time.
  // `prepare` makes the state that it begins with.
  std::vector<Point> PointsOf(const std::function<void()>& prepare,
                              const std::function<void()>& operation) {
    prepare();
    const std::string list = ::testing::TempDir() + "points_of_" + test_session_.name();
    ChildProcess child = ChildProcess::Start([&] {
      CountCrashPoints();
      operation();
      std::ofstream out(list);
      for (const auto& [name, passes] : CrashPointsPassed()) out << name << ' ' << passes << '\n';
      return 0;
    });
    EXPECT_EQ(child.Wait(), ChildExit::Code(0));
    std::vector<Point> points;
    std::ifstream in(list);
    for (Point point; in >> point.name >> point.passes;) points.push_back(point);
    std::remove(list.c_str());
    return points;
  }

  // Kills a process at each of the points, at its first and its last pass, and checks what is left
  // each time. Returns the names.
  std::vector<std::string> KillAtEach(const std::function<void()>& prepare,
                                      const std::function<void()>& operation,
                                      const std::function<void()>& check) {
    std::vector<std::string> names;
    const std::vector<Point> points = PointsOf(prepare, operation);
    check();
    for (const Point& point : points) {
      names.push_back(point.name);
      for (uint64_t nth = 1; nth <= point.passes; nth += std::max<uint64_t>(point.passes - 1, 1)) {
        SCOPED_TRACE(point.name + ":" + std::to_string(nth));
        prepare();
        ChildProcess child = ChildProcess::Start([&] {
          ArmCrashPoint(point.name, nth);
          operation();
          return 0;
        });
        EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
        check();
        if (HasFailure()) return names;
      }
    }
    return names;
  }

  // The next one joins, everything works, and it leaves nothing.
  void ExpectNextOneFindsAllWell() const {
    std::unique_ptr<Session> session = Join();
    ASSERT_NE(session, nullptr);
    session->set_hooks(nullptr);
    EXPECT_TRUE(session->OpenSegment(0).ok());
    session->RemoveSegment(2).IgnoreError();
    EXPECT_TRUE(session->CreateSegment({.id = 2, .size_bytes = kMiB}).ok());
    EXPECT_TRUE(session->EnsureArea(AreaKind::kRingTable, kMiB, 4096).ok());
    session.reset();
  }

  // True once nobody is in the table but `members` of them.
  static bool WaitForMembers(Session& session, uint32_t members) {
    return WaitFor([&] {
      uint32_t found = 0;
      session.members().ForEach([&](MemberId, MemberState) { ++found; });
      return found == members;
    });
  }

  // The same beside a member that has been there all the time.
  void ExpectSurvivorIsWell(Session& survivor) const {
    ASSERT_TRUE(survivor.CheckUsable().ok());
    EXPECT_TRUE(WaitForMembers(survivor, 1)) << "a dead member was not reclaimed";
    ExpectNextOneFindsAllWell();
    survivor.RemoveSegment(2).IgnoreError();
    EXPECT_EQ(survivor.Segments().size(), 1u);
  }
};

TEST_F(SessionCrashTest, TheFirstToJoinIsKilled) {
  const auto points = KillAtEach([] {}, [&] { Join(Options()).release(); },
                                 [&] {
                                   ExpectNextOneFindsAllWell();
                                   EXPECT_THAT(Objects(), IsEmpty());
                                 });
  EXPECT_THAT(points, Contains("session.lock.entered"));
  EXPECT_THAT(points, Contains("management.make.filled"));
  EXPECT_THAT(points, Contains("segment.create.making"));
  EXPECT_THAT(points, Contains("session.join.row_live"));
}

TEST_F(SessionCrashTest, OneMoreToJoinIsKilled) {
  std::unique_ptr<Session> survivor = Join();
  survivor->set_hooks(nullptr);
  KillAtEach([] {}, [&] { Join(Options()).release(); }, [&] { ExpectSurvivorIsWell(*survivor); });
  survivor.reset();
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionCrashTest, TheFirstToJoinAfterAllOthersWereKilledIsKilled) {
  const auto points =
      KillAtEach([&] { KillAndReap(StartMember()); }, [&] { Join(Options()).release(); },
                 [&] {
                   ExpectNextOneFindsAllWell();
                   EXPECT_THAT(Objects(), IsEmpty());
                 });
  EXPECT_THAT(points, Contains("session.remove.object"));
  EXPECT_THAT(points, Contains("session.join.removed"));
}

TEST_F(SessionCrashTest, TheLastToLeaveIsKilled) {
  const auto points = KillAtEach([] {}, [&] { EXPECT_TRUE(Join()->Leave().ok()); },
                                 [&] {
                                   ExpectNextOneFindsAllWell();
                                   EXPECT_THAT(Objects(), IsEmpty());
                                 });
  EXPECT_THAT(points, Contains("session.leave.row_dead"));
  EXPECT_THAT(points, Contains("session.leave.entered"));
  EXPECT_THAT(points, Contains("session.remove.object"));
}

TEST_F(SessionCrashTest, OneOfSeveralIsKilledAsItLeaves) {
  std::unique_ptr<Session> survivor = Join();
  survivor->set_hooks(nullptr);
  KillAtEach([] {}, [&] { EXPECT_TRUE(Join()->Leave().ok()); },
             [&] { ExpectSurvivorIsWell(*survivor); });
  survivor.reset();
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionCrashTest, WhoeverMakesOrRemovesObjectsIsKilled) {
  std::unique_ptr<Session> survivor = Join();
  survivor->set_hooks(nullptr);
  const auto points =
      KillAtEach([] {},
                 [&] {
                   const std::unique_ptr<Session> session = Join();
                   EXPECT_TRUE(session->CreateSegment({.id = 2, .size_bytes = kMiB}).ok());
                   EXPECT_TRUE(session->RemoveSegment(2).ok());
                 },
                 [&] { ExpectSurvivorIsWell(*survivor); });
  EXPECT_THAT(points, Contains("segment.create.prepared"));
  EXPECT_THAT(points, Contains("segment.remove.removing"));
  survivor.reset();
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionCrashTest, WhoeverMakesATableIsKilled) {
  std::unique_ptr<Session> survivor;
  const auto points = KillAtEach(
      [&] {
        survivor = Join();
        survivor->set_hooks(nullptr);
      },
      [&] { EXPECT_TRUE(Join()->EnsureArea(AreaKind::kRingTable, kMiB, 4096).ok()); },
      [&] {
        ExpectSurvivorIsWell(*survivor);
        survivor.reset();
        EXPECT_THAT(Objects(), IsEmpty());
      });
  EXPECT_THAT(points, Contains("segment.area.backed"));
}

TEST_F(SessionCrashTest, WhoeverReclaimsIsKilled) {
  std::optional<ChildProcess> survivor;
  const auto points = KillAtEach(
      [&] {
        survivor = StartMember([](Session& session) { session.set_hooks(nullptr); });
        EXPECT_TRUE(survivor->Stop()) << "so that it leaves the dead one to the next";
        KillAndReap(StartMember());
      },
      [&] {
        SessionOptions options = Options();
        options.watch_period = absl::Seconds(1);
        const std::unique_ptr<Session> session = Join(options);
        session->set_hooks(nullptr);
      },
      [&] {
        survivor->Kill(SIGCONT);
        EXPECT_TRUE(WaitForMembers(*Join(), 2)) << "the one that was stopped goes on";
        KillAndReap(*std::move(survivor));
        ExpectNextOneFindsAllWell();
        EXPECT_THAT(Objects(), IsEmpty());
      });
  EXPECT_THAT(points, Contains("session.reclaim.done"));
}

TEST_F(SessionCrashTest, WhoeverCleansUpIsKilled) {
  const ObjectNames names = ObjectNames::Create(Options().names).value();
  const auto clean_up = [&] {
    EXPECT_TRUE(RemoveSession(names, {}, Deadline::After(absl::Seconds(10))).ok());
  };
  const auto points = KillAtEach([&] { KillAndReap(StartMember()); }, clean_up,
                                 [&] {
                                   clean_up();
                                   EXPECT_THAT(Objects(), IsEmpty());
                                 });
  EXPECT_THAT(points, Contains("session.remove.object"));
}

}  // namespace
}  // namespace handoff

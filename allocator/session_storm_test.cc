// SPDX-License-Identifier: Apache-2.0
// Many processes join and leave one session at the same time, and are killed at any moment.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/session.h"
#include "allocator/testing/session_fixture.h"
#include "base/clock.h"
#include "base/testing/child_process.h"

namespace handoff {
namespace {

using ::testing::IsEmpty;

class SessionStormTest : public SessionFixture {
 protected:
  // Joins, uses the session, and leaves. False, with a failed test, if anything is not as it should
  // be.
  bool OneTurn(uint32_t id) const {
    SessionOptions options = Options();
    options.join_deadline = absl::Seconds(20);
    std::unique_ptr<Session> session = Join(options);
    if (session == nullptr) return false;
    session->set_hooks(nullptr);
    EXPECT_TRUE(session->CheckUsable().ok());
    EXPECT_TRUE(session->members().Alive(session->id()));
    const absl::StatusOr<SegmentObjects> main = session->OpenSegment(0);
    EXPECT_TRUE(main.ok()) << main.status();
    if (session->slot() % 3 == 0) {
      session->RemoveSegment(id).IgnoreError();  // of one that was killed
      EXPECT_TRUE(session->CreateSegment({.id = id, .size_bytes = kMiB}).ok());
      EXPECT_TRUE(session->RemoveSegment(id).ok());
    }
    const absl::Status left = session->Leave();
    EXPECT_TRUE(left.ok()) << left;
    return !::testing::Test::HasFailure();
  }
};

TEST_F(SessionStormTest, TwentyProcessesJoinAndLeaveFiftyTimes) {
  ProcessSignal go;
  std::vector<ChildProcess> children;
  for (uint32_t id = 1; id <= 20; ++id) {
    children.push_back(ChildProcess::Start([&] {
      EXPECT_TRUE(go.Wait());
      for (int round = 0; round < 50; ++round) {
        if (!OneTurn(id)) return 1;
      }
      return 0;
    }));
  }
  for (size_t i = 0; i < children.size(); ++i) go.Signal();
  for (ChildProcess& child : children) {
    EXPECT_EQ(child.Wait(absl::Seconds(60)), ChildExit::Code(0));
  }
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionStormTest, SurvivesProcessesThatAreKilledAtAnyMoment) {
  constexpr uint32_t kProcesses = 6;
  std::mt19937 random(20240229);
  std::uniform_int_distribution<int> pause_us(0, 8000);
  const auto start = [&](uint32_t id) {
    return ChildProcess::Start([this, id] {
      while (OneTurn(id)) {
      }
      return 1;
    });
  };
  std::vector<ChildProcess> children;
  for (uint32_t id = 1; id <= kProcesses; ++id) children.push_back(start(id));
  const Deadline end = Deadline::After(absl::Seconds(2));
  for (uint32_t turn = 0; !end.expired(); ++turn) {
    absl::SleepFor(absl::Microseconds(pause_us(random)));
    ChildProcess& child = children[turn % kProcesses];
    KillAndReap(std::move(child));
    child = start(1 + turn % kProcesses);
  }
  for (ChildProcess& child : children) KillAndReap(std::move(child));
  // Whatever they have left: the next one removes it.
  std::unique_ptr<Session> next = Join();
  EXPECT_EQ(next->Segments().size(), 1u);
  next.reset();
  EXPECT_THAT(Objects(), IsEmpty());
}

}  // namespace
}  // namespace handoff

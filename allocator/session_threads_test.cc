// SPDX-License-Identifier: Apache-2.0
// Threads of one process use its sessions. Without children, so that the thread sanitizer can look
// on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "allocator/session.h"
#include "allocator/testing/session_fixture.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

using ::testing::IsEmpty;

class SessionThreadsTest : public SessionFixture {};

TEST_F(SessionThreadsTest, ServesManyThreadsAtOnce) {
  const std::unique_ptr<Session> session = Join();
  session->set_hooks(nullptr);
  std::vector<std::thread> threads;
  for (uint32_t i = 1; i <= 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        EXPECT_TRUE(session->CreateSegment({.id = i, .size_bytes = kMiB}).ok());
        EXPECT_TRUE(session->OpenSegment(i).ok());
        session->ReclaimDead();
        EXPECT_TRUE(session->EnsureArea(AreaKind::kRingTable, kMiB, 4096).ok());
        EXPECT_TRUE(session->RemoveSegment(i).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(session->Segments().size(), 1u);
}

TEST_F(SessionThreadsTest, ReplacesHooksOnlyBetweenTheirCalls) {
  SessionOptions options = Options();
  options.watch_period = absl::Milliseconds(1);
  const std::unique_ptr<Session> session = Join(options);
  std::atomic<bool> stop{false};
  std::thread looking([&] {
    while (!stop) session->ReclaimDead();
  });
  for (int i = 0; i < 50; ++i) {
    auto hooks = std::make_unique<RecordingHooks>();
    session->set_hooks(hooks.get());
    ASSERT_TRUE(WaitFor([&] { return hooks->ticks > 0; }));
    session->set_hooks(nullptr);
    hooks.reset();  // nobody is in it any more
  }
  stop = true;
  looking.join();
}

TEST_F(SessionThreadsTest, LeavesUnderTheHandsOfOthers) {
  for (int round = 0; round < 10; ++round) {
    const std::unique_ptr<Session> session = Join();
    RecordingHooks hooks;
    session->set_hooks(&hooks);
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (uint32_t id = 1; id <= 3; ++id) {
      threads.emplace_back([&, id] {
        while (!stop) {
          session->CreateSegment({.id = id, .size_bytes = kMiB}).IgnoreError();
          session->OpenSegment(id).IgnoreError();
          session->ReclaimDead();
          session->RemoveSegment(id).IgnoreError();
        }
      });
    }
    ASSERT_TRUE(WaitFor([&] { return hooks.ticks > 1; }));
    EXPECT_TRUE(session->Leave().ok());
    EXPECT_EQ(hooks.stops, 1);
    stop = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(Objects(), IsEmpty());
  }
}

TEST_F(SessionThreadsTest, JoinsAndLeavesInManyThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        const std::unique_ptr<Session> session = Join();
        session->set_hooks(nullptr);
        EXPECT_TRUE(session->OpenSegment(0).ok());
        EXPECT_TRUE(session->Leave().ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(Objects(), IsEmpty());
}

}  // namespace
}  // namespace handoff

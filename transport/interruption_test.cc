// SPDX-License-Identifier: Apache-2.0
#include "transport/interruption.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

namespace handoff {
namespace {

bool Readable(const Interruption& interruption, int limit_ms = 0) {
  pollfd descriptor{.fd = interruption.fd(), .events = POLLIN, .revents = 0};
  return poll(&descriptor, 1, limit_ms) == 1;
}

TEST(InterruptionTest, IsTakenOnceHoweverOftenItWasRaised) {
  Interruption interruption;
  ASSERT_TRUE(interruption.Open().ok());
  EXPECT_FALSE(interruption.raised());
  EXPECT_FALSE(Readable(interruption));
  EXPECT_FALSE(interruption.Take());
  interruption.Raise();
  interruption.Raise();
  EXPECT_TRUE(interruption.raised());
  EXPECT_TRUE(Readable(interruption));
  EXPECT_TRUE(interruption.Take());
  EXPECT_FALSE(interruption.raised());
  EXPECT_FALSE(Readable(interruption));
  EXPECT_FALSE(interruption.Take());
}

TEST(InterruptionTest, WakesWhoSleepsAlready) {
  Interruption interruption;
  ASSERT_TRUE(interruption.Open().ok());
  std::thread raiser([&] { interruption.Raise(); });
  EXPECT_TRUE(Readable(interruption, 20'000));
  raiser.join();
  EXPECT_TRUE(interruption.Take());
}

Interruption* raised_by_signal = nullptr;

TEST(InterruptionTest, IsRaisedByASignalHandlerThatLeavesErrnoAlone) {
  Interruption interruption;
  ASSERT_TRUE(interruption.Open().ok());
  raised_by_signal = &interruption;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { raised_by_signal->Raise(); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  errno = EDOM;
  ASSERT_EQ(raise(SIGUSR1), 0);
  EXPECT_EQ(errno, EDOM);
  EXPECT_TRUE(interruption.Take());
  sigaction(SIGUSR1, &before, nullptr);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/testing/child_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"

namespace handoff {
namespace {

int Idle() {
  for (;;) ::pause();
}

TEST(ChildProcessTest, ReturnsWhatItsBodyReturns) {
  ChildProcess child = ChildProcess::Start([] { return 7; });
  EXPECT_EQ(child.Wait(), ChildExit::Code(7));
  EXPECT_EQ(child.Wait(), ChildExit::Code(7)) << "asked again";
}

TEST(ChildProcessTest, ReportsTheSignalThatKilledIt) {
  ChildProcess child = ChildProcess::Start(&Idle);
  child.Kill();
  EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
}

TEST(ChildProcessTest, IsAwaitedNoLongerThanTheLimit) {
  ChildProcess child = ChildProcess::Start(&Idle);
  EXPECT_EQ(child.Wait(absl::Milliseconds(1)), std::nullopt);
  child.Kill(SIGTERM);
  EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGTERM));
}

TEST(ChildProcessTest, IsKilledAndReapedByItsDestructor) {
  pid_t pid = 0;
  {
    ChildProcess first = ChildProcess::Start(&Idle);
    pid = first.pid();
    ChildProcess second = std::move(first);
    EXPECT_EQ(second.pid(), pid);
    EXPECT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(ChildProcessTest, KillsWhatIsReplacedByAssignment) {
  ChildProcess child = ChildProcess::Start(&Idle);
  const pid_t replaced = child.pid();
  child = ChildProcess::Start([] { return 3; });
  EXPECT_EQ(::kill(replaced, 0), -1);
  EXPECT_EQ(child.Wait(), ChildExit::Code(3));
}

TEST(ChildProcessTest, FailsIfAnExpectationFailsInTheChild) {
  ChildProcess child = ChildProcess::Start([] {
    std::fclose(stdout);  // the failure is meant; do not show it
    EXPECT_TRUE(false);
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(ChildProcess::kFailedExpectation));
}

TEST(ChildProcessTest, FailsIfTheBodyThrows) {
  ChildProcess child = ChildProcess::Start([]() -> int {
    std::fclose(stderr);
    throw std::runtime_error("meant");
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(ChildProcess::kUncaughtException));
}

TEST(ChildProcessTest, PassesOnWhatTheChildPrints) {
  ::testing::internal::CaptureStdout();
  std::printf("before ");
  ChildProcess child = ChildProcess::Start([] {
    std::printf("child");
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "before child");
}

TEST(ChildProcessTest, IsForkedWhileTheOtherThreadsSleep) {
  std::atomic<bool> has_lock{false};
  ProcessSignal begun;
  ProcessSignal end;
  std::thread other([&] {
    has_lock.store(true, std::memory_order_relaxed);
    begun.Signal();
    const Deadline deadline = Deadline::After(absl::Milliseconds(20));
    while (!deadline.expired()) continue;
    has_lock.store(false, std::memory_order_relaxed);
    EXPECT_TRUE(end.Wait());
  });
  EXPECT_TRUE(begun.Wait());
  ChildProcess child =
      ChildProcess::Start([&] { return has_lock.load(std::memory_order_relaxed) ? 1 : 0; });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  end.Signal();
  other.join();
}

TEST(ChildProcessTest, StopsAndGoesOn) {
  ProcessSignal asked;
  ProcessSignal answered;
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_TRUE(asked.Wait());
    answered.Signal();
    return 0;
  });
  ASSERT_TRUE(child.Stop());
  asked.Signal();
  EXPECT_FALSE(answered.Wait(absl::Milliseconds(10)));
  child.Kill(SIGCONT);
  EXPECT_TRUE(answered.Wait());
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_FALSE(child.Stop()) << "it has ended";
}

TEST(ChildProcessTest, SaysInWordsHowItEnded) {
  const auto text = [](const ChildExit& exit) {
    std::ostringstream out;
    out << exit;
    return out.str();
  };
  EXPECT_EQ(text(ChildExit::Code(2)), "exited with 2");
  EXPECT_EQ(text(ChildExit::Signal(SIGKILL)), "killed by signal 9 (Killed)");
  EXPECT_EQ(text(ChildExit::Code(ChildProcess::kFailedExpectation)),
            "exited with 101 (an expectation failed in the child)");
}

TEST(ProcessSignalTest, LetsOneWaitReturnForEachSignal) {
  ProcessSignal signal;
  signal.Signal();
  ChildProcess child = ChildProcess::Start([&] {
    signal.Signal();
    return 0;
  });
  EXPECT_TRUE(signal.Wait());
  EXPECT_TRUE(signal.Wait());
  EXPECT_FALSE(signal.Wait(absl::ZeroDuration()));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/process_id.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

// A child that does nothing until it is killed.
ChildProcess StartIdle() {
  return ChildProcess::Start([]() -> int {
    for (;;) ::pause();
  });
}

TEST(ProcessIdTest, NamesThisProcess) {
  const absl::StatusOr<ProcessId> id = CurrentProcessId();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(id->pid, ::getpid());
  EXPECT_NE(id->pid_namespace, 0u);
  EXPECT_EQ(ProcessStartTime(::getpid()).value(), id->start_time);
  EXPECT_TRUE(IsRunning(id->pid, id->start_time));
  EXPECT_EQ(CurrentProcessId().value(), *id);
}

TEST(ProcessIdTest, DiffersInAForkedChildButForTheNamespace) {
  const ProcessId parent = CurrentProcessId().value();
  ChildProcess child = ChildProcess::Start([&] {
    const ProcessId id = CurrentProcessId().value();
    EXPECT_NE(id, parent);
    EXPECT_EQ(id.pid, ::getpid());
    EXPECT_EQ(id.pid_namespace, parent.pid_namespace);
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST(ProcessIdTest, IsReadWhateverTheProgramsName) {
  ChildProcess child = ChildProcess::Start([] {
    ::prctl(PR_SET_NAME, ") Z 1 (\n) S");
    const absl::StatusOr<ProcessId> id = CurrentProcessId();
    EXPECT_TRUE(id.ok()) << id.status();
    EXPECT_TRUE(IsRunning(id->pid, id->start_time));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST(ProcessStartTimeTest, SaysNotFoundForProcessesThatDoNotExist) {
  pid_t pid = 0;
  {
    ChildProcess child = StartIdle();
    pid = child.pid();
    EXPECT_TRUE(ProcessStartTime(pid).ok());
  }
  EXPECT_TRUE(absl::IsNotFound(ProcessStartTime(pid).status()));
  EXPECT_TRUE(absl::IsNotFound(ProcessStartTime(0).status()));
  EXPECT_TRUE(absl::IsNotFound(ProcessStartTime(-1).status()));
}

TEST(IsRunningTest, IsFalseForAnotherStartTime) {
  ChildProcess child = StartIdle();
  const uint64_t start_time = ProcessStartTime(child.pid()).value();
  EXPECT_TRUE(IsRunning(child.pid(), start_time));
  EXPECT_FALSE(IsRunning(child.pid(), start_time + 1));
}

TEST(IsRunningTest, IsTrueForAStoppedProcess) {
  ChildProcess child = StartIdle();
  ASSERT_TRUE(child.Stop());
  EXPECT_TRUE(IsRunning(child.pid(), ProcessStartTime(child.pid()).value()));
}

TEST(IsRunningTest, IsFalseForAZombieAndAfterIt) {
  ChildProcess child = StartIdle();
  const pid_t pid = child.pid();
  const uint64_t start_time = ProcessStartTime(pid).value();
  child.Kill();
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(ProcessStartTime(pid).ok()) << "a zombie keeps its pid";
  EXPECT_FALSE(IsRunning(pid, start_time));
  ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
  EXPECT_FALSE(IsRunning(pid, start_time));
}

TEST(IsRunningTest, IsTrueWhileThreadsGoOnWithoutTheFirst) {
  ProcessSignal started;
  ChildProcess child = ChildProcess::Start([&]() -> int {
    std::thread([&] {
      started.Signal();
      for (;;) ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);  // this thread only; pthread_exit() would unwind into the test
    return 1;
  });
  ASSERT_TRUE(started.Wait());
  const uint64_t start_time = ProcessStartTime(child.pid()).value();
  const std::string stat_path = "/proc/" + std::to_string(child.pid()) + "/stat";
  ASSERT_TRUE(WaitFor([&] {
    std::ifstream file(stat_path);
    return std::string(std::istreambuf_iterator<char>(file), {}).find(") Z ") != std::string::npos;
  })) << "the first thread has not ended";
  EXPECT_TRUE(IsRunning(child.pid(), start_time));
}

TEST(OpenPidfdTest, BecomesReadableAtTheEndOfTheProcess) {
  ChildProcess child = StartIdle();
  const UniqueFd pidfd = OpenPidfd(child.pid());
  ASSERT_TRUE(pidfd.valid());
  EXPECT_EQ(::fcntl(pidfd.get(), F_GETFD), FD_CLOEXEC);
  pollfd item{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&item, 1, 0), 0);
  child.Kill();
  EXPECT_EQ(::poll(&item, 1, 20'000), 1);
}

TEST(OpenPidfdTest, FailsForAProcessThatDoesNotExist) {
  ChildProcess child = StartIdle();
  child.Kill();
  ASSERT_TRUE(child.Wait().has_value());
  EXPECT_FALSE(OpenPidfd(child.pid()).valid());
  EXPECT_EQ(errno, ESRCH);
}

}  // namespace
}  // namespace handoff

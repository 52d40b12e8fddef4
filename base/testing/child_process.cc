// SPDX-License-Identifier: Apache-2.0
#include "base/testing/child_process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <ostream>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/process_id.h"
#include "base/testing/sleeping_threads.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

// False: `limit` has passed.
bool WaitReadable(int fd, absl::Duration limit) {
  const Deadline deadline = Deadline::After(limit);
  for (;;) {
    pollfd item{.fd = fd, .events = POLLIN, .revents = 0};
    const std::optional<timespec> timeout = deadline.RemainingTimespec();
    const int ready = ::ppoll(&item, 1, timeout.has_value() ? &*timeout : nullptr, nullptr);
    if (ready >= 0) return ready == 1;
    HANDOFF_CHECK_EQ(errno, EINTR) << std::strerror(errno);
  }
}

[[noreturn]] void RunChild(const std::function<int()>& body, pid_t parent, int go) {
  HANDOFF_CHECK_EQ(::prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
  if (::getppid() != parent)
    ::_exit(ChildProcess::kUncaughtException);  // it died before the line above
  uint64_t one = 0;
  HANDOFF_CHECK_EQ(::read(go, &one, sizeof(one)), ssize_t{sizeof(one)}) << std::strerror(errno);
  ::close(go);
  const int failed_before = internal::FailedParts();
  int code = ChildProcess::kUncaughtException;
  try {
    code = body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child process %d: uncaught exception: %s\n", ::getpid(), error.what());
  } catch (...) {
    std::fprintf(stderr, "child process %d: uncaught exception\n", ::getpid());
  }
  if (code == 0 && internal::FailedParts() != failed_before)
    code = ChildProcess::kFailedExpectation;
  std::fflush(nullptr);
  ::_exit(code);
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const ChildExit& exit) {
  if (exit.signal != 0)
    return out << "killed by signal " << exit.signal << " (" << ::strsignal(exit.signal) << ")";
  out << "exited with " << exit.code;
  if (exit.code == ChildProcess::kFailedExpectation) out << " (an expectation failed in the child)";
  if (exit.code == ChildProcess::kUncaughtException) out << " (uncaught exception in the child)";
  return out;
}

pid_t internal::ForkTestChild(const std::function<int()>& body) {
  std::fflush(nullptr);  // or the child prints what the test has buffered once more
  const pid_t parent = ::getpid();
  const Deadline deadline = Deadline::After(absl::Seconds(60));
  for (;; ::usleep(100)) {
    HANDOFF_CHECK(!deadline.expired()) << "a thread of the test runs all the time: start it later";
    // What a thread holds that the child does not have is held for ever there.
    const std::optional<Sleeps> sleeps = SleepsOfOtherThreads();
    if (!sleeps.has_value()) continue;
    const UniqueFd go(::eventfd(0, EFD_CLOEXEC));
    HANDOFF_CHECK(go.valid()) << "eventfd: " << std::strerror(errno);
    const pid_t pid = ::fork();
    HANDOFF_CHECK_GE(pid, 0) << "fork: " << std::strerror(errno);
    if (pid == 0) RunChild(body, parent, go.get());
    if (SleepsOfOtherThreads() == sleeps) {
      const uint64_t one = 1;
      HANDOFF_CHECK_EQ(::write(go.get(), &one, sizeof(one)), ssize_t{sizeof(one)})
          << std::strerror(errno);
      return pid;
    }
    HANDOFF_CHECK_EQ(::kill(pid, SIGKILL), 0) << std::strerror(errno);
    HANDOFF_CHECK_EQ(::waitpid(pid, nullptr, 0), pid) << std::strerror(errno);
  }
}

int internal::FailedParts() {
  const ::testing::TestInfo* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  if (test == nullptr) return 0;
  int failed = 0;
  for (int i = 0; i < test->result()->total_part_count(); ++i) {
    if (test->result()->GetTestPartResult(i).failed()) ++failed;
  }
  return failed;
}

ChildExit internal::ChildExitFromStatus(int status) {
  return WIFSIGNALED(status) ? ChildExit::Signal(WTERMSIG(status))
                             : ChildExit::Code(WEXITSTATUS(status));
}

ChildProcess ChildProcess::Start(const std::function<int()>& body) {
  return ChildProcess(internal::ForkTestChild(body));
}

ChildProcess::ChildProcess(pid_t pid) : pid_(pid), pidfd_(OpenPidfd(pid)) {
  HANDOFF_CHECK(pidfd_.valid()) << "pidfd_open: " << std::strerror(errno);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)), exit_(other.exit_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this == &other) return *this;
  KillAndReap();
  pid_ = std::exchange(other.pid_, -1);
  pidfd_ = std::move(other.pidfd_);
  exit_ = other.exit_;
  return *this;
}

ChildProcess::~ChildProcess() { KillAndReap(); }

void ChildProcess::KillAndReap() {
  if (pid_ < 0) return;
  Kill();
  // Without a limit: a killed process ends, and nobody else would reap it.
  Wait(absl::InfiniteDuration());
}

std::optional<ChildExit> ChildProcess::Wait(absl::Duration limit) {
  if (exit_.has_value()) return exit_;
  if (!WaitReadable(pidfd_.get(), limit)) return std::nullopt;
  int status = 0;
  HANDOFF_CHECK_EQ(::waitpid(pid_, &status, 0), pid_) << std::strerror(errno);
  exit_ = internal::ChildExitFromStatus(status);
  return exit_;
}

void ChildProcess::Kill(int signal) {
  if (exit_.has_value()) return;
  HANDOFF_CHECK_EQ(::kill(pid_, signal), 0) << std::strerror(errno);
}

void ChildProcess::Kill() { Kill(SIGKILL); }

bool ChildProcess::Stop() {
  Kill(SIGSTOP);
  if (exit_.has_value()) return false;
  bool ended = false;
  const bool found = WaitFor([&] {
    siginfo_t info{};
    HANDOFF_CHECK_EQ(
        ::waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT), 0)
        << std::strerror(errno);
    ended = info.si_pid != 0 && info.si_code != CLD_STOPPED;
    return info.si_pid != 0;
  });
  return found && !ended;
}

ProcessSignal::ProcessSignal()
    : event_fd_(::eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK)) {
  HANDOFF_CHECK(event_fd_.valid()) << "eventfd: " << std::strerror(errno);
}

void ProcessSignal::Signal() {
  const uint64_t one = 1;
  HANDOFF_CHECK_EQ(::write(event_fd_.get(), &one, sizeof(one)), ssize_t{sizeof(one)})
      << std::strerror(errno);
}

bool ProcessSignal::Wait(absl::Duration limit) {
  const Deadline deadline = Deadline::After(limit);
  uint64_t one = 0;
  // Another process may take the signal between poll and read.
  do {
    if (!WaitReadable(event_fd_.get(), deadline.remaining())) return false;
  } while (::read(event_fd_.get(), &one, sizeof(one)) != ssize_t{sizeof(one)});
  return true;
}

size_t PidfdCount() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    if (std::filesystem::read_symlink(entry, ignored) == "anon_inode:[pidfd]") ++count;
  }
  return count;
}

}  // namespace handoff

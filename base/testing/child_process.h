// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_TESTING_CHILD_PROCESS_H_
#define HANDOFF_BASE_TESTING_CHILD_PROCESS_H_

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <iosfwd>
#include <optional>

#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace handoff {

// How a child process ended.
struct ChildExit {
  static ChildExit Code(int code) { return {.code = code}; }
  static ChildExit Signal(int signal) { return {.signal = signal}; }

  int code = 0;
  int signal = 0;  // that killed it, or 0; `code` is 0 then

  friend bool operator==(const ChildExit&, const ChildExit&) = default;
};
std::ostream& operator<<(std::ostream& out, const ChildExit& exit);

// A forked copy of the test that runs one function, to be killed, stopped or waited for.
//
//   ProcessSignal ready;
//   ChildProcess child = ChildProcess::Start([&] { Join(); ready.Signal(); Pause(); return 0; });
//   ASSERT_TRUE(ready.Wait());
//   child.Kill();
//   EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
//
// One thread at a time. The thread that starts a child must outlive it: the kernel kills the child
// with the thread, so that no test leaves a process behind.
class ChildProcess {
 public:
  // The child runs `body` and leaves by _exit() with what it returns: it never returns into the
  // test, runs no destructors outside `body`, and writes to the test's stdout and stderr. EXPECT_
  // works in the child: if one fails there, a returned 0 becomes kFailedExpectation. An exception
  // becomes kUncaughtException.
  //
  // Other threads of the test do not exist in the child, and what they hold they hold for ever
  // there: a lock of the memory allocator, for one. So the fork is made while all of them sleep,
  // which transports, ZeroMQ and threads that wait soon do; who keeps one running stops here after
  // a minute. Locks of the test and of its objects are still theirs: a body makes objects of its
  // own.
  static ChildProcess Start(const std::function<int()>& body);
  static constexpr int kFailedExpectation = 101;
  static constexpr int kUncaughtException = 102;

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;

  // Kills the child if it is there, and reaps it.
  ~ChildProcess();

  // Stays the same after the end.
  pid_t pid() const { return pid_; }

  // Waits for the end and reaps the child: until then it is a zombie. nullopt: `limit` has passed.
  // May be called again.
  std::optional<ChildExit> Wait(absl::Duration limit = absl::Seconds(20));

  // Sends a signal, by default SIGKILL. Nothing if the child has been reaped.
  void Kill(int signal);
  void Kill();

  // Sends SIGSTOP and returns once the child stands still; SIGCONT by Kill(SIGCONT). False: it has
  // ended or does not stop within 20 s.
  [[nodiscard]] bool Stop();

 private:
  explicit ChildProcess(pid_t pid);

  void KillAndReap();

  pid_t pid_ = -1;  // -1: moved from
  UniqueFd pidfd_;  // readable once the child has ended
  std::optional<ChildExit> exit_;
};

// Lets one process tell another that it has reached a point. Made before the fork; works between
// all processes that have it, also in signal handlers and after a kill.
class ProcessSignal {
 public:
  ProcessSignal();

  // Lets one Wait() return, now or later.
  void Signal();

  // False: `limit` has passed.
  [[nodiscard]] bool Wait(absl::Duration limit = absl::Seconds(20));

 private:
  UniqueFd event_fd_;
};

// How many pidfds this process has open.
size_t PidfdCount();

namespace internal {
// The fork under ChildProcess::Start(). The caller reaps.
pid_t ForkTestChild(const std::function<int()>& body);
// How many parts of the running test have failed so far; in a child, those of the test before the
// fork included.
int FailedParts();
// `status` as wait(2) reports it for a process that has ended.
ChildExit ChildExitFromStatus(int status);
}  // namespace internal

}  // namespace handoff

#endif  // HANDOFF_BASE_TESTING_CHILD_PROCESS_H_

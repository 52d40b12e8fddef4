// SPDX-License-Identifier: Apache-2.0
#include "base/testing/single_step.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "base/check.h"
#include "base/testing/child_process.h"

namespace handoff {
namespace {

#ifdef __x86_64__
constexpr bool kHasHardwareBreakpoints = true;

// Stops the calling thread, which is traced. The next instruction is the first that is stepped.
void StopForTracer() { asm volatile("int3" ::: "memory"); }

// False: refused.
bool WriteUserArea(pid_t pid, size_t offset, uint64_t value) {
  return ::ptrace(PTRACE_POKEUSER, pid, offset, value) == 0;
}

uint64_t ProgramCounter(pid_t pid) {
  errno = 0;
  const long value = ::ptrace(PTRACE_PEEKUSER, pid, offsetof(user_regs_struct, rip), nullptr);
  HANDOFF_CHECK_EQ(errno, 0) << std::strerror(errno);
  return static_cast<uint64_t>(value);
}

// Debug register 0 holds the address; bit 0 of register 7 switches it on for this thread, as an
// execution breakpoint if all others are 0.
bool SetBreakpoint(pid_t pid, uint64_t address) {
  return WriteUserArea(pid, offsetof(user, u_debugreg[0]), address) &&
         WriteUserArea(pid, offsetof(user, u_debugreg[7]), 1);
}
void ClearBreakpoint(pid_t pid) {
  HANDOFF_CHECK(WriteUserArea(pid, offsetof(user, u_debugreg[7]), 0)) << std::strerror(errno);
}
#else
constexpr bool kHasHardwareBreakpoints = false;

void StopForTracer() { ::raise(SIGTRAP); }
uint64_t ProgramCounter(pid_t) { return 0; }
bool SetBreakpoint(pid_t, uint64_t) { return false; }
void ClearBreakpoint(pid_t) {}
#endif

// What the child tells its tracer, in memory of both, so that asking after every step costs no
// system call.
struct Progress {
  std::atomic<bool> begun{false};
  std::atomic<bool> finished{false};
};

// While one lives, this thread and the children it starts stay on the processor they are on: tracer
// and traced take turns, and a turn within one processor takes two thirds of one between two.
class OneProcessor {
 public:
  OneProcessor() {
    HANDOFF_CHECK_EQ(::sched_getaffinity(0, sizeof(before_), &before_), 0) << std::strerror(errno);
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(static_cast<size_t>(::sched_getcpu()), &here);
    ::sched_setaffinity(0, sizeof(here), &here);  // only a matter of speed
  }
  ~OneProcessor() { ::sched_setaffinity(0, sizeof(before_), &before_); }
  OneProcessor(const OneProcessor&) = delete;
  OneProcessor& operator=(const OneProcessor&) = delete;

 private:
  cpu_set_t before_;
};

// One child from fork to reaping.
class TracedChild {
 public:
  // Returns once the child is about to run the operation, or has ended.
  explicit TracedChild(const SteppedOperation& stepped);
  // Kills the child if it is there, and reaps it.
  ~TracedChild();
  TracedChild(const TracedChild&) = delete;
  TracedChild& operator=(const TracedChild&) = delete;

  bool ended() const { return ended_; }
  bool finished() const { return progress_->finished.load(std::memory_order_acquire); }
  uint64_t program_counter() const { return ProgramCounter(pid_); }

  // Runs one instruction. False: the child has ended instead.
  bool Step() { return ResumeUntilTrap(PTRACE_SINGLESTEP); }

  // Runs until `address` has been reached for the `visit`-th time from here. False: there is no
  // breakpoint to be had, and nothing was run.
  bool RunTo(uint64_t address, uint64_t visit);

  // Lets the child go on to its end.
  void RunToEnd();

 private:
  static int RunInChild(const SteppedOperation& stepped, Progress& progress);

  bool ResumeUntilTrap(__ptrace_request request);
  // Waits for a trap; other signals are delivered, and the child resumed by `request`.
  bool WaitForTrap(__ptrace_request request);
  void Resume(__ptrace_request request, int signal);

  OneProcessor one_processor_;
  Progress* progress_;
  pid_t pid_ = -1;
  bool ended_ = false;
};

TracedChild::TracedChild(const SteppedOperation& stepped) {
  void* const memory =
      ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  HANDOFF_CHECK(memory != MAP_FAILED) << std::strerror(errno);
  progress_ = new (memory) Progress;
  pid_ = internal::ForkTestChild([&] { return RunInChild(stepped, *progress_); });
  while (WaitForTrap(PTRACE_CONT) && !progress_->begun.load(std::memory_order_acquire))
    Resume(PTRACE_CONT, SIGTRAP);
}

TracedChild::~TracedChild() {
  if (!ended_) {
    HANDOFF_CHECK_EQ(::kill(pid_, SIGKILL), 0) << std::strerror(errno);
    int status = 0;
    do {
      HANDOFF_CHECK_EQ(::waitpid(pid_, &status, __WALL), pid_) << std::strerror(errno);
    } while (WIFSTOPPED(status));
  }
  ::munmap(progress_, sizeof(Progress));
}

int TracedChild::RunInChild(const SteppedOperation& stepped, Progress& progress) {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) {
    std::fprintf(stderr, "ptrace is not possible here: %s\n", std::strerror(errno));
    return ChildProcess::kFailedExpectation;
  }
  const int failed_before = internal::FailedParts();
  stepped.setup();
  if (internal::FailedParts() != failed_before) return ChildProcess::kFailedExpectation;
  progress.begun.store(true, std::memory_order_release);
  StopForTracer();
  stepped.operation();
  progress.finished.store(true, std::memory_order_release);
  return 0;
}

void TracedChild::Resume(__ptrace_request request, int signal) {
  // ESRCH: killed by somebody else meanwhile. The next wait tells.
  HANDOFF_CHECK(::ptrace(request, pid_, nullptr, signal) == 0 || errno == ESRCH)
      << std::strerror(errno);
}

bool TracedChild::WaitForTrap(__ptrace_request request) {
  for (;;) {
    int status = 0;
    const pid_t waited = ::waitpid(pid_, &status, __WALL);
    if (waited < 0 && errno == EINTR) continue;
    HANDOFF_CHECK_EQ(waited, pid_) << std::strerror(errno);
    if (!WIFSTOPPED(status)) {
      ended_ = true;
      const ChildExit exit = internal::ChildExitFromStatus(status);
      if (!finished() || exit != ChildExit::Code(0)) {
        ADD_FAILURE() << "the stepped child "
                      << (finished() ? "has failed: " : "ended before its operation: ") << exit;
      }
      return false;
    }
    const int signal = WSTOPSIG(status);
    if (signal == SIGTRAP) return true;
    // A stop that is delivered would come back as a stop for ever.
    const bool stops =
        signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
    Resume(request, stops ? 0 : signal);
  }
}

bool TracedChild::ResumeUntilTrap(__ptrace_request request) {
  Resume(request, 0);
  return WaitForTrap(request);
}

bool TracedChild::RunTo(uint64_t address, uint64_t visit) {
  // The start itself is not stopped at.
  if (program_counter() == address && --visit == 0) return true;
  if (!SetBreakpoint(pid_, address)) return false;
  // The kernel sees to it that an instruction does not stop again when the child goes on from it.
  for (; visit > 0; --visit) {
    if (!ResumeUntilTrap(PTRACE_CONT)) return true;
  }
  ClearBreakpoint(pid_);
  return true;
}

void TracedChild::RunToEnd() {
  while (ResumeUntilTrap(PTRACE_CONT)) {
  }
}

// Steps on from where the child is, `steps` instructions into its operation.
StepResult StepAndKill(TracedChild& child, uint64_t steps, uint64_t k) {
  while (!child.ended() && !child.finished() && steps < k) {
    if (child.Step()) ++steps;
  }
  StepResult result{.steps = steps};
  if (child.finished()) {
    if (!child.ended()) child.RunToEnd();
    result.finished = true;
  } else if (!child.ended()) {
    result.killed = true;  // by the destructor, before another instruction
  }
  return result;
}

// Runs at full speed to the anchor of instruction `k`. Returns how many instructions those were.
uint64_t Jump(TracedChild& child, const InstructionTrace& trace, uint64_t k) {
  if (child.ended()) return 0;
  const uint64_t anchor = trace[std::min<uint64_t>(k, trace.size() - 1)].anchor;
  return anchor != 0 && child.RunTo(trace[anchor].address, trace[anchor].visit) ? anchor : 0;
}

// Some virtual machines accept a breakpoint and never report it. Asked once.
bool HardwareBreakpointsWork() {
  static const bool work = [] {
    if (!kHasHardwareBreakpoints) return false;
    const SteppedOperation stepped = {.setup = [] {}, .operation = [] {}};
    const InstructionTrace trace = TraceInstructions(stepped);
    if (trace.empty()) return false;
    TracedChild child(stepped);
    const uint64_t middle = trace[trace.size() / 2].address;
    return !child.ended() && child.RunTo(middle, 1) && !child.ended() &&
           child.program_counter() == middle;
  }();
  return work;
}

}  // namespace

StepResult RunAndKillAfter(const SteppedOperation& stepped, uint64_t k) {
  TracedChild child(stepped);
  return StepAndKill(child, 0, k);
}

uint64_t CountInstructions(const SteppedOperation& stepped) {
  const StepResult result = RunAndKillAfter(stepped, UINT64_MAX);
  return result.finished ? result.steps : 0;
}

InstructionTrace TraceInstructions(const SteppedOperation& stepped,
                                   const std::function<void(uint64_t)>& look) {
  InstructionTrace trace;
  std::unordered_map<uint64_t, uint64_t> visits;
  TracedChild child(stepped);
  // Stops on the way from the start to instruction k by way of j: visit(j) + k - j.
  uint64_t anchor = 0;
  const auto stops = [&](uint64_t j) { return static_cast<int64_t>(trace[j].visit - j); };
  while (!child.ended() && !child.finished()) {
    look(trace.size());
    const uint64_t address = child.program_counter();
    // A further turn of a repeated instruction: a breakpoint does not stop there.
    const bool is_turn = !trace.empty() && trace.back().address == address;
    trace.push_back({.address = address, .visit = is_turn ? visits[address] : ++visits[address]});
    if (!is_turn && stops(trace.size() - 1) <= stops(anchor)) anchor = trace.size() - 1;
    trace.back().anchor = anchor;
    child.Step();
  }
  if (!child.finished()) return {};
  if (!child.ended()) {
    look(trace.size());
    child.RunToEnd();
  }
  return trace;
}

StepResult JumpAndKillAfter(const SteppedOperation& stepped, const InstructionTrace& trace,
                            uint64_t k) {
  const bool can_jump = !trace.empty() && HardwareBreakpointsWork();
  TracedChild child(stepped);
  return StepAndKill(child, can_jump ? Jump(child, trace, k) : 0, k);
}

StepResult JumpAndPauseAfter(const SteppedOperation& stepped, const InstructionTrace& trace,
                             uint64_t k, const std::function<void()>& meanwhile) {
  const bool can_jump = !trace.empty() && HardwareBreakpointsWork();
  TracedChild child(stepped);
  StepResult result = StepAndKill(child, can_jump ? Jump(child, trace, k) : 0, k);
  if (result.killed) {
    result.killed = false;
    result.paused = true;
    meanwhile();
    child.RunToEnd();
    result.finished = child.finished();
  }
  return result;
}

}  // namespace handoff

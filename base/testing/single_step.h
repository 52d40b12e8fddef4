// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_TESTING_SINGLE_STEP_H_
#define HANDOFF_BASE_TESTING_SINGLE_STEP_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace handoff {

// Kills a process after exactly so many instructions of an operation.
//
// Each call forks a child that runs `setup` at full speed and then `operation` one instruction at a
// time under ptrace. When the call returns, the child has ended and been reaped: whatever it held
// in shared memory is now for the survivors to clean up and for the caller to check.
//
//   const SteppedOperation allocate = {.setup = Join, .operation = Allocate};
//   const InstructionTrace trace = TraceInstructions(allocate);
//   for (uint64_t k = 0; k <= trace.size(); ++k) {
//     JumpAndKillAfter(allocate, trace, k);
//     ReclaimAndCheck();
//   }
//
// What counts. An instruction is one in user space, the vDSO included. A system call counts as one
// and is always complete. A string instruction with a repeat prefix counts once for each turn, so
// it is also killed between two turns. `operation` is counted from its call: the few instructions
// that get there and back are included.
//
// What happens in the child. Both functions run there only and share nothing with the caller but
// shared memory. Their EXPECT_s count, as in ChildProcess; a child that ends in any way of its own
// before its operation is through fails the running test, and so does a kernel that does not let a
// process trace its child. Only the thread that runs `operation` is stepped: others that either
// function started run freely and die with it. Processes that it starts are neither stepped nor
// killed. Signals that reach the child are delivered and their handlers stepped; stops are ignored.
struct SteppedOperation {
  std::function<void()> setup;
  std::function<void()> operation;
};

struct StepResult {
  bool killed = false;    // after exactly the instructions asked for, within the operation
  bool paused = false;    // the same, for a child that then went on
  bool finished = false;  // the operation was through before; the child left by _exit()
  uint64_t steps = 0;     // instructions of the operation that the child has run
  // Neither: the child ended before, and the running test has failed.
};

// Steps through `k` instructions, then kills. Takes time in proportion to `k`.
StepResult RunAndKillAfter(const SteppedOperation& stepped, uint64_t k);

// Runs the operation to its end. Returns how many instructions it has: the first `k` for which
// RunAndKillAfter() reports `finished`, if it takes the same path every time. 0 if the child ended
// before, and the running test has failed.
uint64_t CountInstructions(const SteppedOperation& stepped);

// One instruction of one run of an operation.
struct TracedInstruction {
  uint64_t address = 0;
  uint64_t visit = 0;  // how often the address has been reached by then, this time included
  // Index of the instruction up to this one from which it is reached with the fewest stops: a
  // breakpoint there stops the child at every visit before, and from there on it is stepped.
  uint64_t anchor = 0;
};

// All of them, in the order in which they were executed.
using InstructionTrace = std::vector<TracedInstruction>;

// Like CountInstructions(), which is the size of what is returned. Valid in this process and for
// this operation. Before the first instruction, after each and at the end calls `look` with the
// number of instructions so far, while the child stands still: so a test can see what a kill at any
// point would leave, in one run.
InstructionTrace TraceInstructions(
    const SteppedOperation& stepped, const std::function<void(uint64_t)>& look = [](uint64_t) {});

// Like RunAndKillAfter(), but runs to the instruction's anchor by a hardware breakpoint and steps
// from there: not at all outside of loops, and little inside. If the operation does not follow the
// trace, it may be killed elsewhere or finish; `steps` is then wrong. Steps from the start where
// there is no hardware breakpoint (other processors than x86-64, some virtual machines).
StepResult JumpAndKillAfter(const SteppedOperation& stepped, const InstructionTrace& trace,
                            uint64_t k);

// Does not kill the child there but lets it stand still while `meanwhile` runs in the caller, and
// then go on to its end.
StepResult JumpAndPauseAfter(const SteppedOperation& stepped, const InstructionTrace& trace,
                             uint64_t k, const std::function<void()>& meanwhile);

}  // namespace handoff

#endif  // HANDOFF_BASE_TESTING_SINGLE_STEP_H_

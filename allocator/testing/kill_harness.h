// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_KILL_HARNESS_H_
#define HANDOFF_ALLOCATOR_TESTING_KILL_HARNESS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "base/mutation.h"
#include "base/testing/single_step.h"

namespace handoff {

// One operation of a process that dies in the middle of it, and those who live on. Made anew for
// each kill, in the test's process; the victim is a forked child of it.
class KillStage {
 public:
  virtual ~KillStage() = default;

  // In the child: all that comes before the operation, and the operation.
  virtual void SetUpVictim() = 0;
  virtual void Operate() = 0;

  // All memory by which the child may be noticed after its death, which then says everything that
  // is left of it. Empty if there is more: locks, files, processes. Then only real kills will do.
  virtual std::vector<std::span<std::byte>> SharedMemory() { return {}; }

  // While the child stands still in the middle of its operation: what others do, and that it does
  // not harm the child.
  virtual void UseWhileStopped() {}

  // Whether others may do the work before the child does, so that it passes fewer crash points.
  virtual bool OthersMayBeFaster() const { return false; }

  // After the death of the child, in the test's process: reclaims, and expects that nothing is lost
  // and everything works.
  virtual void ExpectWhole() = 0;
};

// Makes the stage of one operation, in the same state every time.
using KillStageFactory = std::function<std::unique_ptr<KillStage>()>;

struct KillReport {
  uint64_t kill_points = 0;  // instructions of the operation, or passes of crash points
  uint64_t tried = 0;        // stages on which ExpectWhole() was called
  uint64_t in_place = 0;     // those where the child was disturbed within the operation
};
// `what` was done to `name`, for people and for the test's record.
void Report(const std::string& name, const char* what, const KillReport& report);

// The instructions of an operation that are tried if all are: each one, or, of an operation with
// more than kMostInstructions, those that are reached for the first or second time: two turns of
// each loop and of each repeated instruction.
inline constexpr uint64_t kMostInstructions = 50'000;
std::vector<uint64_t> KillPoints(const InstructionTrace& trace);

// Which of many kill points are tried: every `every`-th from number `first` on. 1: all.
struct KillSample {
  uint64_t every = 1;
  uint64_t first = 0;
};
// Whether HANDOFF_KILL_EVERY_INSTRUCTION is defined to 1 in the environment.
bool TriesEveryInstruction();
// About `count` of `kill_points`, or all if TriesEveryInstruction(), which HANDOFF_KILL_POINTS
// limits to about so many of each operation. The start is random and printed with the report and
// with a failure. HANDOFF_KILL_SAMPLE=every:first says which, to see a failure again or to go
// through an operation in pieces.
KillSample SampleOf(uint64_t kill_points, uint64_t count);

// The functions below stop at the first failure, which says where the child was killed. Those that
// take a trace need that of the operation; where it is empty, they make it.

// Steps once through the operation. After each instruction that has changed the shared memory, a
// copy of it is put under a stage of its own: what a kill there leaves, without a kill. So all kill
// points are covered by one run. Needs SharedMemory().
KillReport ExpectWholeAfterEveryStore(const KillStageFactory& make, InstructionTrace* trace);

// The same with real kills, after about `count` of the instructions.
KillReport ExpectWholeAfterKills(const KillStageFactory& make, uint64_t count,
                                 InstructionTrace* trace);

// Kills at every named crash point that the operation passes, each time that it passes it, at most
// `most_times` for each name. Nothing where crash points are not compiled in.
KillReport ExpectWholeAfterCrashPoints(const KillStageFactory& make, uint64_t most_times);

// Lets the child stand still after about `count` of its instructions, calls UseWhileStopped(), lets
// the child end its operation, and then die.
KillReport ExpectWholeAfterStops(const KillStageFactory& make, uint64_t count,
                                 InstructionTrace* trace);

// A step of the protocol that is wrong on purpose, in builds with crash points, and what the
// functions above then find.
struct WrongStep {
  std::string name;
  Mutation mutation = Mutation::kNone;
  std::string script;  // of the operation that takes it
  bool by_real_kills = false;
  std::string seen;  // part of what the failed test prints

  friend void PrintTo(const WrongStep& step, std::ostream* out) { *out << step.name; }
};

// Kills with the wrong step, in a process of its own, and expects that this is seen to fail: that
// the functions above can.
void ExpectSeen(const WrongStep& step, const KillStageFactory& make);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_KILL_HARNESS_H_

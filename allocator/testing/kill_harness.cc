// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/kill_harness.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "base/testing/child_process.h"
#include "base/unique_fd.h"

namespace handoff {

namespace {

SteppedOperation SteppedOf(KillStage& stage) {
  return {.setup = [&stage] { stage.SetUpVictim(); }, .operation = [&stage] { stage.Operate(); }};
}

// A copy of what a stage shares.
class Snapshot {
 public:
  // False: nothing has changed since the last time.
  bool Take(KillStage& stage) {
    const std::vector<std::span<std::byte>> areas = stage.SharedMemory();
    HANDOFF_CHECK(!areas.empty());
    bool changed = copies_.size() != areas.size();
    copies_.resize(areas.size());
    for (size_t i = 0; i < areas.size(); ++i) {
      std::vector<std::byte>& copy = copies_[i];
      if (copy.size() == areas[i].size() &&
          std::memcmp(copy.data(), areas[i].data(), copy.size()) == 0) {
        continue;
      }
      copy.assign(areas[i].begin(), areas[i].end());
      changed = true;
    }
    return changed;
  }

  void PutUnder(KillStage& stage) const {
    const std::vector<std::span<std::byte>> areas = stage.SharedMemory();
    HANDOFF_CHECK_EQ(areas.size(), copies_.size());
    for (size_t i = 0; i < areas.size(); ++i) {
      HANDOFF_CHECK_EQ(areas[i].size(), copies_[i].size());
      // Only what differs, so that the rest takes no memory.
      constexpr size_t kStep = 4096;
      for (size_t at = 0; at < areas[i].size(); at += kStep) {
        const size_t length = std::min(kStep, areas[i].size() - at);
        if (std::memcmp(areas[i].data() + at, copies_[i].data() + at, length) != 0) {
          std::memcpy(areas[i].data() + at, copies_[i].data() + at, length);
        }
      }
    }
  }

 private:
  std::vector<std::vector<std::byte>> copies_;
};

// The crash points that an operation passes, as its process tells them.
class PassedPoints {
 public:
  struct Point {
    std::array<char, kMaxCrashPointNameLength + 1> name;
    uint64_t times;
  };

  PassedPoints() {
    void* const memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HANDOFF_CHECK(memory != MAP_FAILED);
    points_ = static_cast<Point*>(memory);
  }
  ~PassedPoints() { ::munmap(points_, kBytes); }
  PassedPoints(const PassedPoints&) = delete;
  PassedPoints& operator=(const PassedPoints&) = delete;

  void Tell() {
    const auto passed = CrashPointsPassed();
    for (size_t i = 0; i < std::min(passed.size(), kMaxPoints); ++i) {
      passed[i].first.copy(points_[i].name.data(), kMaxCrashPointNameLength);
      points_[i].times = passed[i].second;
    }
  }
  std::span<const Point> Told() const {
    size_t count = 0;
    while (count < kMaxPoints && points_[count].times > 0) ++count;
    return {points_, count};
  }

 private:
  static constexpr size_t kMaxPoints = 200;
  static constexpr size_t kBytes = kMaxPoints * sizeof(Point);

  Point* points_;
};

// Has `run` disturb the operation after about `count` of its instructions, on a stage for each.
template <class Run>
KillReport TryInstructions(const KillStageFactory& make, uint64_t count,
                           InstructionTrace* known_trace, const char* what, Run run) {
  InstructionTrace& trace = *known_trace;
  if (trace.empty()) trace = TraceInstructions(SteppedOf(*make()));
  KillReport report{.kill_points = trace.size()};
  const std::vector<uint64_t> points = KillPoints(trace);
  const KillSample sample = SampleOf(points.size(), count);
  if (sample.every > 1) {
    std::cout << "every " << sample.every << "th of " << points.size() << " from " << sample.first
              << "; ";
  }
  for (uint64_t i = sample.first; i < points.size(); i += sample.every) {
    const uint64_t k = points[i];
    const std::unique_ptr<KillStage> stage = make();
    if (run(*stage, trace, k)) ++report.in_place;
    stage->ExpectWhole();
    ++report.tried;
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << what << " after " << k << " of " << trace.size() << " instructions";
      break;
    }
  }
  return report;
}

// Runs `run` in a process of its own and gives what that has printed if one of its EXPECT_s has
// failed; nothing if none has.
std::string OutputOfFailure(const std::function<void()>& run) {
  const UniqueFd output(::memfd_create("output", MFD_CLOEXEC));
  HANDOFF_CHECK(output.valid()) << std::strerror(errno);
  ChildProcess child = ChildProcess::Start([&] {
    ::dup2(output.get(), STDOUT_FILENO);
    ::dup2(output.get(), STDERR_FILENO);
    run();
    return 0;
  });
  const std::optional<ChildExit> exit = child.Wait(absl::Minutes(5));
  std::string text;
  std::array<char, 4096> part;
  for (off_t at = 0;;) {
    const ssize_t size = ::pread(output.get(), part.data(), part.size(), at);
    if (size <= 0) break;
    text.append(part.data(), static_cast<size_t>(size));
    at += size;
  }
  if (exit == ChildExit::Code(ChildProcess::kFailedExpectation)) return text;
  EXPECT_EQ(exit, ChildExit::Code(0)) << text;
  return {};
}

}  // namespace

std::vector<uint64_t> KillPoints(const InstructionTrace& trace) {
  std::vector<uint64_t> points;
  for (uint64_t k = 0; k < trace.size(); ++k) {
    // A further turn of a repeated instruction.
    const bool is_turn = k > 1 && trace[k].address == trace[k - 2].address &&
                         trace[k].address == trace[k - 1].address;
    if (trace.size() <= kMostInstructions || (trace[k].visit <= 2 && !is_turn)) points.push_back(k);
  }
  return points;
}

void Report(const std::string& name, const char* what, const KillReport& report) {
  ::testing::Test::RecordProperty("kill_points", std::to_string(report.kill_points));
  ::testing::Test::RecordProperty("tried", std::to_string(report.tried));
  std::cout << name << ": " << report.kill_points << " " << what << ", " << report.tried
            << " tried";
  if (report.in_place > 0) std::cout << ", " << report.in_place << " of them in place";
  std::cout << std::endl;
}

bool TriesEveryInstruction() {
  const char* const all = std::getenv("HANDOFF_KILL_EVERY_INSTRUCTION");
  return all != nullptr && std::string_view(all) == "1";
}

KillSample SampleOf(uint64_t kill_points, uint64_t count) {
  if (const char* const sample = std::getenv("HANDOFF_KILL_SAMPLE")) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(sample, ':');
    KillSample chosen;
    HANDOFF_CHECK(absl::SimpleAtoi(parts.first, &chosen.every) &&
                  absl::SimpleAtoi(parts.second, &chosen.first) && chosen.every > 0)
        << "HANDOFF_KILL_SAMPLE=" << sample << ": expected every:first";
    return chosen;
  }
  if (TriesEveryInstruction()) {
    count = kill_points;
    if (const char* const limit = std::getenv("HANDOFF_KILL_POINTS")) {
      HANDOFF_CHECK(absl::SimpleAtoi(limit, &count))
          << "HANDOFF_KILL_POINTS=" << limit << ": expected a number";
    }
  }
  count = std::max<uint64_t>(1, count);
  // In the full run rounded up: not more than the limit.
  const uint64_t rounded = TriesEveryInstruction() ? count - 1 : 0;
  const uint64_t every = std::max<uint64_t>(1, (kill_points + rounded) / count);
  return {.every = every, .first = every > 1 ? std::random_device()() % every : 0};
}

KillReport ExpectWholeAfterEveryStore(const KillStageFactory& make, InstructionTrace* trace) {
  KillReport report;
  const std::unique_ptr<KillStage> watched = make();
  Snapshot snapshot;
  *trace = TraceInstructions(SteppedOf(*watched), [&](uint64_t k) {
    if (::testing::Test::HasFailure() || !snapshot.Take(*watched)) return;
    const std::unique_ptr<KillStage> stage = make();
    snapshot.PutUnder(*stage);
    stage->ExpectWhole();
    ++report.tried;
    if (::testing::Test::HasFailure()) ADD_FAILURE() << "killed after " << k << " instructions";
  });
  report.kill_points = trace->size();
  return report;
}

KillReport ExpectWholeAfterKills(const KillStageFactory& make, uint64_t count,
                                 InstructionTrace* trace) {
  return TryInstructions(make, count, trace, "killed",
                         [](KillStage& stage, const InstructionTrace& known, uint64_t k) {
                           return JumpAndKillAfter(SteppedOf(stage), known, k).killed;
                         });
}

KillReport ExpectWholeAfterStops(const KillStageFactory& make, uint64_t count,
                                 InstructionTrace* trace) {
  return TryInstructions(make, count, trace, "stopped",
                         [](KillStage& stage, const InstructionTrace& known, uint64_t k) {
                           return JumpAndPauseAfter(SteppedOf(stage), known, k,
                                                    [&stage] { stage.UseWhileStopped(); })
                               .paused;
                         });
}

KillReport ExpectWholeAfterCrashPoints(const KillStageFactory& make, uint64_t most_times) {
  KillReport report;
  if (!kCrashPointsCompiledIn) return report;
  PassedPoints passed;
  {
    const std::unique_ptr<KillStage> stage = make();
    ChildProcess child = ChildProcess::Start([&] {
      stage->SetUpVictim();
      CountCrashPoints();
      stage->Operate();
      passed.Tell();
      return 0;
    });
    EXPECT_EQ(child.Wait(), ChildExit::Code(0));
    stage->ExpectWhole();
  }
  for (const PassedPoints::Point& point : passed.Told()) {
    report.kill_points += point.times;
    for (uint64_t nth = 1; nth <= std::min(point.times, most_times); ++nth) {
      const std::unique_ptr<KillStage> stage = make();
      ChildProcess child = ChildProcess::Start([&] {
        stage->SetUpVictim();
        ArmCrashPoint(point.name.data(), nth);
        stage->Operate();
        return 0;
      });
      const std::optional<ChildExit> exit = child.Wait();
      if (exit != ChildExit::Code(0) || !stage->OthersMayBeFaster()) {
        EXPECT_EQ(exit, ChildExit::Signal(SIGKILL));
      }
      stage->ExpectWhole();
      ++report.tried;
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "killed at HANDOFF_CRASH_AT=" << point.name.data() << ":" << nth;
        return report;
      }
    }
  }
  return report;
}

void ExpectSeen(const WrongStep& step, const KillStageFactory& make) {
  const std::string output = OutputOfFailure([&] {
    const TakenMutation mutation(step.mutation);
    InstructionTrace trace;
    if (step.by_real_kills) {
      (void)ExpectWholeAfterKills(make, 20, &trace);
    } else {
      (void)ExpectWholeAfterCrashPoints(make, 2);
    }
  });
  EXPECT_NE(output.find(step.by_real_kills ? "killed after" : "killed at HANDOFF_CRASH_AT="),
            std::string::npos)
      << output;
  EXPECT_NE(output.find(step.seen), std::string::npos) << output;
}

}  // namespace handoff

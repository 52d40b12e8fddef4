// SPDX-License-Identifier: Apache-2.0
#include "base/testing/single_step.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing/child_process.h"

namespace handoff {
namespace {

// Memory that the test and its children share. Whatever the children write stays there when they
// are killed.
struct Shared {
  std::array<std::atomic<uint64_t>, 12> words{};
  std::atomic<uint64_t> heartbeat{0};
  std::atomic<pid_t> pid{0};
};

class SingleStepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    void* const memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    shared_ = new (memory) Shared;
  }
  void TearDown() override { ::munmap(shared_, sizeof(Shared)); }

  // Fills the words one after the other.
  SteppedOperation FillWords() {
    return {.setup = [this] { Clear(); },
            .operation =
                [this] {
                  for (std::atomic<uint64_t>& word : shared_->words)
                    word.store(1, std::memory_order_relaxed);
                }};
  }

  void Clear() {
    for (std::atomic<uint64_t>& word : shared_->words) word.store(0, std::memory_order_relaxed);
  }

  // How many words from the front are filled, or -1 if there is a gap.
  int FilledWords() const {
    int filled = 0;
    bool ended = false;
    for (const std::atomic<uint64_t>& word : shared_->words) {
      if (word.load(std::memory_order_relaxed) == 0) {
        ended = true;
      } else if (ended) {
        return -1;
      } else {
        ++filled;
      }
    }
    return filled;
  }

  Shared* shared_ = nullptr;
};

SteppedOperation Only(std::function<void()> operation) {
  return {.setup = [] {}, .operation = std::move(operation)};
}

TEST_F(SingleStepTest, CountsTheSameEveryTime) {
  const uint64_t count = CountInstructions(FillWords());
  EXPECT_GT(count, shared_->words.size());
  EXPECT_EQ(CountInstructions(FillWords()), count);
  EXPECT_EQ(TraceInstructions(FillWords()).size(), count);
}

#ifdef __x86_64__
TEST_F(SingleStepTest, CountsEachInstructionAndEachTurnOfARepeatedOne) {
  const uint64_t nothing = CountInstructions(Only([] { asm volatile("" ::: "memory"); }));
  EXPECT_EQ(CountInstructions(Only([] {
              asm volatile("nop; nop; nop" ::: "memory");
            })),
            nothing + 3);
  const auto fill = [](uint64_t count) {
    return CountInstructions(Only([count] {
      std::array<char, 100> bytes;
      void* to = bytes.data();
      uint64_t left = count;
      asm volatile("rep stosb" : "+D"(to), "+c"(left) : "a"(0) : "memory");
    }));
  };
  EXPECT_EQ(fill(90), fill(10) + 80);
}
#endif

TEST_F(SingleStepTest, KillsAfterEachInstructionInTurn) {
  const SteppedOperation fill = FillWords();
  const uint64_t count = CountInstructions(fill);
  int filled_before = 0;
  for (uint64_t k = 0; k < count; ++k) {
    const StepResult result = RunAndKillAfter(fill, k);
    ASSERT_TRUE(result.killed && !result.finished) << k;
    ASSERT_EQ(result.steps, k);
    const int filled = FilledWords();
    ASSERT_TRUE(filled == filled_before || filled == filled_before + 1)
        << "after " << k << ": " << filled;
    filled_before = filled;
  }
  EXPECT_EQ(filled_before, static_cast<int>(shared_->words.size()));
}

TEST_F(SingleStepTest, FinishesIfTheOperationIsShorter) {
  const SteppedOperation fill = FillWords();
  const uint64_t count = CountInstructions(fill);
  for (const uint64_t k : {count, count + 1, UINT64_MAX}) {
    const StepResult result = RunAndKillAfter(fill, k);
    EXPECT_TRUE(result.finished && !result.killed);
    EXPECT_EQ(result.steps, count);
    EXPECT_EQ(FilledWords(), static_cast<int>(shared_->words.size()));
  }
}

TEST_F(SingleStepTest, JumpsToTheSameInstructionAsBySteps) {
  const SteppedOperation fill = FillWords();
  const InstructionTrace trace = TraceInstructions(fill);
  for (uint64_t k = 0; k <= trace.size(); ++k) {
    const StepResult stepped = RunAndKillAfter(fill, k);
    const int filled = FilledWords();
    const StepResult jumped = JumpAndKillAfter(fill, trace, k);
    ASSERT_EQ(jumped.killed, stepped.killed) << k;
    ASSERT_EQ(jumped.finished, stepped.finished) << k;
    ASSERT_EQ(jumped.steps, stepped.steps);
    ASSERT_EQ(FilledWords(), filled) << k;
  }
}

// Fills the words eight times each, in two loops, with a repeated instruction in the outer one.
SteppedOperation FillInTwoLoops(Shared* shared) {
  return {.setup = [] {},
          .operation =
              [shared] {
                for (std::atomic<uint64_t>& word : shared->words) {
                  std::array<char, 16> bytes;
                  std::memset(bytes.data(), 1, bytes.size());
#ifdef __x86_64__
                  void* to = bytes.data();
                  uint64_t left = 7;
                  asm volatile("rep stosb" : "+D"(to), "+c"(left) : "a"(0) : "memory");
#endif
                  for (uint64_t i = 1; i <= 8; ++i) word.store(i, std::memory_order_relaxed);
                }
              }};
}

TEST_F(SingleStepTest, JumpsIntoLoopsWithFewStops) {
  const SteppedOperation fill = FillInTwoLoops(shared_);
  const InstructionTrace trace = TraceInstructions(fill);
  ASSERT_GT(trace.size(), 200u);
  uint64_t sum_before = 0;
  for (uint64_t k = 0; k < trace.size(); ++k) {
    const TracedInstruction& anchor = trace[trace[k].anchor];
    EXPECT_LE(trace[k].anchor, k);
    EXPECT_LE(anchor.visit + (k - trace[k].anchor), 50u) << k << " of " << trace.size();
    Clear();
    const StepResult result = JumpAndKillAfter(fill, trace, k);
    ASSERT_TRUE(result.killed) << k;
    ASSERT_EQ(result.steps, k);
    uint64_t sum = 0;
    for (const std::atomic<uint64_t>& word : shared_->words) {
      sum += word.load(std::memory_order_relaxed);
    }
    // One store more, or none.
    ASSERT_TRUE(sum == sum_before || sum == sum_before + 1) << k;
    sum_before = sum;
  }
  EXPECT_EQ(sum_before, 8 * shared_->words.size());
}

TEST_F(SingleStepTest, RunsSystemCallsAsOneInstruction) {
  // Killed before or after the call, never in it: the pipe has all bytes or none.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const std::array<char, 1000> bytes{};
  const SteppedOperation write =
      Only([&] { ::syscall(SYS_write, ends[1], bytes.data(), bytes.size()); });
  const InstructionTrace trace = TraceInstructions(write);
  std::array<char, 2000> buffer;
  ASSERT_EQ(::read(ends[0], buffer.data(), buffer.size()), 1000);
  const uint64_t last = trace.size();
  for (uint64_t k = 0; k <= last; ++k) {
    JumpAndKillAfter(write, trace, k);
    // So that the read does not wait if there is nothing.
    ASSERT_EQ(::write(ends[1], "x", 1), 1);
    const ssize_t size = ::read(ends[0], buffer.data(), buffer.size());
    ASSERT_TRUE(size == 1 || size == 1001) << size;
    ASSERT_TRUE(size == 1001 || k != last);
    ASSERT_TRUE(size == 1 || k != 0);
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(SingleStepTest, LetsTheOperationStartProcesses) {
  const StepResult result = RunAndKillAfter(
      Only([] {
        char name[] = "true";
        char* arguments[] = {name, nullptr};
        char* environment[] = {nullptr};
        pid_t pid = 0;
        ASSERT_EQ(::posix_spawn(&pid, "/bin/true", nullptr, nullptr, arguments, environment), 0);
        int status = -1;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
        const pid_t forked = ::fork();
        if (forked == 0) ::_exit(5);
        ASSERT_EQ(::waitpid(forked, &status, 0), forked);
        EXPECT_EQ(WEXITSTATUS(status), 5);
      }),
      UINT64_MAX);
  EXPECT_TRUE(result.finished);
}

TEST_F(SingleStepTest, LetsOtherThreadsRunUntilTheKill) {
  const SteppedOperation wait_for_thread = {
      .setup =
          [this] {
            shared_->pid.store(::getpid(), std::memory_order_relaxed);
            std::thread([this] {
              for (;;) shared_->heartbeat.fetch_add(1, std::memory_order_relaxed);
            }).detach();
          },
      .operation =
          [this] {
            const uint64_t before = shared_->heartbeat.load(std::memory_order_relaxed);
            while (shared_->heartbeat.load(std::memory_order_relaxed) == before) ::sched_yield();
            for (int i = 0; i < 1'000'000; ++i)
              shared_->words[0].fetch_add(1, std::memory_order_relaxed);
          }};
  EXPECT_TRUE(RunAndKillAfter(wait_for_thread, 5'000).killed);
  EXPECT_GT(shared_->words[0].load(std::memory_order_relaxed), 0u)
      << "the thread did not run beside the stepped one";
  EXPECT_EQ(::kill(shared_->pid.load(std::memory_order_relaxed), 0), -1) << "not reaped";
}

TEST_F(SingleStepTest, ShowsWhatAKillAtEachInstructionWouldLeave) {
  const SteppedOperation fill = FillWords();
  std::vector<int> filled;
  const InstructionTrace trace = TraceInstructions(fill, [&](uint64_t k) {
    ASSERT_EQ(k, filled.size());
    filled.push_back(FilledWords());
  });
  const uint64_t count = trace.size();
  EXPECT_EQ(count, CountInstructions(fill));
  ASSERT_EQ(filled.size(), count + 1);
  for (uint64_t k = 0; k < count; ++k) {
    ASSERT_TRUE(RunAndKillAfter(fill, k).killed);
    ASSERT_EQ(FilledWords(), filled[k]) << k;
  }
}

TEST_F(SingleStepTest, PausesAfterAnyInstructionAndGoesOn) {
  const SteppedOperation fill = FillWords();
  const InstructionTrace trace = TraceInstructions(fill);
  int filled_before = 0;
  for (uint64_t k = 0; k < trace.size(); ++k) {
    bool called = false;
    const StepResult result = JumpAndPauseAfter(fill, trace, k, [&] {
      called = true;
      const int filled = FilledWords();
      EXPECT_TRUE(filled == filled_before || filled == filled_before + 1) << k;
      filled_before = filled;
    });
    ASSERT_TRUE(called && result.paused && result.finished && !result.killed) << k;
    ASSERT_EQ(FilledWords(), static_cast<int>(shared_->words.size()));
  }
}

TEST_F(SingleStepTest, DeliversSignalsAndStepsTheirHandlers) {
  static Shared* shared;
  shared = shared_;
  const SteppedOperation raise = {
      .setup =
          [] {
            ::signal(SIGUSR1,
                     [](int) { shared->words[0].fetch_add(1, std::memory_order_relaxed); });
          },
      .operation =
          [] {
            ::raise(SIGUSR1);
            ::raise(SIGSTOP);  // ignored: the tracer would wait for somebody to go on
            EXPECT_EQ(shared->words[0].load(std::memory_order_relaxed), 1u);
          }};
  EXPECT_TRUE(RunAndKillAfter(raise, UINT64_MAX).finished);
}

TEST_F(SingleStepTest, FailsTheTestIfTheChildEndsBefore) {
  EXPECT_NONFATAL_FAILURE(CountInstructions({.setup = [] { ::_exit(3); }, .operation = [] {}}),
                          "exited with 3");
  EXPECT_NONFATAL_FAILURE(
      CountInstructions({.setup = [] {}, .operation = [] { ::raise(SIGKILL); }}),
      "killed by signal 9");
  EXPECT_NONFATAL_FAILURE(
      RunAndKillAfter({.setup = [] {}, .operation = [] { ::abort(); }}, UINT64_MAX),
      "killed by signal 6");
}

TEST_F(SingleStepTest, FailsTheTestIfAnExpectationFailsInTheChild) {
  const std::function<void()> nothing = [] {};
  const std::function<void()> failing = [] { EXPECT_TRUE(false); };
  for (const SteppedOperation& stepped :
       {SteppedOperation{.setup = failing, .operation = nothing},
        SteppedOperation{.setup = nothing, .operation = failing}}) {
    // The failure is meant, so it is kept in a process of its own, which does not show it.
    ChildProcess child = ChildProcess::Start([&] {
      std::fclose(stdout);
      CountInstructions(stepped);
      return 0;
    });
    EXPECT_EQ(child.Wait(), ChildExit::Code(ChildProcess::kFailedExpectation));
  }
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/heap_loops.h"

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "base/clock.h"
#include "benchmarks/heaps.h"

namespace handoff {

namespace {

int64_t NowNs() { return MonotonicClock().NowNanoseconds(); }

// Where a burst of this thread began.
struct Begin {
  // Involuntary context switches of this thread so far.
  static long Preemptions() {
    rusage usage{};
    HANDOFF_CHECK_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_nivcsw;
  }

  long preemptions = Preemptions();
  int64_t ns = NowNs();
};

// Nothing is printed by Google Benchmark: the figures are of one thread, and its are not the same
// thing in all its versions.
class SilentReporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

class Recorder {
 public:
  void Add(const std::string& name, double ns) {
    absl::MutexLock lock(&mutex_);
    result_.turn_ns[name].Add(ns);
  }
  HeapLoopsResult& result() { return result_; }

 private:
  absl::Mutex mutex_;
  HeapLoopsResult result_;
};

constexpr int64_t kMostWarmNs = 50'000'000;

// What is random is drawn before time is taken.
struct LiveSetPlan {
  static constexpr size_t kSteps = 1 << 16;

  LiveSetPlan(uint32_t blocks, size_t most_bytes) {
    std::mt19937_64 random(blocks);
    std::uniform_real_distribution<double> exponent(0,
                                                    std::log2(static_cast<double>(most_bytes)) - 6);
    const auto draw = [&] { return static_cast<size_t>(std::exp2(6 + exponent(random))); };
    for (uint32_t i = 0; i < blocks; ++i) first_sizes.push_back(draw());
    std::uniform_int_distribution<uint32_t> block(0, blocks - 1);
    for (size_t i = 0; i < kSteps; ++i) {
      which.push_back(block(random));
      sizes.push_back(draw());
    }
    order.resize(blocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
  }

  std::vector<size_t> first_sizes;  // by block
  std::vector<uint32_t> which;      // by step
  std::vector<size_t> sizes;        // by step
  std::vector<uint32_t> order;      // of all blocks
};

template <class Heap>
class Loops {
 public:
  using Piece = decltype(std::declval<Heap>().Allocate(0));

  Loops(std::string name, std::unique_ptr<Heap> heap, const HeapLoopsOptions& options,
        Recorder& recorder)
      : name_(std::move(name)), heap_(std::move(heap)), options_(options), recorder_(recorder) {}

  Heap& heap() { return *heap_; }

  void RegisterTurns(size_t size_bytes, int threads) {
    const std::string name = TurnsName(name_, size_bytes, threads);
    benchmark::RegisterBenchmark(name.c_str(),
                                 [this, name, size_bytes](benchmark::State& state) {
                                   for (int i = 0; i < 16; ++i)
                                     heap_->Release(heap_->Allocate(size_bytes));
                                   const Begin begin;
                                   for ([[maybe_unused]] auto turn : state) {
                                     Piece piece = heap_->Allocate(size_bytes);
                                     benchmark::DoNotOptimize(&piece);
                                     heap_->Release(piece);
                                   }
                                   Record(name, state, begin, 1);
                                 })
        ->Threads(threads)
        ->UseRealTime()
        ->Iterations(Iterations([&](size_t) { heap_->Release(heap_->Allocate(size_bytes)); }))
        ->Repetitions(options_.repetitions);
  }

  void RegisterLive(std::shared_ptr<const LiveSetPlan> plan, size_t most_bytes) {
    const std::string name = LiveName(name_, most_bytes);
    auto pieces = std::make_shared<std::vector<Piece>>(plan->first_sizes.size());
    // So that the first steps of a heap are not of one that has just been filled.
    Fill(*plan, *pieces);
    const auto step = [this, plan, pieces](size_t i) {
      Piece& piece = (*pieces)[plan->which[i % LiveSetPlan::kSteps]];
      heap_->Release(piece);
      piece = heap_->Allocate(plan->sizes[(i * 7 + 5) % LiveSetPlan::kSteps]);
    };
    const size_t iterations = Iterations(step);
    Empty(*plan, *pieces);
    benchmark::RegisterBenchmark(
        name.c_str(),
        [this, name, plan, pieces, step](benchmark::State& state) {
          Fill(*plan, *pieces);
          size_t i = static_cast<size_t>(std::hash<int64_t>()(NowNs())) % LiveSetPlan::kSteps;
          // A set that has just been filled takes a while to settle.
          const size_t settled = i + 10 * pieces->size();
          for (const int64_t warm_ns = NowNs(); i < settled && NowNs() - warm_ns < kMostWarmNs;) {
            for (int warm = 0; warm < 64; ++warm) step(i++);
          }
          const Begin begin;
          for ([[maybe_unused]] auto turn : state) step(i++);
          Record(name, state, begin, 1);
          Empty(*plan, *pieces);
        })
        ->UseRealTime()
        ->Iterations(static_cast<int64_t>(iterations))
        ->Repetitions(options_.repetitions);
  }

  void RegisterFill(std::shared_ptr<const LiveSetPlan> plan, size_t most_bytes) {
    const std::string name = FillName(name_, most_bytes);
    auto pieces = std::make_shared<std::vector<Piece>>(plan->first_sizes.size());
    benchmark::RegisterBenchmark(name.c_str(),
                                 [this, name, plan, pieces](benchmark::State& state) {
                                   Fill(*plan, *pieces);
                                   Empty(*plan, *pieces);
                                   const Begin begin;
                                   for ([[maybe_unused]] auto turn : state) {
                                     Fill(*plan, *pieces);
                                     Empty(*plan, *pieces);
                                   }
                                   Record(name, state, begin, pieces->size());
                                 })
        ->UseRealTime()
        ->Iterations(1)
        ->Repetitions(options_.repetitions);
  }

 private:
  void Record(const std::string& name, benchmark::State& state, const Begin& begin, size_t turns) {
    const int64_t end_ns = NowNs();
    if (Begin::Preemptions() != begin.preemptions) return;
    const auto count = static_cast<double>(state.max_iterations) * static_cast<double>(turns);
    recorder_.Add(name, static_cast<double>(end_ns - begin.ns) / count);
  }

  // How many take about as long as a burst, when the heap has what they need: the first block of a
  // size may take as long as a burst by itself.
  template <class Step>
  size_t Iterations(Step step) {
    for (size_t i = 0; i < 16; ++i) step(i);
    size_t done = 0;
    const int64_t begin_ns = NowNs();
    while (static_cast<double>(NowNs() - begin_ns) < options_.burst_ns) {
      for (int i = 0; i < 16; ++i) step(done++);
    }
    return done;
  }

  void Fill(const LiveSetPlan& plan, std::vector<Piece>& pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) pieces[i] = heap_->Allocate(plan.first_sizes[i]);
  }
  void Empty(const LiveSetPlan& plan, std::vector<Piece>& pieces) {
    for (const uint32_t i : plan.order) heap_->Release(pieces[i]);
  }

  const std::string name_;
  const std::unique_ptr<Heap> heap_;
  const HeapLoopsOptions& options_;
  Recorder& recorder_;
};

void RunAll() {
  std::string program = "allocator";
  std::string interleaved = "--benchmark_enable_random_interleaving=true";
  char* arguments[] = {program.data(), interleaved.data(), nullptr};
  int count = 2;
  benchmark::Initialize(&count, arguments);
  SilentReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  benchmark::ClearRegisteredBenchmarks();
}

}  // namespace

std::string TurnsName(const std::string& heap, size_t size_bytes, int threads) {
  return absl::StrCat("turns/", heap, "/", size_bytes, "/", threads);
}
std::string LiveName(const std::string& heap, size_t most_bytes) {
  return absl::StrCat("live/", heap, "/", most_bytes);
}
std::string FillName(const std::string& heap, size_t most_bytes) {
  return absl::StrCat("fill/", heap, "/", most_bytes);
}

HeapLoopsResult RunHeapLoops(const HeapLoopsOptions& options) {
  Recorder recorder;
  Loops<SegmentHeap> ours("segment",
                          std::make_unique<SegmentHeap>(BenchmarkSession(), options.segment_bytes),
                          options, recorder);
  Loops<BestFitHeap> best_fit(
      "rbtree_best_fit", std::make_unique<BestFitHeap>(options.segment_bytes), options, recorder);
  Loops<SeqFitHeap> seq_fit("simple_seq_fit", std::make_unique<SeqFitHeap>(options.segment_bytes),
                            options, recorder);
  Loops<MallocHeap> libc("malloc", std::make_unique<MallocHeap>(), options, recorder);
  for (const size_t size : options.sizes) {
    for (const int threads : {1, 2}) {
      ours.RegisterTurns(size, threads);
      best_fit.RegisterTurns(size, threads);
      seq_fit.RegisterTurns(size, threads);
      libc.RegisterTurns(size, threads);
    }
  }
  if (!options.sizes.empty()) RunAll();
  for (const size_t most_bytes : options.live_most_bytes) {
    const auto plan = std::make_shared<const LiveSetPlan>(options.live_blocks, most_bytes);
    ours.RegisterLive(plan, most_bytes);
    best_fit.RegisterLive(plan, most_bytes);
    libc.RegisterLive(plan, most_bytes);
    ours.RegisterFill(plan, most_bytes);
    best_fit.RegisterFill(plan, most_bytes);
    libc.RegisterFill(plan, most_bytes);
    // Tens of microseconds a step: once is enough to know.
    if (most_bytes == options.live_most_bytes.front()) seq_fit.RegisterLive(plan, most_bytes);
    RunAll();
  }
  Segment& segment = ours.heap().segment();
  Block all;
  recorder.result().segment_whole =
      segment.TryAllocate(segment.size_bytes(), kBlockAlignment, &all) == AllocateResult::kOk;
  if (recorder.result().segment_whole) segment.Release(all);
  return std::move(recorder.result());
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
// What the segment heap costs, beside Boost.Interprocess's allocators and malloc.
//
//   ./bazelw run --config=opt //benchmarks:allocator
//
// Prints a Markdown table of figures with their targets. docs/performance.md says how each is
// taken.
#include <gflags/gflags.h>
#include <sys/statvfs.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/byte_size.h"
#include "benchmarks/harness/comparison.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/statistics.h"
#include "benchmarks/heap_contenders.h"
#include "benchmarks/heap_loops.h"
#include "benchmarks/session_costs.h"

DEFINE_int32(rounds, 40, "How many bursts of each contender, 1 to 10000.");
DEFINE_int32(burst_us, 2000, "How long a burst takes, in microseconds, 1 to 100000.");
DEFINE_string(sizes, "64,1024,65536,1048576,16777216",
              "Sizes of blocks, in bytes, separated by commas.");
DEFINE_uint64(segment_mib, 2048, "Size of each segment, in MiB: 8 to 65536.");
DEFINE_uint32(live_blocks, 10'000, "Blocks of the live set, 1 to 1000000.");
DEFINE_string(live_most, "4096,65536,262144",
              "Largest blocks of the live sets, in bytes, separated by commas, 64 to 32 MiB.");
DEFINE_uint32(reclaim_blocks, 100'000, "Blocks that a killed member held, 1 to 10000000.");
DEFINE_string(only, "", "Run the parts with this in their name: one, live, two, pair, session.");

namespace handoff {
namespace {

ComparisonOptions Options() {
  return {.rounds = FLAGS_rounds, .burst = absl::Microseconds(FLAGS_burst_us)};
}

uint64_t SegmentBytes() { return FLAGS_segment_mib << 20; }

class Program {
 public:
  Program(std::vector<size_t> sizes, std::vector<size_t> live_most)
      : sizes_(std::move(sizes)), live_most_(std::move(live_most)) {}

  int Run() {
    // What forks, first: a process with threads is left to the end.
    TwoProcesses();
    Pair();
    SessionCosts();
    OneProcess();
    LiveSet();
    std::printf("\n%d met, %d not met\n", report_.met(), report_.missed());
    return 0;
  }

 private:
  // Whether this part is wanted; then its title is printed.
  bool Begin(std::string_view part, std::string_view title) {
    if (part.find(FLAGS_only) == std::string_view::npos) return false;
    report_.Begin(title);
    report_.Head();
    return true;
  }

  void TwoProcesses() {
    if (!Begin("two", "allocate and release, two processes at once")) return;
    std::vector<std::vector<Measured>> figures;
    for (const size_t size : sizes_) {
      const auto all = Compare(
          {SegmentTurns(AtWork::kOne, size, SegmentBytes()),
           SegmentTurns(AtWork::kBoth, size, SegmentBytes()),
           BestFitTurns(AtWork::kBoth, size, SegmentBytes()),
           SeqFitTurns(AtWork::kBoth, size, SegmentBytes()), MallocTurns(AtWork::kBoth, size)},
          Options());
      const std::string bytes = FormatByteSize(size);
      report_.AtMost(absl::StrCat(bytes, ": two processes / one, ours"), all[1], all[0], 1.5);
      report_.Note(absl::StrCat(bytes, ": rbtree_best_fit / ours"), all[1], all[2]);
      report_.Note(absl::StrCat(bytes, ": simple_seq_fit / ours"), all[1], all[3]);
      report_.Note(absl::StrCat(bytes, ": malloc / ours"), all[1], all[4]);
      figures.push_back(all);
    }
    Figures(figures);
  }

  void Pair() {
    if (!Begin("pair", "one process allocates, the other releases")) return;
    std::vector<std::vector<Measured>> figures;
    for (const size_t size : sizes_) {
      const auto all =
          Compare({SegmentPair(size, SegmentBytes()), BestFitPair(size, SegmentBytes()),
                   SeqFitPair(size, SegmentBytes())},
                  Options());
      const std::string bytes = FormatByteSize(size);
      report_.NanosecondsAtMost(absl::StrCat(bytes, ": a message, either side"), all[0], 40);
      report_.Note(absl::StrCat(bytes, ": rbtree_best_fit / ours"), all[0], all[1]);
      report_.Note(absl::StrCat(bytes, ": simple_seq_fit / ours"), all[0], all[2]);
      figures.push_back(all);
    }
    Figures(figures);
  }

  HeapLoopsOptions LoopsOptions() const {
    HeapLoopsOptions options;
    options.live_blocks = FLAGS_live_blocks;
    options.segment_bytes = SegmentBytes();
    options.repetitions = FLAGS_rounds / 2 + 1;
    options.burst_ns = FLAGS_burst_us * 1e3;
    return options;
  }

  void OneProcess() {
    if (!Begin("one", "allocate and release, one process")) return;
    HeapLoopsOptions options = LoopsOptions();
    options.sizes = sizes_;
    HeapLoopsResult result = RunHeapLoops(options);
    auto& ns = result.turn_ns;
    for (const int threads : {1, 2}) {
      for (const size_t size : sizes_) {
        const std::string what =
            absl::StrCat(FormatByteSize(size), threads == 1 ? "" : ", two threads");
        const Samples& ours = ns[TurnsName("segment", size, threads)];
        report_.AtLeast(absl::StrCat(what, ": rbtree_best_fit / ours"), ours,
                        ns[TurnsName("rbtree_best_fit", size, threads)], 10);
        report_.Note(absl::StrCat(what, ": simple_seq_fit / ours"), ours,
                     ns[TurnsName("simple_seq_fit", size, threads)]);
        report_.Note(absl::StrCat(what, ": malloc / ours"), ours,
                     ns[TurnsName("malloc", size, threads)]);
      }
    }
  }

  void LiveSet() {
    if (!Begin("live", absl::StrCat(FLAGS_live_blocks, " live blocks of mixed sizes"))) return;
    HeapLoopsOptions options = LoopsOptions();
    options.live_most_bytes = live_most_;
    HeapLoopsResult result = RunHeapLoops(options);
    auto& ns = result.turn_ns;
    for (const size_t most : live_most_) {
      const std::string mix = absl::StrCat("64 bytes to ", FormatByteSize(most));
      const Samples& ours = ns[LiveName("segment", most)];
      report_.AtLeast(absl::StrCat(mix, ", one at random for another: rbtree_best_fit / ours"),
                      ours, ns[LiveName("rbtree_best_fit", most)], 40);
      if (const Samples& seq_fit = ns[LiveName("simple_seq_fit", most)]; seq_fit.count() > 0) {
        report_.Note(absl::StrCat(mix, ", one at random for another: simple_seq_fit / ours"), ours,
                     seq_fit);
      }
      report_.Note(absl::StrCat(mix, ", one at random for another: malloc / ours"), ours,
                   ns[LiveName("malloc", most)]);
      const Samples& fill = ns[FillName("segment", most)];
      report_.AtLeast(absl::StrCat(mix, ", all in, all out: rbtree_best_fit / ours"), fill,
                      ns[FillName("rbtree_best_fit", most)], 40);
      report_.Note(absl::StrCat(mix, ", all in, all out: malloc / ours"), fill,
                   ns[FillName("malloc", most)]);
    }
    report_.Fact("afterwards the segment can be had as one block",
                 result.segment_whole ? "yes" : "no", "yes", result.segment_whole);
  }

  void SessionCosts() {
    if (!Begin("session", "what is not on the path of a message")) return;
    const int times = FLAGS_rounds / 2 + 1;
    for (const uint64_t bytes : {SegmentBytes() / 8, SegmentBytes(), SegmentBytes() * 4}) {
      if (bytes > RoomBytes()) continue;
      const OpenTimes open = TimeOpen(bytes, times);
      const std::string size = FormatByteSize(bytes);
      report_.MillisecondsAtMost(absl::StrCat("create a session of ", size), open.create_ms, 1);
      report_.MillisecondsAtMost(absl::StrCat("join a session of ", size), open.join_ms, 1);
    }
    report_.MillisecondsAtMost(
        absl::StrCat("reclaim of a killed member with ", FLAGS_reclaim_blocks,
                     " blocks, from the release of its lock"),
        TimeReclaim(FLAGS_reclaim_blocks, times / 2 + 1), 10);
    report_.MillisecondsAtMost("a wait for memory ends after the release", TimeWakes(2 * times), 1);
    const Bookkeeping bookkeeping = MeasureBookkeeping(FLAGS_reclaim_blocks);
    const double bytes = bookkeeping.shared_bytes + bookkeeping.private_bytes;
    report_.Fact(absl::StrFormat(
                     "bookkeeping of a block of 64 bytes: %.2f bytes shared, %.2f of the process",
                     bookkeeping.shared_bytes, bookkeeping.private_bytes),
                 absl::StrFormat("%.2f bytes", bytes), "<= 16", bytes <= 16);
  }

  static uint64_t RoomBytes() {
    struct statvfs room = {};
    if (statvfs("/dev/shm", &room) != 0) return 0;
    return uint64_t{room.f_blocks} * room.f_frsize;
  }

  void Figures(const std::vector<std::vector<Measured>>& figures) {
    for (size_t i = 0; i < figures.size(); ++i) {
      std::printf("\n%s:\n", FormatByteSize(sizes_[i]).c_str());
      report_.Figures(figures[i]);
    }
  }

  const std::vector<size_t> sizes_;
  const std::vector<size_t> live_most_;
  Report report_;
};

bool ParseSizes(const char* flag, const std::string& text, std::vector<size_t>* sizes) {
  for (const auto part : absl::StrSplit(text, ',')) {
    uint64_t size = 0;
    if (!absl::SimpleAtoi(part, &size) || size < 64 || size > 32 << 20) {
      std::fprintf(stderr, "--%s=%s: sizes of 64 bytes to 32 MiB, separated by commas\n", flag,
                   text.c_str());
      return false;
    }
    sizes->push_back(size);
  }
  return true;
}

}  // namespace
}  // namespace handoff

int main(int argc, char** argv) {
  gflags::SetUsageMessage("Compares the segment heap with other allocators.");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  std::vector<size_t> sizes;
  std::vector<size_t> live_most;
  if (!handoff::ParseSizes("sizes", FLAGS_sizes, &sizes) ||
      !handoff::ParseSizes("live_most", FLAGS_live_most, &live_most)) {
    return 2;
  }
  if (FLAGS_rounds < 1 || FLAGS_rounds > 10'000 || FLAGS_burst_us < 1 || FLAGS_burst_us > 100'000 ||
      FLAGS_segment_mib < 8 || FLAGS_segment_mib > 65'536 || FLAGS_live_blocks < 1 ||
      FLAGS_live_blocks > 1'000'000 || FLAGS_reclaim_blocks < 1 ||
      FLAGS_reclaim_blocks > 10'000'000) {
    std::fprintf(stderr, "a flag is out of range; see --help\n");
    return 2;
  }
  return handoff::Program(std::move(sizes), std::move(live_most)).Run();
}

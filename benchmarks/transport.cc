// SPDX-License-Identifier: Apache-2.0
// What a message costs on its way from one process to another, beside the least that it could cost.
//
//   ./bazelw run --config=opt //benchmarks:transport
//
// Prints Markdown: a table of ratios with their targets, each between two contenders that took
// turns burst by burst on two pinned cores, and below it the absolute figures. docs/performance.md
// says how to read it.
#include <gflags/gflags.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/byte_size.h"
#include "base/check.h"
#include "benchmarks/baselines.h"
#include "benchmarks/contenders.h"
#include "benchmarks/harness/comparison.h"
#include "benchmarks/harness/report.h"

DEFINE_int32(rounds, 100, "How many bursts of each contender, 1 to 10000.");
DEFINE_int32(burst_us, 1000, "How long a burst takes, in microseconds, 1 to 100000.");
DEFINE_string(sizes, "64,1024,65536,1048576,67108864",
              "Sizes of messages, in bytes, separated by commas; the first is the one that others "
              "are compared with.");
DEFINE_uint64(segment_mib, 2048, "Size of each session's segment, in MiB: 4 to 65536.");
DEFINE_string(only, "",
              "Run the parts with this in their name: one-way, read, parts, round trip, "
              "publish.");

namespace handoff {
namespace {

ComparisonOptions Options() {
  return {.rounds = FLAGS_rounds, .burst = absl::Microseconds(FLAGS_burst_us)};
}

ChannelOptions ChannelOf(CarrierKind carrier, size_t size_bytes) {
  const uint64_t segment_bytes = FLAGS_segment_mib << 20;
  return {.carrier = carrier,
          .size_bytes = size_bytes,
          .segment_bytes = segment_bytes,
          .most_bytes_under_way = segment_bytes / 2};
}

class Program {
 public:
  explicit Program(std::vector<size_t> sizes) : sizes_(std::move(sizes)) {}

  int Run() {
    OneWayUnread();
    OneWayRead();
    Parts();
    RoundTrips();
    Publish();
    std::printf("\n%d met, %d not met\n", report_.met(), report_.missed());
    return 0;
  }

 private:
  // Whether this part is wanted; then its title is printed.
  bool Begin(std::string_view title) {
    if (title.find(FLAGS_only) == std::string_view::npos) return false;
    report_.Begin(title);
    return true;
  }

  void OneWayUnread() {
    if (!Begin("one-way, payload not read")) return;
    std::vector<std::vector<Measured>> figures;
    report_.Head();
    for (const size_t size : sizes_) {
      std::vector<Contender> contenders = {
          OneWay(ChannelOf(CarrierKind::kRing, size), Payload::kUntouched), BareRingOneWay(),
          LapRingOneWay(), OneWay(ChannelOf(CarrierKind::kZeromq, size), Payload::kUntouched),
          LibzmqOneWay()};
      if (size == sizes_.front()) {
        contenders.push_back(MessageQueueOneWay());
      } else {
        Contender first =
            OneWay(ChannelOf(CarrierKind::kRing, sizes_.front()), Payload::kUntouched);
        first.name = "ring, first size";
        contenders.push_back(first);
      }
      const auto all = Compare(contenders, Options());
      const std::string bytes = FormatByteSize(size);
      const Measured& ring = Report::Find(all, "ring");
      const Measured& zeromq = Report::Find(all, "ZeroMQ carrier");
      report_.AtLeast(absl::StrCat(bytes, ": ring / bare ring"), ring,
                      Report::Find(all, "bare ring"), 1 / 2.5);
      report_.AtLeast(absl::StrCat(bytes, ": ring / ZeroMQ carrier"), ring, zeromq, 10);
      report_.AtLeast(absl::StrCat(bytes, ": ZeroMQ carrier / libzmq"), zeromq,
                      Report::Find(all, "libzmq, 56 bytes"), 0.8);
      if (size == sizes_.front()) {
        report_.AtLeast(absl::StrCat(bytes, ": ring / Boost message_queue"), ring,
                        Report::Find(all, "Boost message_queue, 56 bytes"), 10);
      } else {
        report_.AtMost(absl::StrCat("ring, ", bytes, " / ", FormatByteSize(sizes_.front())), ring,
                       Report::Find(all, "ring, first size"), 1.2);
      }
      figures.push_back(all);
    }
    Figures(sizes_, figures);
  }

  void OneWayRead() {
    if (!Begin("one-way, payload written and read")) return;
    std::vector<std::vector<Measured>> figures;
    for (const size_t size : sizes_) {
      figures.push_back(Compare({OneWay(ChannelOf(CarrierKind::kRing, size), Payload::kRead),
                                 OneWay(ChannelOf(CarrierKind::kZeromq, size), Payload::kRead)},
                                Options()));
    }
    Figures(sizes_, figures);
  }

  void Parts() {
    if (!Begin("parts")) return;
    constexpr uint32_t kParts = 16;
    const auto all = Compare({PartsOneWay(ChannelOf(CarrierKind::kRing, sizes_.front()), kParts),
                              PartsOneWay(ChannelOf(CarrierKind::kZeromq, sizes_.front()), kParts)},
                             Options());
    report_.Head();
    report_.AtLeast(absl::StrCat(kParts, " parts: ring / ZeroMQ carrier"), all[0], all[1], 10);
    Figures({sizes_.front()}, {all});
  }

  void RoundTrips() {
    if (!Begin("round trip")) return;
    ChannelOptions awake = ChannelOf(CarrierKind::kRing, sizes_.front());
    awake.spin = absl::Seconds(1);
    ChannelOptions asleep = awake;
    asleep.spin = absl::ZeroDuration();
    const auto all = Compare(
        {RoundTrip(awake), BareRingRoundTrip(), RoundTrip(asleep), FutexRoundTrip()}, Options());
    report_.Head();
    report_.LatencyAtMost("awake: ring / bare rings", all[0], all[1], 2);
    report_.LatencyAtMost("asleep: ring / futex", all[2], all[3], 1.25);
    Figures({sizes_.front()}, {all});
  }

  void Publish() {
    if (!Begin("publish")) return;
    constexpr uint32_t kSubscribers = 8;
    const ChannelOptions options = ChannelOf(CarrierKind::kRing, sizes_.front());
    const auto all = Compare({PublishTo(options, kSubscribers), PublishTo(options, 1),
                              OneWay(options, Payload::kUntouched)},
                             Options());
    report_.Head();
    report_.AtMost(absl::StrCat("one of ", kSubscribers, " subscribers / plain send"), all[0],
                   all[2], 2);
    Figures({sizes_.front()}, {all});
  }

  void Figures(const std::vector<size_t>& sizes,
               const std::vector<std::vector<Measured>>& figures) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      std::printf("\n%s:\n", FormatByteSize(sizes[i]).c_str());
      report_.Figures(figures[i]);
    }
  }

  const std::vector<size_t> sizes_;
  Report report_;
};

}  // namespace
}  // namespace handoff

int main(int argc, char** argv) {
  gflags::SetUsageMessage("Compares the transport with the least that it could cost.");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  std::vector<size_t> sizes;
  for (const auto text : absl::StrSplit(FLAGS_sizes, ',')) {
    uint64_t size = 0;
    if (!absl::SimpleAtoi(text, &size) || size == 0) {
      std::fprintf(stderr, "--sizes=%s: sizes in bytes, separated by commas\n",
                   FLAGS_sizes.c_str());
      return 2;
    }
    sizes.push_back(size);
  }
  if (FLAGS_rounds < 1 || FLAGS_rounds > 10'000 || FLAGS_burst_us < 1 || FLAGS_burst_us > 100'000 ||
      FLAGS_segment_mib < 4 || FLAGS_segment_mib > 65'536) {
    std::fprintf(stderr, "--rounds, --burst_us or --segment_mib out of range; see --help\n");
    return 2;
  }
  return handoff::Program(std::move(sizes)).Run();
}

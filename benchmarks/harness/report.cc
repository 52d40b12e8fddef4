// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/report.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace handoff {

namespace {

constexpr Placement kPlacements[] = {Placement::kNear, Placement::kFar};

std::string Nanoseconds(double ns) {
  if (ns < 100) return absl::StrFormat("%.1f ns", ns);
  if (ns < 10'000) return absl::StrFormat("%.0f ns", ns);
  return absl::StrFormat("%.1f us", ns / 1000);
}

void Print(const std::string& line) {
  std::fputs(line.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace

void Report::Begin(std::string_view title) { Print(absl::StrFormat("\n### %s\n\n", title)); }

void Report::Head() {
  Print(
      "| what | placement | ours | baseline | ratio | target | |\n| --- | --- | ---: | ---: | ---: "
      "| --- | --- |\n");
}

void Report::Row(std::string_view what, std::string_view placement, std::string_view ours,
                 std::string_view base, std::string_view ratio, std::string_view target, bool met) {
  const bool judged = !target.empty();
  if (judged) ++(met ? met_ : missed_);
  Print(absl::StrFormat("| %s | %s | %s | %s | %s | %s | %s |\n", what, placement, ours, base,
                        ratio, target,
                        !judged ? ""
                        : met   ? "met"
                                : "NOT MET"));
}

void Report::Line(std::string_view what, std::string_view placement, const Samples& ours,
                  const Samples& base, Target kind, double target) {
  const auto our_median = ours.Median(least_bursts_);
  const auto base_median = base.Median(least_bursts_);
  if (!our_median.has_value() || !base_median.has_value()) return;
  const bool at_most = kind == Target::kAtMost;
  const double ratio = at_most ? *our_median / *base_median : *base_median / *our_median;
  const std::string wanted = kind == Target::kNone ? std::string()
                             : at_most             ? absl::StrFormat("<= %.3g", target)
                                                   : absl::StrFormat(">= %.3g", target);
  Row(what, placement, Nanoseconds(*our_median), Nanoseconds(*base_median),
      absl::StrFormat("%.2f", ratio), wanted, at_most ? ratio <= target : ratio >= target);
}

void Report::Compare(std::string_view what, const Measured& ours, const Measured& base, Target kind,
                     double target) {
  for (const Placement placement : kPlacements) {
    Line(what, PlacementName(placement), ours.MessageNs(placement), base.MessageNs(placement), kind,
         target);
  }
}

void Report::Note(std::string_view what, const Measured& ours, const Measured& base) {
  Compare(what, ours, base, Target::kNone, 0);
}

void Report::AtLeast(std::string_view what, const Samples& ours, const Samples& base,
                     double target) {
  Line(what, "", ours, base, Target::kAtLeast, target);
}

void Report::Note(std::string_view what, const Samples& ours, const Samples& base) {
  Line(what, "", ours, base, Target::kNone, 0);
}

void Report::NanosecondsAtMost(std::string_view what, const Measured& ours, double limit) {
  for (const Placement placement : kPlacements) {
    const auto median = ours.MessageNs(placement).Median(least_bursts_);
    if (!median.has_value()) continue;
    Row(what, PlacementName(placement), Nanoseconds(*median), "", "", "<= " + Nanoseconds(limit),
        *median <= limit);
  }
}

void Report::MillisecondsAtMost(std::string_view what, const Samples& ours, double limit) {
  const auto median = ours.Median();
  if (!median.has_value()) return;
  Row(absl::StrFormat("%s (p90 %.3f ms, worst %.3f ms of %d)", what, *ours.Percentile(0.9),
                      *ours.Percentile(1), ours.count()),
      "", absl::StrFormat("%.3f ms", *median), "", "", absl::StrFormat("<= %.3g ms", limit),
      *median <= limit);
}

void Report::Fact(std::string_view what, std::string_view value, std::string_view target,
                  bool met) {
  Row(what, "", value, "", "", target, met);
}

void Report::LatencyAtMost(std::string_view what, const Measured& ours, const Measured& base,
                           double target) {
  for (const Placement placement : kPlacements) {
    Line(what, PlacementName(placement), ours.LatencyNs(placement), base.LatencyNs(placement),
         Target::kAtMost, target);
  }
}

void Report::Figures(const std::vector<Measured>& all) {
  for (const Measured& one : all) {
    for (const Placement placement : kPlacements) {
      const Samples& message_ns = one.MessageNs(placement);
      const auto median = message_ns.Median(least_bursts_);
      if (!median.has_value()) continue;
      std::string line = absl::StrFormat(
          "- %s, %s (line there and back %s): %s, %.3g M/s; bursts of %d: %d used, %d preempted, "
          "%d moved",
          one.name, PlacementName(placement),
          Nanoseconds(one.probe_ns[static_cast<size_t>(placement)].Median().value_or(0)),
          Nanoseconds(*median), 1000 / *median, one.messages, message_ns.count(), one.preempted,
          one.moved);
      const Samples& latency_ns = one.LatencyNs(placement);
      if (latency_ns.count() > 0) {
        absl::StrAppendFormat(
            &line, "; median %s, p99 %s, p99.9 %s", Nanoseconds(*latency_ns.Percentile(0.5)),
            Nanoseconds(*latency_ns.Percentile(0.99)), Nanoseconds(*latency_ns.Percentile(0.999)));
      }
      Print(line + "\n");
    }
  }
}

const Measured& Report::Find(const std::vector<Measured>& all, std::string_view name) {
  for (const Measured& one : all) {
    if (one.name == name) return one;
  }
  HANDOFF_CHECK(false) << "no contender " << name;
  __builtin_unreachable();
}

}  // namespace handoff

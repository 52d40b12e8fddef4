// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HARNESS_REPORT_H_
#define HANDOFF_BENCHMARKS_HARNESS_REPORT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/harness/comparison.h"
#include "benchmarks/harness/placement.h"

namespace handoff {

// Lines of a table, and whether each has reached its target. Printed as they come, in Markdown.
class Report {
 public:
  // Fewer bursts of a placement are no measurement.
  explicit Report(size_t least_bursts = 5) : least_bursts_(least_bursts) {}

  // Prints what the next lines are about.
  void Begin(std::string_view title);
  // Prints the head of the table, before the first of its lines.
  void Head();

  // One line for each placement in which both were measured: the medians of both, `base` divided by
  // `ours`, and what that must be at least. 10: ten times as fast; 0.4: 2.5 times slower at most.
  void AtLeast(std::string_view what, const Measured& ours, const Measured& base, double target) {
    Compare(what, ours, base, Target::kAtLeast, target);
  }
  // The same, with `ours` divided by `base`, and what that may be at most.
  void AtMost(std::string_view what, const Measured& ours, const Measured& base, double target) {
    Compare(what, ours, base, Target::kAtMost, target);
  }
  // The same, without a target: how many times as long `base` takes.
  void Note(std::string_view what, const Measured& ours, const Measured& base);
  // What one process did: of samples in nanoseconds, of no placement.
  void AtLeast(std::string_view what, const Samples& ours, const Samples& base, double target);
  void Note(std::string_view what, const Samples& ours, const Samples& base);
  // The median itself, in nanoseconds for a message, or of samples in milliseconds.
  void NanosecondsAtMost(std::string_view what, const Measured& ours, double limit);
  void MillisecondsAtMost(std::string_view what, const Samples& ours, double limit);
  // What is no time.
  void Fact(std::string_view what, std::string_view value, std::string_view target, bool met);

  // Counts the medians of what side A has noted, not of bursts.
  void LatencyAtMost(std::string_view what, const Measured& ours, const Measured& base,
                     double target);

  // Absolute figures of all, for each placement: nanoseconds for a message, how many a second, the
  // bursts that were used and dropped; of latencies the median, p99 and p99.9.
  void Figures(const std::vector<Measured>& all);

  // The one with this name, which must be there.
  static const Measured& Find(const std::vector<Measured>& all, std::string_view name);

  int met() const { return met_; }
  int missed() const { return missed_; }

 private:
  // What the ratio has to be.
  enum class Target { kAtLeast, kAtMost, kNone };

  void Compare(std::string_view what, const Measured& ours, const Measured& base, Target kind,
               double target);
  void Line(std::string_view what, std::string_view placement, const Samples& ours,
            const Samples& base, Target kind, double target);
  void Row(std::string_view what, std::string_view placement, std::string_view ours,
           std::string_view base, std::string_view ratio, std::string_view target, bool met);

  const size_t least_bursts_;
  int met_ = 0;
  int missed_ = 0;
};

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HARNESS_REPORT_H_

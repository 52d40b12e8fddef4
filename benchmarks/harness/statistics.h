// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HARNESS_STATISTICS_H_
#define HANDOFF_BENCHMARKS_HARNESS_STATISTICS_H_

#include <cstddef>
#include <optional>
#include <vector>

namespace handoff {

// Some measured values, in the order in which they came.
class Samples {
 public:
  void Add(double value) { values_.push_back(value); }
  void Add(const std::vector<double>& values) {
    values_.insert(values_.end(), values.begin(), values.end());
  }

  size_t count() const { return values_.size(); }

  // The smallest value that at least this share (0 to 1) of all do not exceed. Nothing if there are
  // fewer than `least` values: a percentile of a handful says nothing.
  std::optional<double> Percentile(double share, size_t least = 1) const;
  std::optional<double> Median(size_t least = 1) const { return Percentile(0.5, least); }

 private:
  std::vector<double> values_;
};

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HARNESS_STATISTICS_H_

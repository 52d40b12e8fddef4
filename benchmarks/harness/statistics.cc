// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/statistics.h"

#include <algorithm>
#include <cmath>

namespace handoff {

std::optional<double> Samples::Percentile(double share, size_t least) const {
  if (values_.empty() || values_.size() < least) return std::nullopt;
  std::vector<double> values = values_;
  const double count = static_cast<double>(values.size());
  const auto rank = static_cast<size_t>(std::ceil(std::clamp(share, 0.0, 1.0) * count));
  const auto nth = values.begin() + static_cast<ptrdiff_t>(rank == 0 ? 0 : rank - 1);
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

}  // namespace handoff

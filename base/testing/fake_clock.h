// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_TESTING_FAKE_CLOCK_H_
#define HANDOFF_BASE_TESTING_FAKE_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"

namespace handoff {

// Stands still until a test moves it. Any thread.
class FakeClock final : public Clock {
 public:
  int64_t NowNanoseconds() const override { return nanoseconds_.load(std::memory_order_acquire); }

  // `step` is not negative.
  void Advance(absl::Duration step) {
    nanoseconds_.fetch_add(absl::ToInt64Nanoseconds(step), std::memory_order_acq_rel);
  }

 private:
  std::atomic<int64_t> nanoseconds_{1'000'000'000};
};

}  // namespace handoff

#endif  // HANDOFF_BASE_TESTING_FAKE_CLOCK_H_

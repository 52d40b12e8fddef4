// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_TESTING_WAIT_FOR_H_
#define HANDOFF_BASE_TESTING_WAIT_FOR_H_

#include <concepts>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace handoff {

// Asks `predicate` every millisecond until it holds (true) or `limit` has passed (false). The limit
// is there to end a test that has failed, so it is generous.
//
//   ASSERT_TRUE(WaitFor([&] { return ring.IsEmpty(); }));
[[nodiscard]] bool WaitFor(std::predicate auto predicate,
                           absl::Duration limit = absl::Seconds(20)) {
  const Deadline deadline = Deadline::After(limit);
  while (!predicate()) {
    if (deadline.expired()) return predicate();
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace handoff

#endif  // HANDOFF_BASE_TESTING_WAIT_FOR_H_

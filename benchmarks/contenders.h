// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_CONTENDERS_H_
#define HANDOFF_BENCHMARKS_CONTENDERS_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "benchmarks/harness/comparison.h"

namespace handoff {

enum class CarrierKind { kRing, kZeromq };

// What of the payload is touched.
enum class Payload {
  kUntouched,
  kRead,  // the sender writes all of it, the receiver reads all of it
};

struct ChannelOptions {
  CarrierKind carrier = CarrierKind::kRing;
  size_t size_bytes = 64;
  uint64_t segment_bytes = uint64_t{2} << 30;
  // At most so many bytes are under way: large messages get a smaller capacity than the default.
  uint64_t most_bytes_under_way = uint64_t{1} << 30;
  absl::Duration spin = absl::Microseconds(30);
};

// This transport at work, each contender in a session of its own. Sender and receiver (side A and
// B) do all that a program does: allocate, send, receive, release.

// One-way.
Contender OneWay(const ChannelOptions& options, Payload payload);
// One-way, messages of `parts` parts of `size_bytes` each; counts messages.
Contender PartsOneWay(const ChannelOptions& options, uint32_t parts);
// To so many subscribers, all of them on side B; counts what each of them receives.
Contender PublishTo(const ChannelOptions& options, uint32_t subscribers);
// There and back, with the time of each.
Contender RoundTrip(const ChannelOptions& options);

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_CONTENDERS_H_

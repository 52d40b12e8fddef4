// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ZEROMQ_CARRIER_H_
#define HANDOFF_TRANSPORT_ZEROMQ_CARRIER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "transport/carrier.h"
#include "transport/zeromq_context.h"

namespace handoff::internal {

// The carrier of ipc://, tcp:// and inproc://: a message, of whatever many parts, is one ZeroMQ
// frame that is a handle. `zeromq` outlives it. kInvalidArgument: a pattern that only rings serve.
// kResourceExhausted: no descriptors left.
absl::StatusOr<std::unique_ptr<Carrier>> MakeZeromqCarrier(const CarrierContext& context,
                                                           ZeromqContext& zeromq);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_ZEROMQ_CARRIER_H_

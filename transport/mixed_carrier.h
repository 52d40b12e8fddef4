// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_MIXED_CARRIER_H_
#define HANDOFF_TRANSPORT_MIXED_CARRIER_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/carrier.h"

namespace handoff::internal {

// Whether a socket of this pattern can have addresses of rings and of ZeroMQ: kInvalidArgument says
// why not. PUSH, PULL, REQUEST and REPLY can.
absl::Status CheckMixed(Pattern pattern);

// Both carriers of a socket that has addresses of both kinds; they outlive it and are attached to
// their addresses by the socket itself. Sends to the peers of both in turn, receives from both in
// turn, replies where the request came from. Waits by the descriptors of both, so a message over a
// ring wakes it later than a socket that has rings alone. kResourceExhausted: no descriptors left.
absl::StatusOr<std::unique_ptr<Carrier>> MakeMixedCarrier(const CarrierContext& context,
                                                          Carrier& ring, Carrier& zeromq);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_MIXED_CARRIER_H_

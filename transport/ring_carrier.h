// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_RING_CARRIER_H_
#define HANDOFF_TRANSPORT_RING_CARRIER_H_

#include <memory>

#include "transport/carrier.h"

namespace handoff::internal {

// The carrier of ring://name: handles go through rings in shared memory, one for each pair of
// sockets. A name is 1 to kMaxEndpointNameBytes bytes; one socket binds it, any number connects, in
// any order.
std::unique_ptr<Carrier> MakeRingCarrier(const CarrierContext& context);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_RING_CARRIER_H_

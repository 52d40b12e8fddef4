// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ADDRESS_H_
#define HANDOFF_TRANSPORT_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace handoff {

// What comes before "://" in an address. It chooses the carrier.
enum class Scheme {
  kRing,    // ring://name: a ring in shared memory
  kIpc,     // ipc://path: ZeroMQ over a Unix socket; ipc://@name: over an abstract one
  kTcp,     // tcp://host:port: ZeroMQ; a bind may say * for either
  kInproc,  // inproc://name: ZeroMQ between sockets of one Transport
};

// Where a socket binds or connects.
struct Address {
  Scheme scheme;
  std::string text;   // all of it, as given
  std::string place;  // what comes behind "://", not empty

  // kInvalidArgument: names what is wrong and the valid schemes.
  static absl::StatusOr<Address> Parse(std::string_view text);
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_ADDRESS_H_

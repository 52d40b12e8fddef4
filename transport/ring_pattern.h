// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_RING_PATTERN_H_
#define HANDOFF_TRANSPORT_RING_PATTERN_H_

#include "transport/socket_options.h"

namespace handoff::internal {

// Which pattern a socket meets.
constexpr Pattern Counterpart(Pattern pattern) {
  switch (pattern) {
    case Pattern::kPush:
      return Pattern::kPull;
    case Pattern::kPull:
      return Pattern::kPush;
    case Pattern::kPair:
      return Pattern::kPair;
    case Pattern::kRequest:
      return Pattern::kReply;
    case Pattern::kReply:
      return Pattern::kRequest;
    case Pattern::kPublish:
      return Pattern::kSubscribe;
    case Pattern::kSubscribe:
      return Pattern::kPublish;
  }
  return pattern;
}

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_RING_PATTERN_H_

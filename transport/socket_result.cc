// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_result.h"

namespace handoff {

const char* DescribeSocketResult(SocketResult result) {
  switch (result) {
    case SocketResult::kOk:
      return "done";
    case SocketResult::kWouldBlock:
      return "would have to wait";
    case SocketResult::kTimedOut:
      return "timed out";
    case SocketResult::kInterrupted:
      return "interrupted";
    case SocketResult::kClosed:
      return "the socket is closed";
    case SocketResult::kNoAddress:
      return "the socket is neither bound nor connected";
    case SocketResult::kWrongPattern:
      return "the socket's pattern does not go this way";
    case SocketResult::kPartCount:
      return "too many parts, or none";
    case SocketResult::kForeignMessage:
      return "the message belongs to another transport";
    case SocketResult::kUnusable:
      return "this process is no member of the session any more";
  }
  return "unknown";
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_SOCKET_RESULT_H_
#define HANDOFF_TRANSPORT_SOCKET_RESULT_H_

namespace handoff {

// How a send or a receive ended. On everything but kOk a message that was to be sent is still the
// caller's, unchanged.
enum class [[nodiscard]] SocketResult{
    kOk,
    kWouldBlock,      // only of the try-variants: no room at any receiver, or nothing has come
    kTimedOut,        // the same until the deadline
    kInterrupted,     // Socket::Interrupt() or Transport::Interrupt()
    kClosed,          // the socket was closed
    kNoAddress,       // neither bound nor connected yet
    kWrongPattern,    // a socket of this pattern does not send, or does not receive
    kPartCount,       // of SendParts(): none or more than kMaxParts
    kForeignMessage,  // the message belongs to another Transport
    kUnusable,  // in a forked child, or this member was declared dead: Transport::Usable() says
};

// What a socket could do at a moment.
struct Readiness {
  bool receive = false;  // something has come
  bool send = false;     // a receiver has room; of a publisher: nobody has to be waited for

  bool any() const { return receive || send; }
};

// For errors: a few words, static.
const char* DescribeSocketResult(SocketResult result);

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_SOCKET_RESULT_H_

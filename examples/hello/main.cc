// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstring>

#include "transport/transport.h"

int main(int argc, char**) {
  auto transport = handoff::Transport::Open({.session = "hello"});
  if (!transport.ok()) return std::fputs(transport.status().ToString().c_str(), stderr), 1;
  const auto deadline = handoff::Deadline::After(absl::Seconds(10));
  if (argc > 1) {  // with an argument: send
    auto socket = *(*transport)->CreateSocket(handoff::Pattern::kPush);
    if (!socket->Connect("ring://hello").ok()) return 1;
    auto message = *(*transport)->Allocate(1 << 20);
    std::strcpy(reinterpret_cast<char*>(message.mutable_bytes().data()),
                "no copy of this was made");
    return socket->Send(std::move(message), deadline) == handoff::SocketResult::kOk ? 0 : 1;
  }
  auto socket = *(*transport)->CreateSocket(handoff::Pattern::kPull);
  if (!socket->Bind("ring://hello").ok()) return 1;
  handoff::Message message;
  if (socket->Receive(&message, deadline) != handoff::SocketResult::kOk) return 1;
  std::puts(reinterpret_cast<const char*>(message.data()));
}

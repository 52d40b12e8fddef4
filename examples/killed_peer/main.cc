// SPDX-License-Identifier: Apache-2.0
// A receiver is killed: what it had not taken goes to another, and its memory comes back.
#include <signal.h>
#include <unistd.h>

#include "examples/support/example.h"

namespace handoff::example {

void Sender(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPush));
  Must(socket->Bind("ring://work"));
  AwaitPeers(*socket, 2);
  // Two for each receiver.
  for (int i = 1; i <= 4; ++i) Must(socket->Send(MakeText(*transport, "frame"), Soon()));
  AwaitPeers(*socket, 0);  // one was killed, the other has received all it can
  std::printf("%lu blocks are in use\n",
              static_cast<unsigned long>(transport->Usage().used_blocks));
}

void Doomed(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPull));
  Must(socket->Connect("ring://work"));
  Message message;
  Must(socket->Receive(&message, Soon()));
  std::printf("one receiver is killed with a %s in its hands\n", Text(message).c_str());
  kill(getpid(), SIGKILL);
}

void Survivor(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPull));
  Must(socket->Connect("ring://work"));
  Message message;
  for (int i = 0; i < 3; ++i) Must(socket->Receive(&message, Soon()));
  std::printf("the other has received 3 of 4\n");
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Sender, Doomed, Survivor});
}

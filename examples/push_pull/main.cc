// SPDX-License-Identifier: Apache-2.0
// PUSH and PULL: work is dealt out in turn to the receivers that have room.
#include "examples/support/example.h"

namespace handoff::example {

void Dealer(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPush));
  Must(socket->Bind("ring://work"));
  AwaitPeers(*socket, 2);  // else the first to come gets all
  for (int i = 0; i < 6; ++i) {
    Must(socket->Send(MakeText(*transport, "frame " + std::to_string(i)), Soon()));
  }
  // A message without bytes is a message, too: here it says that there is no more work.
  for (int i = 0; i < 2; ++i) Must(socket->Send(Message(), Soon()));
}

void Worker(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPull));
  Must(socket->Connect("ring://work"));
  int frames = 0;
  for (Message message;; ++frames) {
    Must(socket->Receive(&message, Soon()));
    if (message.empty()) break;
  }
  std::printf("a worker has received %d frames\n", frames);
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Dealer, Worker, Worker});
}

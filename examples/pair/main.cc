// SPDX-License-Identifier: Apache-2.0
// PAIR: two processes that talk to each other, and to nobody else.
#include "examples/support/example.h"

namespace handoff::example {

void Left(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPair));
  Must(socket->Bind("ring://table"));
  Must(socket->Send(MakeText(*transport, "ping"), Soon()));
  Message answer;
  Must(socket->Receive(&answer, Soon()));
  std::printf("left received %s\n", Text(answer).c_str());
}

void Right(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPair));
  Must(socket->Connect("ring://table"));  // before or after the other side's Bind()
  Message message;
  Must(socket->Receive(&message, Soon()));
  std::printf("right received %s\n", Text(message).c_str());
  // The message is ours now: changed in place, and sent back without a copy.
  message.mutable_bytes()[1] = std::byte{'o'};
  Must(socket->Send(std::move(message), Soon()));
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Left, Right});
}

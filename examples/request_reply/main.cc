// SPDX-License-Identifier: Apache-2.0
// REQUEST and REPLY: any number of clients ask one server; each reply goes to who has asked.
#include "examples/support/example.h"

namespace handoff::example {

constexpr int kClients = 2;
constexpr int kRequests = 3;

void Server(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kReply));
  Must(socket->Bind("ring://squares"));
  for (int i = 0; i < kClients * kRequests; ++i) {
    Message message;
    Must(socket->Receive(&message, Soon()));
    const int number = std::stoi(Text(message));
    Must(socket->Send(MakeText(*transport, std::to_string(number * number)), Soon()));
  }
}

void Client(const std::string& session, int first) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kRequest));
  Must(socket->Connect("ring://squares"));
  for (int number = first; number < first + kRequests; ++number) {
    Must(socket->Send(MakeText(*transport, std::to_string(number)), Soon()));
    Message reply;
    Must(socket->Receive(&reply, Soon()));
    std::printf("the square of %d is %s\n", number, Text(reply).c_str());
  }
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Server, [](const std::string& session) { Client(session, 1); },
                      [](const std::string& session) { Client(session, 10); }});
}

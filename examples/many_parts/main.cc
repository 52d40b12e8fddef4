// SPDX-License-Identifier: Apache-2.0
// Many parts: a list of messages that travels as one. All of it arrives, or nothing.
#include <vector>

#include "examples/support/example.h"

namespace handoff::example {

void Sender(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPush));
  Must(socket->Bind("ring://events"));
  std::vector<Message> parts;
  parts.push_back(MakeText(*transport, "event 7"));
  parts.push_back(Must(transport->Allocate(1 << 20)));  // each where it was written, of any size
  parts.push_back(Must(transport->Allocate(100)));
  Must(socket->SendParts(parts, Soon()));
}

void Receiver(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPull));
  Must(socket->Connect("ring://events"));
  std::vector<Message> parts;
  Must(socket->ReceiveParts(&parts, Soon()));
  std::printf("%s has %zu parts, of", Text(parts[0]).c_str(), parts.size());
  for (const Message& part : parts) std::printf(" %zu", part.size());
  std::printf(" bytes\n");
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Sender, Receiver});
}

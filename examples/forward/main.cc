// SPDX-License-Identifier: Apache-2.0
// Forwarding: what came over one carrier goes on over another, and stays where it was written.
#include "examples/support/example.h"

namespace handoff::example {

std::string IpcAddress(const std::string& session) { return "ipc://@" + session; }

void Source(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPush));
  Must(socket->Bind("ring://raw"));
  Message message = Must(transport->Allocate(1 << 20));
  const uint64_t offset = message.segment_offset();
  std::memcpy(message.mutable_bytes().data(), &offset, sizeof(offset));
  Must(socket->Send(std::move(message), Soon()));
}

void Forwarder(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto in = Must(transport->CreateSocket(Pattern::kPull));
  auto out = Must(transport->CreateSocket(Pattern::kPush));
  Must(in->Connect("ring://raw"));
  Must(out->Connect(IpcAddress(session)));
  Message message;
  Must(in->Receive(&message, Soon()));
  Must(out->Send(std::move(message), Soon()));
}

void Sink(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPull));
  Must(socket->Bind(IpcAddress(session)));
  Message message;
  Must(socket->Receive(&message, Soon()));
  uint64_t written_at = 0;
  std::memcpy(&written_at, message.data(), sizeof(written_at));
  std::printf("%zu bytes came through two carriers, %s\n", message.size(),
              message.segment_offset() == written_at ? "and were not copied" : "and were copied");
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Source, Forwarder, Sink});
}

// SPDX-License-Identifier: Apache-2.0
// Poller: one wait for sockets of different carriers and for a descriptor of the system.
#include <unistd.h>

#include "examples/support/example.h"
#include "transport/poller.h"

namespace handoff::example {

std::string IpcAddress(const std::string& session) { return "ipc://@" + session; }

void Sender(const std::string& session, const std::string& address) {
  auto transport = Must(Transport::Open({.session = session}));
  auto socket = Must(transport->CreateSocket(Pattern::kPush));
  Must(socket->Connect(address));
  Must(socket->Send(MakeText(*transport, "something"), Soon()));
}

void Watcher(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto ring = Must(transport->CreateSocket(Pattern::kPull));
  auto zeromq = Must(transport->CreateSocket(Pattern::kPull));
  Must(ring->Bind("ring://in"));
  Must(zeromq->Bind(IpcAddress(session)));
  int line[2];
  if (pipe(line) != 0 || write(line[1], "something", 9) != 9) Fail("no pipe");

  auto poller = Must(Poller::Create());
  PollItem items[] = {{.socket = ring.get()}, {.socket = zeromq.get()}, {.fd = line[0]}};
  for (int arrived = 0; arrived < 3;) {
    Must(poller->Wait(items, Soon()));
    Message message;
    if (items[0].ready.receive && ring->TryReceive(&message) == SocketResult::kOk) {
      std::printf("%s by a ring\n", Text(message).c_str());
      ++arrived;
    }
    if (items[1].ready.receive && zeromq->TryReceive(&message) == SocketResult::kOk) {
      std::printf("%s by ZeroMQ\n", Text(message).c_str());
      ++arrived;
    }
    if (items[2].ready.receive) {
      char text[10] = {};
      if (read(line[0], text, 9) == 9) std::printf("%s by a pipe\n", text);
      ++arrived;
    }
  }
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Watcher, [](const std::string& s) { Sender(s, "ring://in"); },
                      [](const std::string& s) { Sender(s, IpcAddress(s)); }});
}

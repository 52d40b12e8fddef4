// SPDX-License-Identifier: Apache-2.0
// PUBLISH and SUBSCRIBE: each subscriber says which messages it wants, by their first bytes, how
// many may wait for it, and what happens when that many do.
#include "examples/support/example.h"

namespace handoff::example {

void Publisher(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto news = Must(transport->CreateSocket(Pattern::kPublish));
  auto over = Must(transport->CreateSocket(Pattern::kPublish));
  Must(news->Bind("ring://news"));
  Must(over->Bind("ring://over"));
  AwaitPeers(*news, 3);
  AwaitPeers(*over, 3);
  for (int hour = 1; hour <= 5; ++hour) {
    Must(news->Send(MakeText(*transport, "wind " + std::to_string(hour)), Soon()));
    Must(news->Send(MakeText(*transport, "rain " + std::to_string(hour)), Soon()));
  }
  Must(over->Send(Message(), Soon()));
}

void Subscriber(const std::string& session, const std::string& name, const SocketOptions& options) {
  auto transport = Must(Transport::Open({.session = session}));
  auto news = Must(transport->CreateSocket(Pattern::kSubscribe, options));
  auto over = Must(transport->CreateSocket(Pattern::kSubscribe));
  Must(news->Connect("ring://news"));
  Must(over->Connect("ring://over"));
  Message message;
  Must(over->Receive(&message, Soon()));  // slow: looks when all has been published
  std::string all;
  while (news->TryReceive(&message) == SocketResult::kOk) all += ", " + Text(message);
  std::printf("%s: %s\n", name.c_str(), all.substr(2).c_str());
}

}  // namespace handoff::example

int main() {
  using namespace handoff;
  using namespace handoff::example;
  // Has room for all it wants. With less the publisher would wait for it, since it blocks.
  const SocketOptions all = {
      .receive_high_water_mark = 5, .slow_policy = SlowPolicy::kBlock, .topics = {"rain"}};
  const SocketOptions newest = {.receive_high_water_mark = 2,
                                .slow_policy = SlowPolicy::kDropOldest};
  const SocketOptions oldest = {
      .receive_high_water_mark = 2, .slow_policy = SlowPolicy::kDropNewest, .topics = {"wind"}};
  return RunTogether({Publisher, [&](const std::string& s) { Subscriber(s, "all rain", all); },
                      [&](const std::string& s) { Subscriber(s, "newest of both", newest); },
                      [&](const std::string& s) { Subscriber(s, "oldest wind", oldest); }});
}

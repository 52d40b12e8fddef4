// SPDX-License-Identifier: Apache-2.0
// One to many: a message that is published to several lives once in memory. Each subscriber may
// keep its reference as long as it likes, and nobody may write the bytes.
#include "examples/support/example.h"

namespace handoff::example {

constexpr int kSubscribers = 3;

void Publisher(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto images = Must(transport->CreateSocket(Pattern::kPublish));
  auto kept = Must(transport->CreateSocket(Pattern::kPull));
  Must(images->Bind("ring://images"));
  Must(kept->Bind("ring://kept"));
  AwaitPeers(*images, kSubscribers);
  Message image = Must(transport->Allocate(8 << 20));
  Must(images->Send(std::move(image), Soon()));
  for (int i = 0; i < kSubscribers; ++i) {
    Message message;
    Must(kept->Receive(&message, Soon()));
  }
  std::printf("%d subscribers keep %lu block of 8 MiB\n", kSubscribers,
              static_cast<unsigned long>(transport->Usage().used_blocks));
  Must(images->Send(Message(), Soon()));
}

void Subscriber(const std::string& session) {
  auto transport = Must(Transport::Open({.session = session}));
  auto images = Must(transport->CreateSocket(Pattern::kSubscribe));
  auto kept = Must(transport->CreateSocket(Pattern::kPush));
  Must(kept->Connect("ring://kept"));
  Must(images->Connect("ring://images"));
  Message image;
  Must(images->Receive(&image, Soon()));
  // To be read, by bytes(). To write, mutable_bytes() would make a copy of our own.
  std::printf("a subscriber has %s image\n", image.shared() ? "a shared" : "its own");
  Must(kept->Send(Message(), Soon()));
  Message last;
  Must(images->Receive(&last, Soon()));
}

}  // namespace handoff::example

int main() {
  using namespace handoff::example;
  return RunTogether({Publisher, Subscriber, Subscriber, Subscriber});
}

// SPDX-License-Identifier: Apache-2.0
// Takes a frame, hands it to itself, and shows that nobody has copied it.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include "transport/transport.h"

int main() {
  auto transport = handoff::Transport::Open({.session = "camera"});
  if (!transport.ok()) return std::fputs(transport.status().ToString().c_str(), stderr), 1;
  auto camera = *(*transport)->CreateSocket(handoff::Pattern::kPush);
  auto screen = *(*transport)->CreateSocket(handoff::Pattern::kPull);
  if (!camera->Bind("ring://frames").ok() || !screen->Connect("ring://frames").ok()) return 1;

  const auto deadline = handoff::Deadline::After(absl::Seconds(10));
  handoff::Message frame = *(*transport)->Allocate(1920 * 1080 * 3, {.deadline = deadline});
  std::memset(frame.mutable_bytes().data(), 0x80, frame.size());
  const uint64_t written_at = frame.segment_offset();
  if (camera->Send(std::move(frame), deadline) != handoff::SocketResult::kOk) return 1;

  handoff::Message received;
  if (screen->Receive(&received, deadline) != handoff::SocketResult::kOk) return 1;
  std::printf("a frame of %zu bytes, %s\n", received.size(),
              received.segment_offset() == written_at ? "not copied" : "copied");
}

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_FRAME_H_
#define HANDOFF_TRANSPORT_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "allocator/member.h"
#include "allocator/part_name.h"
#include "transport/handle.h"
#include "transport/message.h"
#include "transport/socket_counters.h"

namespace handoff::internal {

// How one message travels where its receiver is not known: a frame that names the word it was
// posted under, whatever it is.
using Frame = HandleBytes;

// What a frame says besides the message.
struct FrameTag {
  uint16_t channel = 0;   // on which it was posted
  uint64_t exchange = 0;  // Handle::exchange
};

// `name` as posted by `member`.
Frame MakeFrame(const Member& member, const PartName& name, const FrameTag& tag);

// What a frame brought, and why it did not.
struct FrameContent {
  FrameTag tag;
  Message message;             // stays empty for a message of many parts
  std::vector<Message> parts;  // of that one, in order
  uint64_t size_bytes = 0;     // of all of it

  SocketCounters::Drop drop = SocketCounters::Drop::kBad;
  std::string reason;
};

// Takes over what a frame names, if it is one for `member` and nobody else was faster; `*content`
// has nothing of value before. `bytes` may be anything at all: false, with `drop` and `reason`,
// where they make no sense, and what they name belongs to who had it, or is freed where a sender
// lies about what it has given away.
[[nodiscard]] bool TakeFrame(Member& member, std::span<const std::byte> bytes,
                             FrameContent* content);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_FRAME_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_PARCEL_H_
#define HANDOFF_TRANSPORT_PARCEL_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/hold.h"
#include "allocator/member.h"
#include "allocator/part_name.h"
#include "allocator/segment.h"
#include "transport/message.h"

namespace handoff::internal {

// What a carrier carries, whatever it is, while this member holds it: a block, a reference, a
// bundle, or nothing at all. The generation in the name is that of the hold. A plain value: whoever
// has it must send or release it.
struct Parcel {
  PartName name;
  HoldWord hold;
};

// What is in a message, which is left empty.
Parcel TakeFrom(Message& message);
// The same, but the message keeps it.
Parcel ParcelOf(const Message& message);

// held -> sent(self -> receiver); returns the name under which it is published.
PartName Mark(Member& member, const Parcel& parcel, uint32_t receiver);
// held -> posted(self -> channel); the same.
PartName Post(Member& member, const Parcel& parcel, uint32_t channel);

// sent, or posted on `channel`, -> held. Nothing if the name is stale, forged, or larger than what
// it names.
std::optional<Parcel> Accept(Member& member, const PartName& name);
std::optional<Parcel> AcceptPosted(Member& member, const PartName& name, uint32_t channel);
// sent or posted -> held, unless somebody has accepted it.
std::optional<Parcel> TakeBack(Member& member, const PartName& name);

void Release(Member& member, const Parcel& parcel);

// The message of a block, a reference or nothing. False: it makes no sense, and was released.
bool Unwrap(Member& member, const Parcel& parcel, Message* message);

// Whether the message was made through this member; empty ones are everybody's.
inline bool IsOf(Member& member, const Message& message) {
  if (message.empty()) return true;
  if (message.shared()) return MessageAccess::member(message) == &member;
  Segment& segment = MessageAccess::segment(message);
  return member.SegmentAt(segment.row()) == &segment;
}

// The same for one that has a block to itself.
inline bool IsOwnBlock(const Member& member, const Message& message) {
  if (message.empty() || message.shared()) return false;
  const Segment& segment = MessageAccess::segment(message);
  return member.MappedSegmentAt(segment.row()) == &segment;
}

// A further message of the same bytes; `*message` is of this member. kResourceExhausted: no
// reference to be had; `*message` then still has the bytes.
absl::StatusOr<Message> ShareMessage(Member& member, Message* message);

// Makes one bundle of the parts, which are left empty; or leaves everything as it was:
// kResourceExhausted.
absl::Status Wrap(Member& member, std::span<Message> parts, Parcel* bundle);
// The parts of a bundle, in order. False: it was damaged, and what was left of it is released.
bool Unwrap(Member& member, const Parcel& bundle, std::vector<Message>* parts);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_PARCEL_H_

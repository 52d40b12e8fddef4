// SPDX-License-Identifier: Apache-2.0
#include "transport/frame.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "allocator/management_layout.h"
#include "allocator/segment.h"
#include "base/crash_point.h"
#include "transport/parcel.h"

namespace handoff::internal {

namespace {

static_assert(Handle::kMaxRow == PartName::kMaxRow);
static_assert(Handle::kMaxGeneration == HoldWord::kGenerationMask);
static_assert(Handle::kMaxChannel == HoldWord::kIdMask);

HandleKind KindOf(PartKind kind) {
  switch (kind) {
    case PartKind::kEmpty:
      return HandleKind::kEmpty;
    case PartKind::kBlock:
      return HandleKind::kBlock;
    case PartKind::kReference:
      return HandleKind::kReference;
    case PartKind::kBundle:
      return HandleKind::kBundle;
  }
  return HandleKind::kEmpty;
}

PartKind KindOf(HandleKind kind) {
  switch (kind) {
    case HandleKind::kEmpty:
      return PartKind::kEmpty;
    case HandleKind::kBlock:
      return PartKind::kBlock;
    case HandleKind::kReference:
      return PartKind::kReference;
    case HandleKind::kBundle:
      return PartKind::kBundle;
  }
  return PartKind::kEmpty;
}

bool Drop(FrameContent* content, SocketCounters::Drop drop, std::string reason) {
  content->drop = drop;
  content->reason = std::move(reason);
  return false;
}

[[gnu::cold]] bool DropFault(const Member& member, std::span<const std::byte> bytes,
                             HandleFault fault, const Handle& handle, FrameContent* content) {
  using Kind = SocketCounters::Drop;
  switch (fault) {
    case HandleFault::kNonce:
      return Drop(content, Kind::kForeign,
                  absl::StrCat("it is in session ", absl::Hex(handle.nonce),
                               ", this socket in session ", absl::Hex(member.nonce())));
    case HandleFault::kBuild:
      return Drop(content, Kind::kForeign,
                  absl::StrCat("it is of build ", absl::Hex(BuildIn(bytes)),
                               ", this program of build ", absl::Hex(Handle::kBuild)));
    case HandleFault::kVersion:
      return Drop(content, Kind::kForeign, DescribeHandleFault(fault));
    default:
      return Drop(content, Kind::kBad, DescribeHandleFault(fault));
  }
}

// What is no plain block: rarer, and more than a few instructions.
bool TakeOther(Member& member, const PartName& name, FrameContent* content) {
  content->size_bytes = 0;
  if (name.kind == PartKind::kEmpty) return true;
  const std::optional<Parcel> parcel = AcceptPosted(member, name, content->tag.channel);
  if (!parcel.has_value()) {
    return Drop(content, SocketCounters::Drop::kStale, "a stale or forged handle");
  }
  HANDOFF_CRASH_POINT("zeromq.receive.after_accept");
  const bool good = name.kind == PartKind::kBundle ? Unwrap(member, *parcel, &content->parts)
                                                   : Unwrap(member, *parcel, &content->message);
  if (!good) {
    return Drop(content, SocketCounters::Drop::kBad, "a message of many parts that makes no sense");
  }
  content->size_bytes = content->message.size();
  for (const Message& part : content->parts) content->size_bytes += part.size();
  return true;
}

}  // namespace

Frame MakeFrame(const Member& member, const PartName& name, const FrameTag& tag) {
  return Encode({.kind = KindOf(name.kind),
                 .segment = static_cast<uint16_t>(name.segment),
                 .channel = name.kind == PartKind::kEmpty ? uint16_t{0} : tag.channel,
                 .row = name.row,
                 .nonce = member.nonce(),
                 .exchange = tag.exchange,
                 .generation = name.generation,
                 .used_bytes = name.used_bytes});
}

bool TakeFrame(Member& member, std::span<const std::byte> bytes, FrameContent* content) {
  Handle handle;
  const HandleFault fault = Decode(bytes, member.nonce(), &handle);
  if (__builtin_expect(fault != HandleFault::kNone, 0)) {
    return DropFault(member, bytes, fault, handle, content);
  }
  content->tag = {.channel = handle.channel, .exchange = handle.exchange};
  const PartName name{KindOf(handle.kind), handle.segment, handle.row, handle.generation,
                      handle.used_bytes};
  if (__builtin_expect(name.kind != PartKind::kBlock, 0)) return TakeOther(member, name, content);
  Segment* const segment = member.SegmentAt(name.segment);
  if (segment == nullptr) {
    member.AcceptAndRelease(name, handle.channel);
    return Drop(content, SocketCounters::Drop::kBad, "no such segment");
  }
  const std::optional<Block> block =
      segment->AcceptPosted(name.row, name.generation, handle.channel, name.used_bytes);
  if (__builtin_expect(!block.has_value(), 0)) {
    return Drop(content, SocketCounters::Drop::kStale, "a stale or forged handle");
  }
  MessageAccess::Fill(&content->message, *segment, *block, name.used_bytes);
  content->size_bytes = name.used_bytes;
  return true;
}

}  // namespace handoff::internal

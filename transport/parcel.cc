// SPDX-License-Identifier: Apache-2.0
#include "transport/parcel.h"

#include <utility>

#include "allocator/block.h"
#include "allocator/hold_moves.h"
#include "base/check.h"

namespace handoff::internal {

namespace {

Reference ReferenceOf(const Parcel& parcel) {
  return {parcel.name.group(), parcel.name.reference(), parcel.hold};
}
RowTable::Row RowOf(const Parcel& parcel) { return {parcel.name.row, parcel.hold}; }

}  // namespace

Parcel ParcelOf(const Message& message) {
  Parcel parcel;
  if (message.empty()) return parcel;
  const Block& block = MessageAccess::block(message);
  parcel.hold = block.hold;
  if (message.shared()) {
    parcel.name = PartName::Reference(block.id, MessageAccess::reference_index(message),
                                      block.hold.generation(), message.size());
  } else {
    parcel.name = {PartKind::kBlock, MessageAccess::segment(message).row(), block.id,
                   block.hold.generation(), message.size()};
  }
  return parcel;
}

Parcel TakeFrom(Message& message) {
  const Parcel parcel = ParcelOf(message);
  MessageAccess::Forget(message);
  return parcel;
}

PartName Mark(Member& member, const Parcel& parcel, uint32_t receiver) {
  PartName name = parcel.name;
  switch (name.kind) {
    case PartKind::kBlock: {
      auto* const hold = member.SegmentAt(name.segment)->Find(name.row);
      HANDOFF_CHECK(hold != nullptr) << "block " << name.row << " of segment " << name.segment;
      name.generation = HoldMoves<RealSync>::Mark(*hold, parcel.hold, receiver).generation();
      break;
    }
    case PartKind::kReference:
      name.generation = member.Mark(ReferenceOf(parcel), receiver).generation();
      break;
    case PartKind::kBundle:
      name.generation = member.MarkBundle(RowOf(parcel), receiver).generation();
      break;
    case PartKind::kEmpty:
      break;
  }
  return name;
}

PartName Post(Member& member, const Parcel& parcel, uint32_t channel) {
  PartName name = parcel.name;
  if (name.kind == PartKind::kEmpty) return name;
  auto* const word = MemberNames(member).Find(name);
  name.generation = HoldMoves<RealSync>::Post(*word, parcel.hold, channel).generation();
  return name;
}

std::optional<Parcel> Accept(Member& member, const PartName& name) {
  switch (name.kind) {
    case PartKind::kBlock: {
      Segment* segment = member.SegmentAt(name.segment);
      if (segment == nullptr) {
        member.AcceptAndRelease(name);
        return std::nullopt;
      }
      const auto block = segment->Accept(name.row, name.generation, name.used_bytes);
      if (!block.has_value()) return std::nullopt;
      return Parcel{name, block->hold};
    }
    case PartKind::kReference: {
      const auto reference = member.AcceptReference(name);
      if (!reference.has_value()) return std::nullopt;
      return Parcel{name, reference->hold};
    }
    case PartKind::kBundle: {
      const auto bundle = member.AcceptBundle(name);
      if (!bundle.has_value()) return std::nullopt;
      return Parcel{name, bundle->hold};
    }
    case PartKind::kEmpty:
      return Parcel{name, {}};
  }
  return std::nullopt;
}

std::optional<Parcel> AcceptPosted(Member& member, const PartName& name, uint32_t channel) {
  switch (name.kind) {
    case PartKind::kBlock: {
      Segment* segment = member.SegmentAt(name.segment);
      if (segment == nullptr) {
        member.AcceptAndRelease(name, channel);
        return std::nullopt;
      }
      const auto block = segment->AcceptPosted(name.row, name.generation, channel, name.used_bytes);
      if (!block.has_value()) return std::nullopt;
      return Parcel{name, block->hold};
    }
    case PartKind::kReference: {
      const auto reference = member.AcceptPostedReference(name, channel);
      if (!reference.has_value()) return std::nullopt;
      return Parcel{name, reference->hold};
    }
    case PartKind::kBundle: {
      const auto bundle = member.AcceptPostedBundle(name, channel);
      if (!bundle.has_value()) return std::nullopt;
      return Parcel{name, bundle->hold};
    }
    case PartKind::kEmpty:
      return Parcel{name, {}};
  }
  return std::nullopt;
}

std::optional<Parcel> TakeBack(Member& member, const PartName& name) {
  std::optional<HoldWord> hold;
  switch (name.kind) {
    case PartKind::kBlock: {
      Segment* segment = member.SegmentAt(name.segment);
      if (segment == nullptr) return std::nullopt;
      const auto block = segment->TakeBack(name.row, name.generation);
      if (block.has_value()) hold = block->hold;
      break;
    }
    case PartKind::kReference: {
      const auto reference = member.TakeBackReference(name);
      if (reference.has_value()) hold = reference->hold;
      break;
    }
    case PartKind::kBundle: {
      const auto bundle = member.TakeBackBundle(name);
      if (bundle.has_value()) hold = bundle->hold;
      break;
    }
    case PartKind::kEmpty:
      hold = HoldWord();
      break;
  }
  if (!hold.has_value()) return std::nullopt;
  return Parcel{name, *hold};
}

void Release(Member& member, const Parcel& parcel) {
  switch (parcel.name.kind) {
    case PartKind::kBlock: {
      Message message;
      (void)Unwrap(member, parcel, &message);
      break;
    }
    case PartKind::kReference:
      member.Release(ReferenceOf(parcel));
      break;
    case PartKind::kBundle:
      member.Release(RowOf(parcel));
      break;
    case PartKind::kEmpty:
      break;
  }
}

bool Unwrap(Member& member, const Parcel& parcel, Message* message) {
  const PartName& name = parcel.name;
  switch (name.kind) {
    case PartKind::kBlock: {
      Segment* segment = member.SegmentAt(name.segment);
      if (segment == nullptr) {  // a part in a segment that cannot be mapped here
        (void)MemberNames(member).Release(name, parcel.hold);
        return false;
      }
      const auto location = segment->view().Locate(name.row);
      Block block;
      block.id = name.row;
      block.hold = parcel.hold;
      block.data = segment->payload() + location->offset_bytes;
      block.size_bytes = location->size_bytes;
      block.span = location->span;
      if (name.used_bytes == 0 || name.used_bytes > block.size_bytes) {
        segment->Release(block);
        return false;
      }
      MessageAccess::Fill(message, *segment, block, name.used_bytes);
      return true;
    }
    case PartKind::kReference: {
      const auto view = member.View(ReferenceOf(parcel));
      if (!view.has_value() || name.used_bytes == 0 || name.used_bytes > view->size_bytes) {
        member.Release(ReferenceOf(parcel));
        return false;
      }
      Block block;
      block.id = name.group();
      block.hold = parcel.hold;
      block.data = const_cast<std::byte*>(view->data);
      block.size_bytes = view->size_bytes;
      MessageAccess::FillShared(message, member, *view->segment, block, name.reference(),
                                name.used_bytes);
      return true;
    }
    case PartKind::kBundle:
      member.Release(RowOf(parcel));
      return false;
    case PartKind::kEmpty:
      return true;
  }
  return false;
}

absl::StatusOr<Message> ShareMessage(Member& member, Message* message) {
  Message copy;
  if (message->empty()) return copy;
  Reference made[2];
  if (message->shared()) {
    made[0] = ReferenceOf(ParcelOf(*message));
    const absl::StatusOr<Reference> second = member.Copy(&made[0]);
    if (!second.ok()) return second.status();
    made[1] = *second;
  } else {
    const absl::Status status =
        member.Share(MessageAccess::segment(*message), MessageAccess::block(*message), made);
    if (!status.ok()) return status;
  }
  const uint64_t size_bytes = message->size();
  MessageAccess::Forget(*message);
  Message* const messages[2] = {message, &copy};
  for (int i = 0; i < 2; ++i) {
    const Parcel parcel{
        PartName::Reference(made[i].row, made[i].index, made[i].hold.generation(), size_bytes),
        made[i].hold};
    (void)Unwrap(member, parcel, messages[i]);
  }
  return copy;
}

absl::Status Wrap(Member& member, std::span<Message> parts, Parcel* bundle) {
  std::vector<PartName> names;
  names.reserve(parts.size());
  for (const Message& part : parts) names.push_back(ParcelOf(part).name);
  const auto row = member.Bundle(names);
  if (!row.ok()) return row.status();
  for (Message& part : parts) MessageAccess::Forget(part);
  bundle->name = {PartKind::kBundle, 0, row->row, row->hold.generation(), 0};
  bundle->hold = row->hold;
  return absl::OkStatus();
}

bool Unwrap(Member& member, const Parcel& bundle, std::vector<Message>* parts) {
  std::vector<PartName> names;
  if (!member.Unpack(RowOf(bundle), &names)) return false;
  parts->reserve(parts->size() + names.size());
  for (const PartName& name : names) {
    Parcel part{name, {}};
    if (name.kind == PartKind::kBlock || name.kind == PartKind::kReference) {
      // Unpacked: held by this member under the generation in its name.
      part.hold = HoldWord::Of(HoldState::kHeld, name.generation, member.self().slot, 0);
    } else if (name.kind != PartKind::kEmpty) {
      continue;
    }
    Message message;
    // A part whose size is a lie is received as an empty one.
    (void)Unwrap(member, part, &message);
    parts->push_back(std::move(message));
  }
  return true;
}

}  // namespace handoff::internal

// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/ring_ends.h"

#include <utility>

#include "base/check.h"

namespace handoff {

namespace {

HoldWord HeldWord(Member& member, const PartName& held) {
  return HoldWord::Of(HoldState::kHeld, held.generation, member.self().slot, 0);
}

EndpointId MustAdd(Member& member, const std::string& name, bool bound) {
  EndpointOptions options;
  options.name = name;
  options.bound = bound;
  options.capacity = 64;
  const absl::StatusOr<EndpointId> endpoint = member.rings().Add(options);
  HANDOFF_CHECK(endpoint.ok()) << endpoint.status().ToString();
  return *endpoint;
}

// `sent`, if the function for its kind has taken what it names; the empty message always is.
template <class TakeBlock, class TakeReference, class TakeBundle>
std::optional<PartName> IfTaken(const PartName& sent, const TakeBlock& block,
                                const TakeReference& reference, const TakeBundle& bundle) {
  bool taken = true;
  switch (sent.kind) {
    case PartKind::kBlock:
      taken = block().has_value();
      break;
    case PartKind::kReference:
      taken = reference().has_value();
      break;
    case PartKind::kBundle:
      taken = bundle().has_value();
      break;
    case PartKind::kEmpty:
      break;
  }
  if (!taken) return std::nullopt;
  return sent;
}

}  // namespace

PartName HeldBlock(Member& member, uint64_t size_bytes) {
  Block block;
  if (member.main_segment().TryAllocate(size_bytes, 64, &block) != AllocateResult::kOk) return {};
  return Named(member, block);
}

PartName Named(const Member& member, const Block& block) {
  const uint32_t row = const_cast<Member&>(member).main_segment().row();
  return {PartKind::kBlock, row, block.id, block.hold.generation(), 1};
}

PartName Named(const Reference& reference) {
  return PartName::Reference(reference.row, reference.index, reference.hold.generation(), 1);
}

PartName Named(const RowTable::Row& bundle) {
  return {PartKind::kBundle, 0, bundle.row, bundle.hold.generation(), 0};
}

Block BlockOf(Member& member, const PartName& held) {
  Block block;
  block.id = held.row;
  block.hold = HeldWord(member, held);
  const Segment* segment = member.SegmentAt(held.segment);
  const auto location = segment->view().Locate(held.row);
  HANDOFF_CHECK(location.has_value());
  block.data = segment->payload() + location->offset_bytes;
  block.size_bytes = location->size_bytes;
  block.span = location->span;
  return block;
}

Reference ReferenceOf(Member& member, const PartName& held) {
  return {held.group(), held.reference(), HeldWord(member, held)};
}

RowTable::Row BundleOf(Member& member, const PartName& held) {
  return {held.row, HeldWord(member, held)};
}

PartName Mark(Member& member, const PartName& held, uint32_t receiver) {
  PartName sent = held;
  switch (held.kind) {
    case PartKind::kBlock:
      sent.generation =
          member.SegmentAt(held.segment)->Mark(BlockOf(member, held), receiver).generation();
      break;
    case PartKind::kReference:
      sent.generation = member.Mark(ReferenceOf(member, held), receiver).generation();
      break;
    case PartKind::kBundle:
      sent.generation = member.MarkBundle(BundleOf(member, held), receiver).generation();
      break;
    case PartKind::kEmpty:
      break;
  }
  return sent;
}

std::optional<PartName> Accept(Member& member, const PartName& sent) {
  return IfTaken(
      sent,
      [&]() -> std::optional<Block> {
        Segment* const segment = member.SegmentAt(sent.segment);
        if (segment == nullptr) return std::nullopt;
        return segment->Accept(sent.row, sent.generation, sent.used_bytes);
      },
      [&] { return member.AcceptReference(sent); }, [&] { return member.AcceptBundle(sent); });
}

std::optional<PartName> TakeBack(Member& member, const PartName& sent) {
  return IfTaken(
      sent, [&] { return member.SegmentAt(sent.segment)->TakeBack(sent.row, sent.generation); },
      [&] { return member.TakeBackReference(sent); }, [&] { return member.TakeBackBundle(sent); });
}

void Release(Member& member, const PartName& held) {
  switch (held.kind) {
    case PartKind::kBlock:
      member.SegmentAt(held.segment)->Release(BlockOf(member, held));
      break;
    case PartKind::kReference:
      member.Release(ReferenceOf(member, held));
      break;
    case PartKind::kBundle:
      member.Release(BundleOf(member, held));
      break;
    case PartKind::kEmpty:
      break;
  }
}

Inlet::Inlet(Member& member, const std::string& name)
    : member_(member), endpoint_(MustAdd(member, name, true)) {}

std::optional<PartName> Inlet::Receive() {
  RingTable& rings = member_.rings();
  for (uint32_t row = 0; row < rings.rings_used(); ++row) {
    const std::optional<RingInfo> info = rings.LookAtRing(row);
    if (!info.has_value() || info->consumer != endpoint_ || info->word.consumer_gone()) continue;
    SpscRing<RealSync> ring = rings.Ring(row, info->entries);
    RingConsumer<RealSync> consumer(ring);
    RingBody body;
    while (consumer.Peek(&body) == RingLook::kReady) {
      const std::optional<PartName> taken =
          Accept(member_, PartName::FromPacked({body.word, body.tag}));
      consumer.Advance();
      if (taken.has_value()) return taken;
      ++stale_;
    }
    if (!info->word.producer_gone()) continue;
    RingWord word = info->word;
    if (ring.SetConsumerGone(&word)) rings.RingEndGone(*info);
  }
  return std::nullopt;
}

void Inlet::Close() {
  if (!std::exchange(open_, false)) return;
  member_.rings().Remove(endpoint_, MemberNames(member_));
}

std::unique_ptr<Outlet> Outlet::Open(Member& member, const std::string& name, uint32_t capacity) {
  for (const EndpointInfo& info : member.rings().Find(name)) {
    if (!info.options.bound) continue;
    const EndpointId endpoint = MustAdd(member, name, false);
    const absl::StatusOr<RingInfo> ring = member.rings().Open(endpoint, info, capacity, false);
    if (ring.ok()) return std::unique_ptr<Outlet>(new Outlet(member, endpoint, *ring));
    member.rings().Remove(endpoint, MemberNames(member));
  }
  return nullptr;
}

Outlet::Outlet(Member& member, EndpointId endpoint, const RingInfo& info)
    : member_(member),
      endpoint_(endpoint),
      info_(info),
      producer_(member.rings().Ring(info.row, info.entries)) {}

bool Outlet::ReceiverHasGone() const {
  return producer_.ring().Word().consumer_gone() ||
         !member_.rings().members().Alive(info_.ends.consumer);
}

bool Outlet::Send(const PartName& held) {
  if (ReceiverHasGone() || producer_.HasRoom() != RingLook::kReady) return false;
  const PartName::Words words = Mark(member_, held, receiver()).Packed();
  producer_.Publish({words.word, words.tag});
  member_.rings().FrequentFence();
  RingTable::Wake(member_.rings().DoorOf(info_.consumer.row));
  return true;
}

std::vector<PartName> Outlet::TakeBackAll() {
  std::vector<PartName> all;
  RingProducer<RealSync>::Oldest oldest;
  while (producer_.PeekOldest(&oldest) == RingLook::kReady) {
    const std::optional<PartName> taken =
        TakeBack(member_, PartName::FromPacked({oldest.body.word, oldest.body.tag}));
    if (taken.has_value()) all.push_back(*taken);
    (void)producer_.TakeBack(oldest);
  }
  return all;
}

void Outlet::Close() {
  if (!std::exchange(open_, false)) return;
  RingTable& rings = member_.rings();
  if (ReceiverHasGone()) {
    for (const PartName& held : TakeBackAll()) Release(member_, held);
    SpscRing<RealSync> ring = producer_.ring();
    RingWord word = ring.Word();
    while (word.generation() == info_.word.generation() && !word.producer_gone() &&
           !ring.SetProducerGone(&word)) {
    }
    rings.RingEndGone(info_);
  } else {
    rings.CloseProducer(info_, MemberNames(member_));
  }
  rings.Remove(endpoint_, MemberNames(member_));
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "transport/ring_sender.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

namespace handoff::internal {

namespace {

// Whether a message with these first bytes is wanted.
bool Wanted(const std::vector<std::string>& topics, const Message& message) {
  for (const std::string& topic : topics) {
    if (topic.size() <= message.size() &&
        (topic.empty() || std::memcmp(topic.data(), message.data(), topic.size()) == 0)) {
      return true;
    }
  }
  return false;
}

}  // namespace

RingSender::RingSender(Member& member, const Options& options)
    : member_(member), table_(member.rings()), changes_(table_.change_count()), options_(options) {}

bool RingSender::Prepare(const std::vector<Own>& own) {
  if (__builtin_expect(table_.changes() != seen_changes_, 0)) Refresh(own);
  return __builtin_expect(returned_.empty(), 1) || ResendReturned();
}

RingSender::Peer* RingSender::NextWithRoom() {
  const size_t count = peers_.size();
  for (size_t i = 0; i < count; ++i) {
    Peer& peer = *turn_;
    turn_ = peer.after;
    const RingLook look = peer.Look();
    if (__builtin_expect(look == RingLook::kReady, 1)) return &peer;
    if (look == RingLook::kCorrupt && !peer.corrupt) {
      peer.corrupt = true;
      LookAroundSoon();  // takes care of it
    }
  }
  return nullptr;
}

bool RingSender::HasRoom(const std::vector<Own>& own) {
  if (!Prepare(own)) return false;
  const auto ready = [](const auto& peer) { return peer->Look() == RingLook::kReady; };
  if (!options_.publishes) return std::any_of(peers_.begin(), peers_.end(), ready);
  return std::all_of(peers_.begin(), peers_.end(), [&](const auto& peer) {
    return peer->info.options.policy != static_cast<uint8_t>(SlowPolicy::kBlock) || ready(peer);
  });
}

bool RingSender::HasRoomAt(const std::vector<Own>& own, EndpointId to) {
  if (table_.changes() != seen_changes_) Refresh(own);
  const auto peer = std::find_if(peers_.begin(), peers_.end(),
                                 [&](const auto& one) { return one->info.id == to; });
  // To one that has gone, a reply is sent and dropped.
  return peer == peers_.end() || (*peer)->Look() == RingLook::kReady;
}

void RingSender::Publish(Peer& peer, const Parcel& parcel, uint64_t size_bytes) {
  const PartName::Words words = Mark(member_, parcel, peer.receiver).Packed();  // 2
  HANDOFF_CRASH_POINT("ring.send.after_mark");
  peer.producer.Publish({words.word, words.tag});  // 3
  HANDOFF_CRASH_POINT("ring.send.after_publish");
  table_.FrequentFence();
  RingTable::Wake(*peer.door);  // 4
  peer.other_bytes.Add(size_bytes);
  last_receiver_ = peer.info.id;
  last_number_ = peer.producer.published();
}

RingSender::Result RingSender::Send(const std::vector<Own>& own, Message& message) {
  if (!Prepare(own)) return Result::kNoRoom;
  if (!options_.publishes) {
    Peer* peer = NextWithRoom();
    if (__builtin_expect(peer == nullptr, 0)) return Result::kNoRoom;
    const uint64_t size_bytes = message.size();
    Publish(*peer, TakeFrom(message), size_bytes);
    return Result::kSent;
  }
  if (!FindTargets(message)) return Result::kNoRoom;
  if (targets_.size() > 1 && !message.empty()) {
    if (!ShareAmong(message, targets_.size(), &references_)) return Result::kNoRoom;
    for (size_t i = 0; i < targets_.size(); ++i) {
      Publish(*targets_[i], references_[i], references_[i].name.used_bytes);
    }
    return Result::kSent;
  }
  const uint64_t size_bytes = message.size();
  if (targets_.size() == 1) {
    Publish(*targets_[0], TakeFrom(message), size_bytes);
  } else {
    for (Peer* peer : targets_) Publish(*peer, Parcel(), 0);
    message.Release();
  }
  return Result::kSent;
}

RingSender::Result RingSender::SendParts(const std::vector<Own>& own, std::span<Message> parts) {
  if (!Prepare(own)) return Result::kNoRoom;
  uint64_t size_bytes = 0;
  for (const Message& part : parts) size_bytes += part.size();
  if (!options_.publishes) {
    Peer* peer = NextWithRoom();
    Parcel bundle;
    if (peer == nullptr || !Wrap(member_, parts, &bundle).ok()) return Result::kNoRoom;
    Publish(*peer, bundle, size_bytes);
    return Result::kSent;
  }
  static const Message kNothing;
  if (!FindTargets(parts.empty() ? kNothing : parts[0])) return Result::kNoRoom;
  if (targets_.empty()) {
    for (Message& part : parts) part.Release();
    return Result::kSent;
  }
  // copies[i][j] becomes part j for target i; the last target takes the parts themselves.
  std::vector<std::vector<Message>> copies(targets_.size() - 1);
  for (Message& part : parts) {
    if (part.empty() || copies.empty()) {
      for (auto& copy : copies) copy.emplace_back();
      continue;
    }
    // One of the references stays with the caller's part, whatever comes.
    if (!ShareAmong(part, targets_.size(), &references_)) return Result::kNoRoom;
    for (size_t i = 0; i < copies.size(); ++i) {
      copies[i].emplace_back();
      (void)Unwrap(member_, references_[i], &copies[i].back());
    }
    (void)Unwrap(member_, references_.back(), &part);
  }
  std::vector<Parcel> bundles(targets_.size());
  for (size_t i = 0; i < targets_.size(); ++i) {
    if (Wrap(member_, i < copies.size() ? std::span<Message>(copies[i]) : parts, &bundles[i])
            .ok()) {
      continue;
    }
    for (size_t j = 0; j < i; ++j) Release(member_, bundles[j]);
    return Result::kNoRoom;
  }
  for (size_t i = 0; i < targets_.size(); ++i) Publish(*targets_[i], bundles[i], size_bytes);
  return Result::kSent;
}

RingSender::Result RingSender::Reply(const std::vector<Own>& own, EndpointId to, uint64_t number,
                                     const Parcel& parcel) {
  if (table_.changes() != seen_changes_) Refresh(own);
  for (const auto& peer : peers_) {
    if (peer->info.id != to || peer->corrupt) continue;
    for (;;) {
      if (peer->Look() != RingLook::kReady) return Result::kNoRoom;
      if (peer->producer.published() + 1 >= number) break;
      Publish(*peer, NoReply(), 0);
    }
    Publish(*peer, parcel, parcel.name.used_bytes);
    return Result::kSent;
  }
  if (table_.IsLive(to) && std::find(refused_.begin(), refused_.end(), to) == refused_.end()) {
    return Result::kNoRoom;
  }
  Release(member_, parcel);
  dropped_.Add(1);
  return Result::kSent;
}

bool RingSender::ResendReturned() {
  while (!returned_.empty()) {
    Peer* peer = NextWithRoom();
    if (peer == nullptr) return false;
    // Out of the list first: what is marked must not be released.
    const Parcel parcel = returned_.front();
    returned_.pop_front();
    Publish(*peer, parcel, parcel.name.used_bytes);
  }
  AllowQuickly();
  return true;
}

// Receivers that come and go.

bool RingSender::IsPeer(const EndpointInfo& info) const {
  return std::any_of(peers_.begin(), peers_.end(),
                     [&](const auto& peer) { return peer->info.id == info.id; }) ||
         std::find(refused_.begin(), refused_.end(), info.id) != refused_.end();
}

bool RingSender::MayOpen(const Own& own, const EndpointInfo& info) const {
  if (info.options.pattern != options_.receiver_pattern ||
      info.options.bound == own.options.bound || info.options.name != own.options.name ||
      IsPeer(info) || !table_.members().Alive(info.member)) {
    return false;
  }
  if (!options_.exclusive) return true;
  if (!peers_.empty()) return false;
  if (own.options.bound) return true;
  // The bound side chooses, and shows it by its ring.
  for (uint32_t row = 0, end = table_.rings_used(); row < end; ++row) {
    const auto ring = table_.LookAtRing(row);
    if (ring.has_value() && ring->producer == info.id && ring->consumer == own.id &&
        !ring->word.producer_gone()) {
      return true;
    }
  }
  return false;
}

void RingSender::OpenTo(const Own& own, const EndpointInfo& info) {
  const uint32_t capacity = options_.publishes
                                ? info.options.capacity
                                : std::min(own.options.capacity, info.options.capacity);
  const bool drops_oldest =
      options_.publishes && info.options.policy == static_cast<uint8_t>(SlowPolicy::kDropOldest);
  const auto ring = table_.Open(own.id, info, capacity, drops_oldest);
  // Gone again, or no room in the table: tried again when something changes.
  if (!ring.ok()) return;
  auto peer = std::make_unique<Peer>(info, *ring, table_.Ring(ring->row, ring->entries),
                                     table_.DoorOf(info.id.row), capacity);
  if (options_.publishes) {
    // None if it has gone meanwhile.
    peer->topics = table_.TopicsOf(info.id).value_or(std::vector<std::string>());
  }
  AddPeer(std::move(peer));
  targets_.reserve(peers_.size());
  references_.reserve(peers_.size());
}

void RingSender::AddPeer(std::unique_ptr<Peer> peer) {
  // The last one of the round.
  if (peers_.empty()) turn_ = peer.get();
  peer->after = peers_.empty() ? peer.get() : peers_.front().get();
  if (!peers_.empty()) peers_.back()->after = peer.get();
  absl::MutexLock lock(&peers_mutex_);
  peers_.push_back(std::move(peer));
}

void RingSender::RemovePeer(size_t index) {
  Peer& peer = *peers_[index];
  Peer& before = *peers_[(index + peers_.size() - 1) % peers_.size()];
  // Nobody loses a turn.
  before.after = peer.after;
  if (turn_ == &peer) turn_ = peers_.size() == 1 ? nullptr : peer.after;
  absl::MutexLock lock(&peers_mutex_);
  gone_messages_.Add(peer.quick_messages.value());
  gone_bytes_.Add(peer.quick_bytes.value());
  peers_.erase(peers_.begin() + static_cast<ptrdiff_t>(index));
}

RingTotals RingSender::sent_quickly() const {
  absl::MutexLock lock(&peers_mutex_);
  RingTotals sent{gone_messages_.value(), gone_bytes_.value()};
  for (const auto& peer : peers_) {
    sent.messages += peer->quick_messages.value();
    sent.bytes += peer->quick_bytes.value();
  }
  return sent;
}

void RingSender::OpenRings(const std::vector<Own>& own) {
  for (const Own& endpoint : own) {
    for (const EndpointInfo& info : table_.Find(endpoint.options.name)) {
      if (MayOpen(endpoint, info)) OpenTo(endpoint, info);
    }
  }
}

void RingSender::Refresh(const std::vector<Own>& own) {
  // Before the look around: what changes meanwhile is looked at again.
  seen_changes_ = table_.changes();
  for (size_t i = 0; i < peers_.size();) {
    if (DropPeerIfGone(*peers_[i])) {
      RemovePeer(i);
    } else {
      ++i;
    }
  }
  OpenRings(own);
  if (!returned_.empty()) (void)ResendReturned();
  AllowQuickly();
}

bool RingSender::DropPeerIfGone(Peer& peer) {
  SpscRing<RealSync> ring = peer.producer.ring();
  RingWord word = ring.Word();
  const bool gone = word.consumer_gone() || !table_.members().Alive(peer.info.member);
  if (!gone && !peer.corrupt) return false;
  if (peer.corrupt) {
    corrupt_.Add(1);
    refused_.push_back(peer.info.id);
    if (on_corrupt_ != nullptr) on_corrupt_(peer.info);
  }
  TakeBackAll(peer);
  const uint64_t generation = word.generation();
  while (word.generation() == generation && !word.producer_gone() && !ring.SetProducerGone(&word)) {
  }
  HANDOFF_CRASH_POINT("ring.send.after_producer_gone");
  table_.RingEndGone(peer.ring_info);
  return true;
}

void RingSender::TakeBackAll(Peer& peer) {
  const uint64_t published = peer.producer.published();
  const auto take = [&](uint64_t index, const RingBody& body) {
    const PartName name = PartName::FromPacked({body.word, body.tag});
    const std::optional<Parcel> parcel = TakeBack(member_, name);
    HANDOFF_CRASH_POINT("ring.send.after_take_back");
    if (!parcel.has_value()) return;
    const bool awaited = !options_.requests || LastWas(peer.info.id, index + 1);
    if (options_.publishes || options_.replies || !awaited) {
      Release(member_, *parcel);
      if (options_.replies) dropped_.Add(1);
    } else {
      returned_.push_back(*parcel);
    }
  };
  RingProducer<RealSync>::Oldest oldest;
  while (!peer.corrupt) {
    const RingLook look = peer.producer.PeekOldest(&oldest);
    if (look == RingLook::kWait) return;
    if (look == RingLook::kCorrupt) break;
    take(oldest.index, oldest.body);
    (void)peer.producer.TakeBack(oldest);
  }
  // The cursor is nonsense, but what we have published is known.
  const uint64_t unread = std::min(peer.producer.UnreceivedAtMost(), peer.ring_info.entries);
  for (uint64_t i = published - unread; i < published; ++i) {
    const auto body = peer.producer.ring().ReadPublished(i);
    if (body.has_value()) take(i, *body);
  }
}

// Publishing.

bool RingSender::FindTargets(const Message& first) {
  targets_.clear();
  for (const auto& peer : peers_) {
    if (peer->corrupt || !Wanted(peer->topics, first)) continue;
    const RingLook look = peer->Look();
    if (look == RingLook::kReady) {
      targets_.push_back(peer.get());
    } else if (look == RingLook::kCorrupt) {
      peer->corrupt = true;
      LookAroundSoon();
    } else if (peer->info.options.policy == static_cast<uint8_t>(SlowPolicy::kBlock)) {
      return false;
    } else if (peer->info.options.policy == static_cast<uint8_t>(SlowPolicy::kDropOldest)) {
      targets_.push_back(peer.get());
    }
  }
  // Nothing is dropped before it is certain that nobody has to be waited for.
  size_t kept = 0;
  for (Peer* peer : targets_) {
    if (peer->Look() == RingLook::kReady || MakeRoom(*peer)) targets_[kept++] = peer;
  }
  targets_.resize(kept);
  for (const auto& peer : peers_) {
    if (peer->info.options.policy == static_cast<uint8_t>(SlowPolicy::kDropNewest) &&
        !peer->corrupt && Wanted(peer->topics, first) &&
        std::find(targets_.begin(), targets_.end(), peer.get()) == targets_.end()) {
      peer->dropped.Add(1);
      dropped_.Add(1);
    }
  }
  return true;
}

bool RingSender::MakeRoom(Peer& peer) {
  RingProducer<RealSync>::Oldest oldest;
  for (;;) {
    RingLook look = peer.Look();
    if (look == RingLook::kReady) return true;
    if (look == RingLook::kWait) look = peer.producer.PeekOldest(&oldest);
    if (look == RingLook::kCorrupt) {
      peer.corrupt = true;
      LookAroundSoon();
      return false;
    }
    if (look != RingLook::kReady) continue;
    const std::optional<Parcel> parcel =
        TakeBack(member_, PartName::FromPacked({oldest.body.word, oldest.body.tag}));
    HANDOFF_CRASH_POINT("ring.publish.after_take_back");
    if (parcel.has_value()) {
      Release(member_, *parcel);
      peer.dropped.Add(1);
      dropped_.Add(1);
    }
    (void)peer.producer.TakeBack(oldest);
  }
}

bool RingSender::ShareAmong(Message& message, size_t count, std::vector<Parcel>* references) {
  references->clear();
  std::vector<Reference> made(count);
  const uint64_t size_bytes = message.size();
  if (!message.shared()) {
    if (!member_.Share(MessageAccess::segment(message), MessageAccess::block(message), made).ok()) {
      return false;
    }
  } else {
    const Parcel own = ParcelOf(message);
    made[0] = {own.name.group(), own.name.reference(), own.hold};
    for (size_t i = 1; i < count; ++i) {
      const auto copy = member_.Copy(&made[0]);
      if (copy.ok()) {
        made[i] = *copy;
        continue;
      }
      for (size_t j = 1; j < i; ++j) member_.Release(made[j]);
      // The one that is left may be of another group by now.
      MessageAccess::Forget(message);
      (void)Unwrap(
          member_,
          {PartName::Reference(made[0].row, made[0].index, made[0].hold.generation(), size_bytes),
           made[0].hold},
          &message);
      return false;
    }
  }
  MessageAccess::Forget(message);
  for (const Reference& reference : made) {
    references->push_back({PartName::Reference(reference.row, reference.index,
                                               reference.hold.generation(), size_bytes),
                           reference.hold});
  }
  return true;
}

void RingSender::Close() {
  for (const Parcel& parcel : returned_) Release(member_, parcel);
  returned_.clear();
  for (const auto& peer : peers_) {
    if (DropPeerIfGone(*peer)) continue;
    table_.CloseProducer(peer->ring_info, MemberNames(member_));
  }
  for (const Parcel& parcel : returned_) Release(member_, parcel);
  returned_.clear();
  LookAroundSoon();
  while (!peers_.empty()) RemovePeer(peers_.size() - 1);
}

std::vector<RingPeerStatistics> RingSender::Statistics() const {
  absl::MutexLock lock(&peers_mutex_);
  std::vector<RingPeerStatistics> all;
  for (const auto& peer : peers_) {
    RingPeerStatistics one;
    one.peer = peer->info.id;
    one.member = peer->info.member;
    one.messages = peer->producer.published();
    one.bytes = peer->quick_bytes.value() + peer->other_bytes.value();
    const auto look = peer->producer.ring().Look();
    const uint64_t head = look.has_value() ? look->head : 0;
    one.gone = !look.has_value() || look->word.consumer_gone() ||
               !table_.members().Alive(peer->info.member);
    one.depth = one.messages >= head ? one.messages - head : 0;
    one.dropped = peer->dropped.value();
    all.push_back(one);
  }
  return all;
}

}  // namespace handoff::internal

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/member_text.h"
#include "transport/ring_carrier.h"
#include "transport/ring_pattern.h"

namespace handoff::internal {

std::string RingCarrier::Describe(MemberId id) const { return MemberText(table_.members(), id); }

void RingCarrier::Dropped(RingReceiver::Fault fault, MemberId from) {
  switch (fault) {
    case RingReceiver::Fault::kStale:
      member_.CountStaleHandle();
      counters_.Dropped(SocketCounters::Drop::kStale, Describe(from), "a stale or forged handle");
      break;
    case RingReceiver::Fault::kBad:
      counters_.Dropped(SocketCounters::Drop::kBad, Describe(from),
                        "a message of many parts that makes no sense");
      break;
    case RingReceiver::Fault::kCorrupt:
      counters_.Dropped(SocketCounters::Drop::kBad, Describe(from),
                        "a ring whose cursor makes no sense");
      break;
  }
}

absl::Status RingCarrier::CheckPeers(const Address& address, const EndpointOptions& options) {
  for (const EndpointInfo& other : table_.Find(options.name)) {
    if (!table_.members().Alive(other.member)) continue;
    if (other.options.pattern > static_cast<uint8_t>(Pattern::kSubscribe)) continue;  // nonsense
    const auto pattern = static_cast<Pattern>(other.options.pattern);
    if (options.bound && other.options.bound) {
      return absl::AlreadyExistsError(absl::StrCat(address.text, " is bound already, by a ",
                                                   PatternName(pattern), " socket of ",
                                                   Describe(other.member)));
    }
    if (options.bound != other.options.bound && pattern != Counterpart(context_.pattern)) {
      return absl::FailedPreconditionError(absl::StrCat(
          address.text, ": a ", PatternName(context_.pattern), " socket cannot meet the ",
          PatternName(pattern), " socket of ", Describe(other.member), ", which is ",
          other.options.bound ? "bound" : "connected", " there"));
    }
  }
  return absl::OkStatus();
}

absl::Status RingCarrier::AddEndpoint(const Address& address, const EndpointOptions& options) {
  if (absl::Status status = CheckPeers(address, options); !status.ok()) return status;
  std::span<const std::string> topics;
  if (context_.pattern == Pattern::kSubscribe) topics = context_.options.topics;
  const absl::StatusOr<EndpointId> id = table_.Add(options, topics);
  if (!id.ok()) return id.status();
  lock_.OwnerLock();
  own_.push_back({*id, options});
  if (sends_) sender_.Refresh(own_);
  lock_.OwnerUnlock();
  own_ids_.push_back(*id);
  if (receives_) receiver_.AddOwn(*id);
  receiver_.RefreshSoon();
  if (door_.load(std::memory_order_relaxed) == nullptr) {
    door_.store(&table_.DoorOf(id->row), std::memory_order_release);
  }
  last_endpoint_ = address.text;
  return absl::OkStatus();
}

absl::Status RingCarrier::Attach(const Address& address, bool bound) {
  EndpointOptions options;
  options.name = address.place;
  options.pattern = static_cast<uint8_t>(context_.pattern);
  options.bound = bound;
  options.policy = static_cast<uint8_t>(context_.options.slow_policy);
  if (!own_ids_.empty()) options.door = own_ids_.front();
  options.capacity = context_.options.receive_high_water_mark;
  if (sends_ && receives_) {
    options.capacity = std::min(options.capacity, context_.options.send_high_water_mark);
  } else if (sends_) {
    options.capacity = context_.options.send_high_water_mark;
  }
  if (!bound) {
    // Once is enough: the reply to a request would not know by which of several it came.
    const bool is_there = std::any_of(own_.begin(), own_.end(), [&](const RingSender::Own& own) {
      return own.options.name == options.name && !own.options.bound;
    });
    if (!is_there) return AddEndpoint(address, options);
    last_endpoint_ = address.text;
    return absl::OkStatus();
  }
  // One binds at a time, so that a name has one bound socket. A killed one has it until its
  // reclaim.
  (void)member_.ReclaimDead();
  return member_.session().WithObjectsLocked([&] { return AddEndpoint(address, options); });
}

void RingCarrier::Close() {
  if (closed_) return;
  closed_ = true;
  table_.Unregister(this);
  watched_.reset();
  door_.store(nullptr, std::memory_order_release);
  lock_.OwnerLock();
  sender_.Close();
  lock_.OwnerUnlock();
  parts_.clear();
  for (const EndpointId& id : own_ids_) table_.Remove(id, MemberNames(member_));
  receiver_.Close();
}

SocketStatistics RingCarrier::Statistics() const {
  SocketStatistics statistics = counters_.Snapshot();
  const RingTotals sent = sender_.sent_quickly();
  const RingTotals received = receiver_.received_quickly();
  statistics.messages_sent += sent.messages;
  statistics.bytes_sent += sent.bytes;
  statistics.messages_received += received.messages;
  statistics.bytes_received += received.bytes;
  const std::vector<RingPeerStatistics> sends_to = sender_.Statistics();
  const std::vector<RingPeerStatistics> receives_from = receiver_.Statistics();
  for (const RingPeerStatistics& peer : sends_ ? sends_to : receives_from) {
    if (!peer.gone) ++statistics.connected_peers;
  }
  statistics.dropped_messages = sender_.dropped();
  for (const RingPeerStatistics& peer : sends_to) {
    if (peer.gone) continue;
    statistics.peers.push_back({.peer = Describe(peer.member),
                                .messages_sent = peer.messages,
                                .bytes_sent = peer.bytes,
                                .depth = peer.depth,
                                .dropped_messages = peer.dropped});
  }
  for (const RingPeerStatistics& peer : receives_from) {
    if (peer.gone) continue;
    PeerStatistics one;
    one.peer = Describe(peer.member);
    one.messages_received = peer.messages;
    one.bytes_received = peer.bytes;
    one.depth = peer.depth;
    for (const RefusedPeer& refused : statistics.refused_peers) {
      if (refused.peer == one.peer) one.refused_frames = refused.frames;
    }
    statistics.peers.push_back(std::move(one));
  }
  return statistics;
}

}  // namespace handoff::internal

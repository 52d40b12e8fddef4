// SPDX-License-Identifier: Apache-2.0
#include "transport/ring_receiver.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "allocator/block.h"
#include "base/cache_line.h"

namespace handoff::internal {

RingReceiver::Result RingReceiver::Receive(const std::vector<EndpointId>& own, Message* message,
                                           std::vector<Message>* parts, Arrival* arrival) {
  if (__builtin_expect(table_.changes() != seen_changes_, 0)) Refresh(own);
  const size_t count = sources_.size();
  for (size_t i = 0; i < count; ++i) {
    Source& source = *turn_;
    turn_ = source.after;
    const Result result = TakeFromSource(source, message, parts, arrival);
    if (result == Result::kReceived) {
      if (__builtin_expect(some_ended_, 0)) RemoveEnded();
      return result;
    }
  }
  if (some_ended_) RemoveEnded();
  return Result::kNothing;
}

RingReceiver::Result RingReceiver::TakeFromSource(Source& source, Message* message,
                                                  std::vector<Message>* parts, Arrival* arrival) {
  if (source.ended) return Result::kNothing;
  RingBody body;
  for (;;) {
    const RingLook look = source.consumer.Peek(&body);  // 1
    if (__builtin_expect(look != RingLook::kReady, 0)) {
      EndIfOver(source, look);
      return Result::kNothing;
    }
    const PartName name = PartName::FromPacked({body.word, body.tag});
    const bool taken = Take(source, name, message, parts);
    Advance(source);
    if (__builtin_expect(taken, 1)) {
      source.other_bytes.Add(name.used_bytes);
      *arrival = {name, source.info.producer,
                  source.quick_messages.value() + source.other_entries.value()};
      return Result::kReceived;
    }
    source.dropped.Add(1);
  }
}

bool RingReceiver::Take(Source& source, const PartName& name, Message* message,
                        std::vector<Message>* parts) {
  if (__builtin_expect(name.kind == PartKind::kBlock, 1)) {
    Segment* segment = member_.SegmentAt(name.segment);
    if (segment != nullptr) {
      const std::optional<Block> block =
          segment->Accept(name.row, name.generation, name.used_bytes);  // 2
      HANDOFF_CRASH_POINT("ring.receive.after_accept");
      if (__builtin_expect(block.has_value() && name.used_bytes != 0, 1)) {
        MessageAccess::Fill(message, *segment, *block, name.used_bytes);
        return true;
      }
      if (block.has_value()) segment->Release(*block);
    } else {
      member_.AcceptAndRelease(name);
    }
  } else if (name.kind == PartKind::kEmpty) {
    return true;
  } else if (const std::optional<Parcel> parcel = Accept(member_, name); parcel.has_value()) {
    HANDOFF_CRASH_POINT("ring.receive.after_accept");
    const bool good = name.kind == PartKind::kBundle ? Unwrap(member_, *parcel, parts)
                                                     : Unwrap(member_, *parcel, message);
    if (good) return true;
    if (on_fault_ != nullptr) on_fault_(Fault::kBad, source.info.ends.producer);
    return false;
  }
  // Where the sender may take back from the living, it did so between our two looks: nobody's
  // fault.
  if (source.info.ends.take_back_from_living) return false;
  if (on_fault_ != nullptr) on_fault_(Fault::kStale, source.info.ends.producer);
  return false;
}

void RingReceiver::DoChores(Source& source) {
  // The next so many are on their way already; behind them the same number, two lines of entries.
  constexpr uint64_t kBatch = 8;
  source.chores_at = source.consumer.index() + std::min(kBatch, source.wake_after);
  if (source.advanced() >= source.wake_after) Wake(source);
  // Eight holds of small blocks are a line.
  constexpr uint32_t kHoldsInLine = kCacheLineSize / sizeof(uint64_t);
  uint32_t last_line = ~uint32_t{0};
  for (uint64_t i = 0; i < kBatch; ++i) {
    const uint32_t line = PartName::LowRow(source.consumer.WordAhead(kBatch + i)) / kHoldsInLine;
    if (line == last_line) continue;
    last_line = line;
    const std::optional<RingBody> body = source.consumer.PeekAhead(kBatch + i);
    if (!body.has_value()) return;
    const PartName name = PartName::FromPacked({body->word, body->tag});
    if (name.kind != PartKind::kBlock) continue;
    if (Segment* const segment = member_.MappedSegmentAt(name.segment); segment != nullptr) {
      segment->PrefetchHold(name.row);
    }
  }
}

void RingReceiver::Wake(Source& source) {
  source.looked_after = source.consumer.index();
  table_.FrequentFence();
  RingTable::Wake(*source.door);  // 4
}

void RingReceiver::WakeSenders() {
  for (const auto& source : sources_) {
    if (source->advanced() != 0 && !source->ended) Wake(*source);
  }
}

bool RingReceiver::HasSome(const std::vector<EndpointId>& own) {
  if (table_.changes() != seen_changes_) Refresh(own);
  bool some = false;
  RingBody body;
  for (const auto& source : sources_) {
    if (source->ended) continue;
    const RingLook look = source->consumer.Peek(&body);
    some = look == RingLook::kReady;
    if (some) break;
    // Who only asks whether there is something must let go of those that have gone, too.
    EndIfOver(*source, look);
  }
  if (some_ended_) {
    RemoveEnded();
    quick_changes_ = ~uint64_t{0};  // until a receive says so again
  }
  return some;
}

bool RingReceiver::SeemsToHaveSome() const {
  absl::MutexLock lock(&sources_mutex_);
  return std::any_of(sources_.begin(), sources_.end(), [](const auto& source) {
    const SpscRing<RealSync>& ring = source->consumer.ring();
    const auto look = ring.Look();
    return look.has_value() && look->word.generation() == source->info.word.generation() &&
           !look->word.consumer_gone() && ring.ReadPublished(look->head).has_value();
  });
}

void RingReceiver::Refresh(const std::vector<EndpointId>& own) {
  seen_changes_ = table_.changes();
  for (uint32_t row = 0, end = table_.rings_used(); row < end; ++row) {
    const std::optional<RingInfo> info = table_.LookAtRing(row);
    if (!info.has_value() || info->word.consumer_gone() || info->ends.consumer != member_.self() ||
        std::find(own.begin(), own.end(), info->consumer) == own.end()) {
      continue;
    }
    const auto known = std::find_if(sources_.begin(), sources_.end(), [&](const auto& source) {
      return source->info.row == row && source->info.word.generation() == info->word.generation();
    });
    if (known != sources_.end()) {
      // Seen before the ring is found empty.
      if (info->word.producer_gone()) (*known)->producer_gone = true;
      continue;
    }
    auto source = std::make_unique<Source>(*info, table_.Ring(row, info->entries),
                                           table_.DoorOf(info->producer.row));
    source->producer_gone = info->word.producer_gone();
    {
      absl::MutexLock lock(&sources_mutex_);
      sources_.push_back(std::move(source));
    }
    LinkSources();
  }
}

void RingReceiver::LinkSources() {
  all_own_ = true;
  for (size_t i = 0; i < sources_.size(); ++i) {
    sources_[i]->after = sources_[i + 1 < sources_.size() ? i + 1 : 0].get();
    all_own_ = all_own_ && sources_[i]->consumer.is_own();
  }
  if (turn_ == nullptr && !sources_.empty()) turn_ = sources_.front().get();
}

void RingReceiver::EndIfOver(Source& source, RingLook look) {
  if (look == RingLook::kCorrupt) {
    if (on_fault_ != nullptr) on_fault_(Fault::kCorrupt, source.info.ends.producer);
  } else if (!source.producer_gone) {
    return;
  }
  End(source);
}

void RingReceiver::End(Source& source) {
  source.ended = true;
  some_ended_ = true;
  SpscRing<RealSync> ring = source.consumer.ring();
  RingWord word = ring.Word();
  while (word.generation() == source.info.word.generation() && !word.consumer_gone() &&
         !ring.SetConsumerGone(&word)) {
  }
  HANDOFF_CRASH_POINT("ring.receive.after_consumer_gone");
  table_.RingEndGone(source.info);
}

void RingReceiver::RemoveEnded() {
  some_ended_ = false;
  for (size_t i = 0; i < sources_.size() && turn_->ended; ++i) turn_ = turn_->after;
  if (turn_->ended) turn_ = nullptr;
  {
    absl::MutexLock lock(&sources_mutex_);
    const auto is_over = [&](const auto& source) {
      if (source->ended) RememberTotals(*source);
      return source->ended;
    };
    sources_.erase(std::remove_if(sources_.begin(), sources_.end(), is_over), sources_.end());
  }
  LinkSources();
}

void RingReceiver::Close() {
  RefreshSoon();
  turn_ = nullptr;
  absl::MutexLock lock(&sources_mutex_);
  for (const auto& source : sources_) RememberTotals(*source);
  sources_.clear();
  own_.clear();
}

uint64_t RingReceiver::WaitingIn(const RingInfo& info) const {
  const SpscRing<RealSync> ring = table_.Ring(info.row, info.entries);
  const auto look = ring.Look();
  if (!look.has_value() || look->word.generation() != info.word.generation()) return 0;
  // What is published is contiguous from the head on.
  uint64_t waiting = 0;
  for (uint64_t most = ring.capacity(); waiting < most;) {
    const uint64_t middle = waiting + (most - waiting) / 2;
    if (ring.ReadPublished(look->head + middle).has_value()) {
      waiting = middle + 1;
    } else {
      most = middle;
    }
  }
  return waiting;
}

RingTotals RingReceiver::received_quickly() const {
  absl::MutexLock lock(&sources_mutex_);
  RingTotals received{gone_messages_.value(), gone_bytes_.value()};
  for (const auto& source : sources_) {
    received.messages += source->quick_messages.value();
    received.bytes += source->quick_bytes.value();
  }
  return received;
}

std::vector<RingPeerStatistics> RingReceiver::Statistics() const {
  absl::MutexLock lock(&sources_mutex_);
  std::vector<RingPeerStatistics> all;
  for (const auto& source : sources_) {
    const RingWord word = source->consumer.ring().Word();
    RingPeerStatistics one;
    one.peer = source->info.producer;
    one.member = source->info.ends.producer;
    one.messages =
        source->quick_messages.value() + source->other_entries.value() - source->dropped.value();
    one.bytes = source->quick_bytes.value() + source->other_bytes.value();
    one.depth = WaitingIn(source->info);
    one.gone = word.generation() != source->info.word.generation() || word.producer_gone() ||
               !table_.members().Alive(one.member);
    all.push_back(one);
  }
  // And those that no call has found yet.
  for (uint32_t row = 0, end = table_.rings_used(); row < end; ++row) {
    const std::optional<RingInfo> info = table_.LookAtRing(row);
    if (!info.has_value() || info->word.consumer_gone() || info->word.producer_gone() ||
        std::find(own_.begin(), own_.end(), info->consumer) == own_.end() ||
        std::any_of(all.begin(), all.end(),
                    [&](const auto& one) { return one.peer == info->producer; })) {
      continue;
    }
    RingPeerStatistics one;
    one.peer = info->producer;
    one.member = info->ends.producer;
    one.depth = WaitingIn(*info);
    one.gone = !table_.members().Alive(one.member);
    all.push_back(one);
  }
  return all;
}

}  // namespace handoff::internal

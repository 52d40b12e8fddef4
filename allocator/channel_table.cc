// SPDX-License-Identifier: Apache-2.0
#include "allocator/channel_table.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "control_queue/atomic_max.h"

namespace handoff {

bool ChannelTable::Swap(uint32_t id, ChannelWord seen, ChannelWord next) {
  return layout_.words[id].compare_exchange_strong(seen.raw, next.raw, std::memory_order_acq_rel,
                                                   std::memory_order_acquire);
}

absl::StatusOr<Channel> ChannelTable::Open() {
  for (uint32_t id = 1; id < kMaxChannels; ++id) {
    const ChannelWord seen = Load(id);
    if (seen.state() != ChannelState::kFree) continue;
    if (id >= rows_used()) internal::RaiseTo(layout_.rows_used, id + 1);
    const ChannelWord open = seen.Opened(self_);
    if (!Swap(id, seen, open)) continue;  // 1
    HANDOFF_CRASH_POINT("channel.open.after_claim");
    return Channel{id, open};
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kMaxChannels - 1, " channels of the session are in use"));
}

bool ChannelTable::Move(const Channel& channel, ChannelState state) {
  const ChannelWord seen = Load(channel.id);
  if (seen.generation() != channel.word.generation() || seen.owner() != self_) return false;
  if (seen.state() != ChannelState::kOpen && seen.state() != ChannelState::kAged) return false;
  if (!Swap(channel.id, seen, seen.In(state))) return false;
  HANDOFF_CRASH_POINT("channel.move.after_state");
  return true;
}

void ChannelTable::AddReceiver() {
  absl::MutexLock lock(&mutex_);
  if (receiving_sockets_++ > 0) return;
  layout_.receivers[self_.slot].store(uint64_t{self_.epoch} + 1, std::memory_order_release);  // 5
}

void ChannelTable::RemoveReceiver() {
  {
    absl::MutexLock lock(&mutex_);
    if (--receiving_sockets_ == 0) {
      layout_.receivers[self_.slot].store(0, std::memory_order_release);  // 6
    }
  }
  AgeClosed();
  AbandonIfNobodyReceives();
}

void ChannelTable::AgeClosed() {
  for (uint32_t id = 1, end = rows_used(); id < end; ++id) {
    const ChannelWord seen = Load(id);
    if (seen.state() == ChannelState::kClosed) Swap(id, seen, seen.In(ChannelState::kAged));
    HANDOFF_CRASH_POINT("channel.reclaim.after_row");
  }
}

void ChannelTable::AbandonIfNobodyReceives() {
  for (uint32_t slot = 1; slot < kMaxMembers; ++slot) {
    const uint64_t receiver = layout_.receivers[slot].load(std::memory_order_acquire);
    if (receiver != 0 && members_.Alive({slot, static_cast<uint32_t>(receiver - 1)})) return;
  }
  for (uint32_t id = 1, end = rows_used(); id < end; ++id) {
    const ChannelWord seen = Load(id);
    if (seen.state() == ChannelState::kClosed || seen.state() == ChannelState::kAged) {
      Swap(id, seen, seen.In(ChannelState::kAbandoned));
    }
  }
}

void ChannelTable::Reclaim(MemberId victim) {
  for (uint32_t id = 1, end = rows_used(); id < end; ++id) {
    const ChannelWord seen = Load(id);
    if (seen.state() != ChannelState::kOpen || seen.owner() != victim) continue;
    Swap(id, seen, seen.In(ChannelState::kAged));  // 7
    HANDOFF_CRASH_POINT("channel.reclaim.after_row");
  }
  uint64_t receiver = uint64_t{victim.epoch} + 1;
  if (layout_.receivers[victim.slot].load(std::memory_order_acquire) == receiver) {
    AgeClosed();  // 8
    layout_.receivers[victim.slot].compare_exchange_strong(receiver, 0, std::memory_order_acq_rel,
                                                           std::memory_order_acquire);
  }
  AbandonIfNobodyReceives();
}

bool ChannelTable::PassIsDue() const {
  uint32_t aged = 0;
  for (uint32_t id = 1, end = rows_used(); id < end; ++id) {
    const ChannelState state = Load(id).state();
    if (state == ChannelState::kAbandoned) return true;
    if (state == ChannelState::kAged) ++aged;
  }
  return aged > kMaxChannels / 2;
}

void ChannelTable::Begin(bool memory_is_short, Pass* pass) const {
  pass->table_ = this;
  pass->memory_is_short_ = memory_is_short;
  for (uint32_t id = 1, end = rows_used(); id < end; ++id) {  // 9
    const ChannelWord word = Load(id);
    if (word.state() != ChannelState::kAged && word.state() != ChannelState::kAbandoned) continue;
    pass->noted_.set(id);
    pass->words_[id] = word.raw;
    pass->worthwhile_ = true;
  }
}

bool ChannelTable::Pass::MayFree(uint32_t channel) const {
  switch (table_->Load(channel).state()) {  // 10
    case ChannelState::kAbandoned:
      return true;
    case ChannelState::kAged:
    case ChannelState::kFree:  // only in a damaged table
      return memory_is_short_;
    case ChannelState::kOpen:
    case ChannelState::kClosed:
      break;
  }
  return false;
}

void ChannelTable::End(const Pass& pass, bool complete) {
  layout_.swept_messages.fetch_add(pass.freed_, std::memory_order_relaxed);
  if (!complete) return;
  for (uint32_t id = 1; id < kMaxChannels; ++id) {
    if (!pass.noted_[id] || pass.seen_[id]) continue;
    const ChannelWord noted{pass.words_[id]};
    Swap(id, noted, noted.Freed());  // 11
    HANDOFF_CRASH_POINT("channel.sweep.after_free");
  }
}

}  // namespace handoff

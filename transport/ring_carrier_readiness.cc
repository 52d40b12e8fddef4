// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>

#include "transport/ring_carrier.h"

namespace handoff::internal {

void RingCarrier::OnTick() {
  lock_.OtherLock();
  if (sends_) sender_.RefreshIfChanged(own_);
  if (watched_ != nullptr && watched_->armed() &&
      (table_.changes() != armed_changes_.load(std::memory_order_acquire) ||
       (awaits_message_.load(std::memory_order_acquire) && receiver_.SeemsToHaveSome()) ||
       (awaits_room_.load(std::memory_order_acquire) && sender_.HasRoom(own_)))) {
    watched_->Signal();
  }
  lock_.OtherUnlock();
}

absl::StatusOr<int> RingCarrier::Descriptor() {
  if (watched_ == nullptr) {
    absl::StatusOr<std::unique_ptr<WatchedDoor>> watched =
        context_.door_watches->Watch(*door_.load(std::memory_order_relaxed));
    if (!watched.ok()) return watched.status();
    lock_.OwnerLock();
    watched_ = *std::move(watched);
    lock_.OwnerUnlock();
    if (!sends_) table_.Register(this);
  }
  return watched_->fd();
}

bool RingCarrier::ArmDescriptor() {
  if (__builtin_expect(watched_ == nullptr || !arms_, 1)) return false;
  armed_changes_.store(table_.changes(), std::memory_order_release);
  return watched_->Arm();
}

// Also if it is armed already: by a look that found what is missing now, or for the other
// direction.
bool RingCarrier::ArmToSend() {
  awaits_room_.store(context_.pattern != Pattern::kReply, std::memory_order_release);
  return ArmDescriptor();
}

bool RingCarrier::ArmToReceive() {
  awaits_message_.store(true, std::memory_order_release);
  return ArmDescriptor();
}

Readiness RingCarrier::LookOnce() {
  Readiness ready;
  if (receives_) ready.receive = !parts_.empty() || receiver_.HasSome(own_ids_);
  if (!sends_) return ready;
  lock_.OwnerLock();
  ready.send = context_.pattern == Pattern::kReply
                   ? asker_.has_value() && sender_.HasRoomAt(own_, asker_->id)
                   : sender_.HasRoom(own_);
  lock_.OwnerUnlock();
  return ready;
}

Readiness RingCarrier::Look() {
  ArmDescriptor();
  const Readiness ready = LookOnce();
  if (!ready.receive) receiver_.WakeSenders();
  awaits_message_.store(receives_ && !ready.receive, std::memory_order_release);
  awaits_room_.store(sends_ && !ready.send && context_.pattern != Pattern::kReply,
                     std::memory_order_release);
  return ready;
}

}  // namespace handoff::internal

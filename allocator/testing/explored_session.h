// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_EXPLORED_SESSION_H_
#define HANDOFF_ALLOCATOR_TESTING_EXPLORED_SESSION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "allocator/hold_moves.h"
#include "allocator/segment_view.h"
#include "base/cache_line.h"
#include "base/mutation.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"
#include "control_queue/testing/state_space.h"

namespace handoff {

using ExploredMoves = HoldMoves<ExploredSync>;
using ExploredView = SegmentView<ExploredSync>;
using ExploredMembers = MemberTable<ExploredSync>;

inline constexpr uint32_t kExploredSlots = 4;  // 1 to this
inline constexpr size_t kExploredActors = 5;

// What all scenarios share: a member table, the life bytes of the lock file, and which actor is
// which member. Lies in the shared bytes.
struct ExploredSession {
  alignas(2 * kCacheLineSize) std::byte rows[ExploredMembers::BytesNeeded()] = {};
  // 1 while the kernel holds byte i for a living process.
  ExploredSync::Atomic<uint32_t> life_bytes[kExploredSlots + 1];
  // The member that an actor is, packed; 0: none, or killed.
  Ghost<uint64_t> member_of[kExploredActors];

  ExploredMembers members() { return ExploredMembers(rows); }

  // `actor` becomes the member in `slot`, whose row is free. The probe of the byte is granted
  // first.
  MemberId Join(size_t actor, uint32_t slot) {
    life_bytes[slot].store(1, std::memory_order_release);
    const std::optional<MemberId> self = members().Publish(slot, MemberIdentity{});
    if (!self.has_value()) Violate("the row of a free slot is in use");
    member_of[actor].Set(self->Packed());
    return *self;
  }

  void Kill(size_t actor) {
    const MemberId member = MemberId::FromPacked(member_of[actor].Get());
    if (member.slot == 0) return;
    member_of[actor].Set(0);
    life_bytes[member.slot].store(0, std::memory_order_release);
  }

  bool IsReallyAlive(MemberId member) const {
    for (const auto& id : member_of) {
      if (id.Get() == member.Packed()) return member.slot != 0;
    }
    return false;
  }

  // Whether somebody should look at the row of `slot`: it is dead, or its byte is free.
  bool LooksDead(uint32_t slot) {
    const MemberWord word = members().Word(slot);
    return word.state == MemberState::kDead ||
           (word.state == MemberState::kLive &&
            life_bytes[slot].load(std::memory_order_acquire) == 0);
  }

  // Step 1 of a reclaim: the member found dead in `slot`, or nobody.
  std::optional<MemberId> FindDead(uint32_t slot) {
    ExploredMembers table = members();
    const auto byte_is_free = [&] { return life_bytes[slot].load(std::memory_order_acquire) == 0; };
    if (ExploredSync::Mutated(Mutation::kProbeBeforeRow)) {
      if (!byte_is_free()) return std::nullopt;
      const MemberId member{slot, table.Word(slot).epoch};
      if (!table.MarkDead(member)) return std::nullopt;
      return member;
    }
    const MemberWord word = table.Word(slot);
    if (word.state == MemberState::kFree) return std::nullopt;
    const MemberId member{slot, word.epoch};
    if (word.state == MemberState::kLive && (!byte_is_free() || !table.MarkDead(member))) {
      return std::nullopt;
    }
    return member;
  }

  // No living member's row says anything else than live.
  void CheckRows() {
    for (const auto& id : member_of) {
      const MemberId member = MemberId::FromPacked(id.Get());
      if (member.slot != 0 && !members().Alive(member)) Violate("a living member was buried");
    }
  }

  void CheckRowsAtRest() {
    for (uint32_t slot = 1; slot <= kExploredSlots; ++slot) {
      const MemberWord word = members().Word(slot);
      if (word.state == MemberState::kDead ||
          (word.state == MemberState::kLive && !IsReallyAlive({slot, word.epoch}))) {
        Violate("a dead member was never reclaimed");
      }
    }
  }

  bool AnybodyAlive() const {
    for (const auto& id : member_of) {
      if (id.Get() != 0) return true;
    }
    return false;
  }
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_EXPLORED_SESSION_H_

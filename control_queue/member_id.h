// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_MEMBER_ID_H_
#define HANDOFF_CONTROL_QUEUE_MEMBER_ID_H_

#include <cstdint>

namespace handoff {

// Slots of a session's member table: 0 to kMaxMembers - 1. Slot 0 is never used, because slot i
// belongs to byte i of the lock file and byte 0 is the guard; so a session has at most kMaxMembers
// - 1 members at a time.
inline constexpr uint32_t kMaxMembers = 1024;

// The slot number that means "nobody" where a member is named in 12 bits.
inline constexpr uint32_t kNoMember = 0xFFF;

// One member for all time. A slot is used again after its member has gone, with the next epoch, so
// whatever may outlive a member names it by both.
struct MemberId {
  uint32_t slot = 0;   // 1 to kMaxMembers - 1; 0 names nobody
  uint32_t epoch = 0;  // +1 whenever the slot becomes free

  // Both in one 64-bit word, for shared memory. Zero names nobody.
  constexpr uint64_t Packed() const { return uint64_t{epoch} << 32 | slot; }
  static constexpr MemberId FromPacked(uint64_t packed) {
    return {static_cast<uint32_t>(packed), static_cast<uint32_t>(packed >> 32)};
  }

  friend constexpr bool operator==(MemberId, MemberId) = default;
};

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_MEMBER_ID_H_

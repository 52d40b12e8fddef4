// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_HOLD_H_
#define HANDOFF_ALLOCATOR_HOLD_H_

#include <cstdint>

#include "base/check.h"

namespace handoff {

// Who has a block, in the order of the numbers in shared memory. `docs/ownership.md` has the moves.
enum class HoldState : uint32_t {
  kFree = 0,      // nobody's; the owner of the page may allocate it
  kHeld = 1,      // one live message of `holder`
  kSent = 2,      // on its way from `holder` (kNobody once the sender is dead) to `receiver`
  kPosted = 3,    // sent by `holder` on channel `receiver`, the taker is not known yet
  kShared = 4,    // the references are the words of share group `row`
  kBundled = 5,   // a part of bundle `row`
  kReleased = 6,  // region block that waits for its owner's callback
  kLive = 7,      // only the word of a share group: the group is in use
};

// The id of a member in a hold: 1 to 4094. kNobody stands for a sender that has died.
inline constexpr uint32_t kNobody = 0xFFF;

namespace internal {

// A move was made from a state that it does not begin in. Away from the moves, so that these stay
// short.
[[noreturn, gnu::cold, gnu::noinline]] inline void StopForHoldState(uint64_t raw) {
  HANDOFF_CHECK(false) << "no such move from the hold " << raw;
  __builtin_unreachable();
}

}  // namespace internal

// One word of the block table, the whole truth about one reference:
//
//   generation 37 | state 3 | holder 12 | receiver 12
//
// In shared and bundled the two ids are one 24-bit row number. All zero is (free, generation 0):
// the words are never initialised and never reset. The generation goes up by one at allocate and at
// every mark, so the value under which a block was published never comes back (2^37 moves on one
// block).
//
// A value type without atomics: each function gives the word after one move and changes nothing. It
// stops the program when the move does not start from that state, because the caller has to have
// checked what it saw.
class HoldWord {
 public:
  static constexpr uint32_t kGenerationBits = 37;
  static constexpr uint64_t kGenerationMask = (uint64_t{1} << kGenerationBits) - 1;
  // Where the words of blocks that are spans begin to count. The page of such a block may have been
  // one of small blocks before, whose words are others under the same ids: a handle of the one kind
  // must not match a word of the other.
  static constexpr uint64_t kFirstLargeGeneration = uint64_t{1} << (kGenerationBits - 1);
  static constexpr uint32_t kIdMask = 0xFFF;
  static constexpr uint32_t kRowMask = 0xFFFFFF;

  constexpr HoldWord() = default;
  explicit constexpr HoldWord(uint64_t raw) : raw_(raw) {}
  static constexpr HoldWord Of(HoldState state, uint64_t generation, uint32_t holder,
                               uint32_t receiver) {
    return HoldWord(((generation & kGenerationMask) << 27) |
                    (uint64_t{static_cast<uint32_t>(state)} << 24) |
                    (uint64_t{holder & kIdMask} << 12) | (receiver & kIdMask));
  }

  constexpr uint64_t raw() const { return raw_; }
  constexpr uint64_t generation() const { return raw_ >> 27; }
  constexpr HoldState state() const { return static_cast<HoldState>((raw_ >> 24) & 7); }
  constexpr uint32_t holder() const { return static_cast<uint32_t>(raw_ >> 12) & kIdMask; }
  constexpr uint32_t receiver() const { return static_cast<uint32_t>(raw_) & kIdMask; }
  constexpr uint32_t row() const { return static_cast<uint32_t>(raw_) & kRowMask; }

  // Of a word of generation 0: the same of that generation, below 2^kGenerationBits.
  constexpr HoldWord WithGeneration(uint64_t generation) const {
    return HoldWord(raw_ | generation << 27);
  }

  constexpr bool IsFree() const { return state() == HoldState::kFree; }
  constexpr bool IsHeldBy(uint32_t member) const {
    return state() == HoldState::kHeld && holder() == member;
  }
  // On its way to `receiver`, from a living or a dead sender.
  constexpr bool IsSentTo(uint32_t receiver_id) const {
    return state() == HoldState::kSent && receiver() == receiver_id;
  }

  // free -> held(member), generation + 1.
  constexpr HoldWord Allocated(uint32_t member) const {
    Expect(HoldState::kFree);
    return Of(HoldState::kHeld, generation() + 1, member, 0);
  }
  // held -> sent(holder -> receiver), generation + 1.
  constexpr HoldWord Marked(uint32_t receiver_id) const {
    Expect(HoldState::kHeld);
    // All fields in one sum: the generation wraps off the top, as Of() has it.
    return HoldWord(((raw_ + kOneGeneration) & ~(kStateMask | kIdMask)) |
                    (uint64_t{static_cast<uint32_t>(HoldState::kSent)} << 24) |
                    (receiver_id & kIdMask));
  }
  // held -> posted(holder -> channel), generation + 1.
  constexpr HoldWord Posted(uint32_t channel) const {
    Expect(HoldState::kHeld);
    return Of(HoldState::kPosted, generation() + 1, holder(), channel);
  }
  // sent or posted -> held(receiver).
  constexpr HoldWord Accepted(uint32_t receiver_id) const {
    ExpectUnderWay();
    return Of(HoldState::kHeld, generation(), receiver_id, 0);
  }
  // sent or posted -> held(holder).
  constexpr HoldWord TakenBack() const {
    ExpectUnderWay();
    return Of(HoldState::kHeld, generation(), holder(), 0);
  }
  // sent or posted of a dead sender -> the same with holder kNobody.
  constexpr HoldWord Relabelled() const {
    ExpectUnderWay();
    return Of(state(), generation(), kNobody, receiver());
  }
  // held -> shared(group); held -> bundled(bundle).
  constexpr HoldWord SharedBy(uint32_t group_row) const {
    Expect(HoldState::kHeld);
    return Of(HoldState::kShared, generation(), (group_row >> 12) & kIdMask, group_row);
  }
  constexpr HoldWord BundledIn(uint32_t bundle_row) const {
    Expect(HoldState::kHeld);
    return Of(HoldState::kBundled, generation(), (bundle_row >> 12) & kIdMask, bundle_row);
  }
  // bundled -> held(member).
  constexpr HoldWord Unpacked(uint32_t member) const {
    Expect(HoldState::kBundled);
    return Of(HoldState::kHeld, generation(), member, 0);
  }
  // held -> live: the word of a share group whose target and references are written.
  constexpr HoldWord MadeLive() const {
    Expect(HoldState::kHeld);
    return Of(HoldState::kLive, generation(), 0, 0);
  }
  // held -> released(owner of the region).
  constexpr HoldWord ReleasedTo(uint32_t region_owner) const {
    return Of(HoldState::kReleased, generation(), region_owner, 0);
  }
  // any state -> free.
  constexpr HoldWord Freed() const { return Of(HoldState::kFree, generation(), 0, 0); }

  friend constexpr bool operator==(HoldWord, HoldWord) = default;

 private:
  static constexpr uint64_t kOneGeneration = uint64_t{1} << 27;
  static constexpr uint64_t kStateMask = uint64_t{7} << 24;

  constexpr void Expect(HoldState wanted) const {
    if (__builtin_expect(state() != wanted, 0)) internal::StopForHoldState(raw_);
  }
  constexpr void ExpectUnderWay() const {
    if (__builtin_expect(state() != HoldState::kSent && state() != HoldState::kPosted, 0)) {
      internal::StopForHoldState(raw_);
    }
  }

  uint64_t raw_ = 0;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_HOLD_H_

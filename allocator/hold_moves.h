// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_HOLD_MOVES_H_
#define HANDOFF_ALLOCATOR_HOLD_MOVES_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "allocator/hold.h"
#include "base/check.h"
#include "base/mutation.h"

namespace handoff {

namespace internal {

// A word that a living member holds was changed by somebody else, or a block is used after it was
// given up.
[[noreturn, gnu::cold, gnu::noinline]] inline void StopForMovedHold(HoldWord seen, HoldWord held) {
  HANDOFF_CHECK_EQ(seen.raw(), held.raw()) << "the hold of a block in use has changed";
  __builtin_unreachable();
}

}  // namespace internal

// The moves of one hold. There are two kinds:
//
//   plain  load (acquire), check, store (release). Right because, while m lives, nobody but m
//   changes a
//          word that m holds, or a free word in m's page. A member that dies between the two does
//          not store; one that is stopped finds the word as it left it.
//   CAS    of the exact value (acquire and release). Every move for which two may compete.
//
// Pairs: the store of free (release) with the load of the next allocate (acquire): all reads of the
// former holder are over. The mark (release) with the receiver's CAS (acquire).
// Killed after a move: the word names the dead member, and its reclaim takes it from there.
template <class Sync>
class HoldMoves {
 public:
  using Word = typename Sync::template Atomic<uint64_t>;

  static HoldWord Load(const Word& word) { return HoldWord(word.load(std::memory_order_acquire)); }

  // Plain, by the owner of the page (or row run): free -> held(member). Nothing when the word is
  // not free: the hint that led here was stale.
  static std::optional<HoldWord> Allocate(Word& word, uint32_t member) {
    const HoldWord seen = Load(word);
    if (!seen.IsFree()) return std::nullopt;
    return AllocateSeen(word, seen, member);
  }
  // The second half: `seen` is what the word holds, and is free.
  static HoldWord AllocateSeen(Word& word, HoldWord seen, uint32_t member) {
    const HoldWord held = seen.Allocated(member);
    word.store(held.raw(), std::memory_order_release);
    return held;
  }

  // Plain, by the owner of the page, who has just claimed it: the word of a block that is a span
  // leaves the generations of small blocks. Killed before: the next claim does it.
  static void LeaveSmallGenerations(Word& word) {
    const HoldWord seen = Load(word);
    if (!seen.IsFree() || seen.generation() >= HoldWord::kFirstLargeGeneration) return;
    word.store(HoldWord::Of(HoldState::kFree, HoldWord::kFirstLargeGeneration, 0, 0).raw(),
               std::memory_order_release);
  }

  // Plain, by the holder of `held`: -> sent(member -> receiver).
  static HoldWord Mark(Word& word, HoldWord held, uint32_t receiver) {
    Expect(word, held);
    HoldWord sent = held.Marked(receiver);
    if (Mutated<Sync>(Mutation::kNoGenerationAtMark)) {
      sent = HoldWord::Of(HoldState::kSent, held.generation(), held.holder(), receiver);
    }
    word.store(sent.raw(), std::memory_order_release);
    return sent;
  }

  // Plain, by the holder of `held`: -> posted(member -> channel).
  static HoldWord Post(Word& word, HoldWord held, uint32_t channel) {
    Expect(word, held);
    const HoldWord posted = held.Posted(channel);
    word.store(posted.raw(), std::memory_order_release);
    return posted;
  }

  // Plain, by the holder of `held`: to any word that only a holder may make of it (shared, bundled,
  // live, released).
  static void Replace(Word& word, HoldWord held, HoldWord next) {
    Expect(word, held);
    word.store(next.raw(), std::memory_order_release);
  }

  // Plain, by the holder of `held`: -> free.
  static void Release(Word& word, HoldWord held) { Replace(word, held, held.Freed()); }

  // CAS, by the receiver of a handle with this generation: sent(any -> member) -> held(member).
  // Nothing when the handle is stale. Tried again when only the holder became kNobody meanwhile.
  static std::optional<HoldWord> Accept(Word& word, uint64_t generation, uint32_t member) {
    HoldWord seen = Load(word);
    while (seen.IsSentTo(member) && seen.generation() == generation) {
      const HoldWord held = seen.Accepted(member);
      if (Swap(word, seen, held)) return held;
    }
    return std::nullopt;
  }

  // CAS, by a receiver on `channel`: posted(any -> channel) -> held(member).
  static std::optional<HoldWord> AcceptPosted(Word& word, uint64_t generation, uint32_t channel,
                                              uint32_t member) {
    HoldWord seen = Load(word);
    while (seen.state() == HoldState::kPosted && seen.receiver() == channel &&
           seen.generation() == generation) {
      const HoldWord held = seen.Accepted(member);
      if (Swap(word, seen, held)) return held;
    }
    return std::nullopt;
  }

  // CAS, by the sender: sent or posted(member -> any) with this generation -> held(member). Nothing
  // when the receiver was faster.
  static std::optional<HoldWord> TakeBack(Word& word, uint64_t generation, uint32_t member) {
    HoldWord seen = Load(word);
    const bool under_way = seen.state() == HoldState::kSent || seen.state() == HoldState::kPosted;
    if (!under_way || seen.holder() != member || seen.generation() != generation) {
      return std::nullopt;
    }
    const HoldWord held = seen.TakenBack();
    if (!Swap(word, seen, held)) return std::nullopt;
    return held;
  }

  // CAS of the exact value. On failure `seen` is what the word holds now.
  static bool Swap(Word& word, HoldWord& seen, HoldWord next) {
    uint64_t raw = seen.raw();
    if (word.compare_exchange_strong(raw, next.raw(), std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      return true;
    }
    seen = HoldWord(raw);
    return false;
  }

 private:
  static void Expect(const Word& word, HoldWord held) {
    const HoldWord seen = Load(word);
    if (__builtin_expect(seen != held, 0)) internal::StopForMovedHold(seen, held);
  }
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_HOLD_MOVES_H_

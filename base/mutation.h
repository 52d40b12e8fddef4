// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_MUTATION_H_
#define HANDOFF_BASE_MUTATION_H_

#include <atomic>

namespace handoff {

// The shortcuts that look right and are wrong (`docs/ownership.md`). A test that tries every
// interleaving takes one of them by hand, to show that it would be seen. So does a kill test, with
// processes and TakenMutation. A Sync that has no `Mutated` takes none, at no cost.
enum class Mutation {
  kNone,
  kNoGenerationAtMark,   // take back and send again: the old entry matches
  kPublishBeforeBody,    // the lap of a ring entry is stored before what it covers
  kNoRowLook,            // reclaim: load, CAS, no look at the row between
  kProbeBeforeRow,       // the life byte is probed first, the row loaded second
  kStealFreePages,       // wholly free pages are taken from a living owner
  kRestartAtLapOne,      // a ring used again keeps the laps of its former use
  kLookThenGone,         // consumer looks at the entry, then at producer gone
  kNoDrain,              // nobody drains a living sender's ring to a dead receiver
  kNoRelabel,            // published words of a dead sender stay sent(dead -> receiver)
  kNoLookAtReceiver,     // relabel without looking at the receiver afterwards
  kNoPageGeneration,     // a page word that does not count its uses
  kGoneWithoutOther,     // a gone bit is set whatever the other bit has become
  kNoSecondLookAtHead,   // entry used though head has moved while it was read
  kReadGroupOnce,        // words of a group are read once
  kShareBeforeLive,      // block shared first, group live second
  kNoGroupSweep,         // reclaim does not look for groups whose words are all free
  kGroupFreedFirst,      // group freed before its block
  kNoSecondLookAtGroup,  // sweep of a group without a second look at its word
  kFreePartsBlindly,     // parts of a bundle are freed without looking at its word before each
  kBundleWordOnly,       // a bundle is freed without its parts
};

template <class Sync>
constexpr bool Mutated(Mutation mutation) {
  if constexpr (requires { Sync::Mutated(mutation); }) {
    return Sync::Mutated(mutation);
  } else {
    return false;
  }
}

namespace internal {
// What RealSync takes, in builds with crash points.
inline constinit std::atomic<Mutation> taken_mutation{Mutation::kNone};
}  // namespace internal

// While one lives, this process takes a shortcut, and so do those that it forks. For tests, in
// builds with crash points. One at a time.
class TakenMutation {
 public:
  explicit TakenMutation(Mutation mutation) {
    internal::taken_mutation.store(mutation, std::memory_order_relaxed);  // before the threads
  }
  ~TakenMutation() { internal::taken_mutation.store(Mutation::kNone, std::memory_order_relaxed); }
  TakenMutation(const TakenMutation&) = delete;
  TakenMutation& operator=(const TakenMutation&) = delete;
};

}  // namespace handoff

#endif  // HANDOFF_BASE_MUTATION_H_

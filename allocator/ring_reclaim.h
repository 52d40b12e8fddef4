// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_RING_RECLAIM_H_
#define HANDOFF_ALLOCATOR_RING_RECLAIM_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "allocator/hold_moves.h"
#include "allocator/part_name.h"
#include "base/crash_point.h"
#include "base/mutation.h"
#include "control_queue/member_table.h"
#include "control_queue/spsc_ring.h"

namespace handoff {

// The steps of the reclaim of member v that concern one ring; the row of v is dead. By anybody, any
// number at a time.
//
// v is the producer: what it published stays deliverable, but nobody takes it back any more, so it
// must not depend on v's id:
//   1. note ring word, ends, head
//   2. from head while the lap is valid: read the entry; ring word unchanged? load the hold.
//      sent(v -> r) as the entry says: still (epoch, dead)? CAS -> sent(none -> r)
//      then, also if it was sent(none -> r) already: look at r: row of its epoch live, consumer not
//      gone? Else free it.
//   3. first invalid lap: producer gone, by CAS with the other bit as noted in 1; failed: again
//   from 1
//   4. wake the consumer
//   5. r's row is not live? Consumer gone as well: v may have been killed when it had opened the
//   ring to a dead r and not looked at r's row yet, while r's reclaim had passed already. What was
//   published is freed by then: by 2, or with the words of r.
// v is the consumer:  consumer gone, wake the producer, which takes back what is unread. An opening
// ring of v: free. The look at r after the relabelling: r's own reclaim may have passed the word
// before it was relabelled; one of both sees the other, because both moves before the looks are
// locked operations.
//
// `Names` as in ShareGroups, and Release(name, HoldWord seen): the word as seen -> free by CAS,
// with all that hangs on it.
template <class Sync, class Names>
class RingReclaim {
 public:
  using Moves = HoldMoves<Sync>;

  RingReclaim(const MemberTable<Sync>& members, Names names) : members_(members), names_(names) {}

  // True if the ring concerned the victim and somebody at its other end should be told. Also if the
  // victim's end has gone already: who has done that may have been killed before it told.
  bool Ring(SpscRing<Sync>& ring, MemberId victim) const {
    const RingWord word = ring.Word();
    if (word.opening()) {
      if (word.opener() == victim.slot && StillDead(victim)) ring.AbandonOpening(word);
      return false;
    }
    const auto look = ring.Look();
    if (!look.has_value()) return false;
    bool concerned = false;
    if (look->ends.producer == victim) {
      if (!look->word.producer_gone()) {
        Producer(ring, victim, [this, victim] { return StillDead(victim); });
      }
      concerned = EndUnread(ring, *look);
    }
    if (look->ends.consumer == victim) {
      if (!look->word.consumer_gone()) {
        ConsumerGone(ring, look->word);
        HANDOFF_CRASH_POINT("ring.reclaim.after_consumer_gone");
      }
      concerned = concerned || !look->word.producer_gone();
    }
    return concerned;
  }

  // The end of a living consumer that closes early, by itself; `word` is the ring's, open. What is
  // unread is taken back by the producer, or freed here where that has gone.
  void CloseConsumer(SpscRing<Sync>& ring, RingWord word, MemberId self) const {
    const uint64_t generation = word.generation();
    while (word.generation() == generation && !word.consumer_gone()) {
      if (word.producer_gone()) {
        // Nobody else will look at what is left.
        RingConsumer<Sync> consumer(ring);
        RingBody body;
        for (uint64_t i = 0; i <= ring.capacity() && consumer.Peek(&body) == RingLook::kReady;
             ++i) {
          const PartName name = PartName::FromPacked({body.word, body.tag});
          if (typename Moves::Word* hold = names_.Find(name); hold != nullptr) {
            const std::optional<HoldWord> held = Moves::Accept(*hold, name.generation, self.slot);
            if (held.has_value()) names_.Release(name, *held);
          }
          consumer.Advance();
        }
      }
      if (ring.SetConsumerGone(&word)) break;
    }
  }

  // The end of a living producer that closes, by itself: as for a dead one, but without the look at
  // its row. What it has published stays deliverable and does not depend on it any more.
  void CloseProducer(SpscRing<Sync>& ring, MemberId self) const {
    Producer(ring, self, [] { return true; });
  }

 private:
  bool StillDead(MemberId victim) const {
    return members_.Word(victim.slot) == MemberWord{victim.epoch, MemberState::kDead};
  }

  static void ConsumerGone(SpscRing<Sync>& ring, RingWord seen) {
    const uint64_t generation = seen.generation();
    while (seen.generation() == generation && !seen.consumer_gone() &&
           !ring.SetConsumerGone(&seen)) {
    }
  }

  // 5. The producer has gone. False if nobody is left to receive what is in the ring.
  bool EndUnread(SpscRing<Sync>& ring, const typename SpscRing<Sync>::Snapshot& look) const {
    Sync::FullFence();  // before the look at r
    const RingWord now = ring.Word();
    if (now.generation() != look.word.generation() || now.consumer_gone()) return false;
    if (members_.Alive(look.ends.consumer)) return true;
    if (now.producer_gone()) ConsumerGone(ring, now);
    return false;
  }

  template <class Gone>
  void Producer(SpscRing<Sync>& ring, MemberId victim, Gone gone) const {
    for (;;) {
      const auto look = ring.Look();  // 1
      if (!look.has_value() || look->ends.producer != victim || look->word.producer_gone()) return;
      for (uint64_t i = 0; i < ring.capacity(); ++i) {  // 2
        const std::optional<RingBody> body = ring.ReadPublished(look->head + i);
        if (!body.has_value()) break;
        const RingWord now = ring.Word();
        if (now.generation() != look->word.generation() || now.producer_gone()) return;
        if (!Entry(ring, *look, PartName::FromPacked({body->word, body->tag}), victim, gone))
          return;
      }
      RingWord seen = look->word;
      if (ring.SetProducerGone(&seen)) {  // 3
        HANDOFF_CRASH_POINT("ring.reclaim.after_producer_gone");
        return;
      }
      if (Mutated<Sync>(Mutation::kGoneWithoutOther)) {
        while (!ring.SetProducerGone(&seen)) {
        }
        return;
      }
    }
  }

  // False: the victim's row has moved on.
  template <class Gone>
  bool Entry(SpscRing<Sync>& ring, const typename SpscRing<Sync>::Snapshot& look,
             const PartName& name, MemberId victim, Gone gone) const {
    if (name.kind == PartKind::kEmpty) return true;
    typename Moves::Word* word = names_.Find(name);
    if (word == nullptr) return true;
    const MemberId receiver = look.ends.consumer;
    HoldWord seen = Moves::Load(*word);
    for (;;) {
      if (!seen.IsSentTo(receiver.slot) || seen.generation() != name.generation) return true;
      if (seen.holder() == kNobody) break;
      if (seen.holder() != victim.slot) return true;
      if (!gone()) return false;
      if (Mutated<Sync>(Mutation::kNoRelabel)) return true;
      if (Moves::Swap(*word, seen, seen.Relabelled())) {
        HANDOFF_CRASH_POINT("ring.reclaim.after_relabel");
        seen = seen.Relabelled();
        break;
      }
    }
    if (Mutated<Sync>(Mutation::kNoLookAtReceiver)) return true;
    Sync::FullFence();  // before the look at r
    const RingWord now = ring.Word();
    const bool same_use = now.generation() == look.word.generation();
    const bool lives = members_.Alive(receiver) && !(same_use && now.consumer_gone());
    if (!lives) names_.Release(name, seen);
    return true;
  }

  const MemberTable<Sync>& members_;
  Names names_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_RING_RECLAIM_H_

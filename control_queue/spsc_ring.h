// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_SPSC_RING_H_
#define HANDOFF_CONTROL_QUEUE_SPSC_RING_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "base/cache_line.h"
#include "base/check.h"
#include "base/mutation.h"
#include "base/prefetch.h"
#include "base/sync.h"
#include "control_queue/member_id.h"

namespace handoff {

// What an entry carries: 112 bits. The ring does not look at them.
struct RingBody {
  static constexpr uint32_t kTagBits = 48;

  uint64_t word = 0;
  uint64_t tag = 0;  // below 2^kTagBits

  friend constexpr bool operator==(const RingBody&, const RingBody&) = default;
};

// The word of a ring, `generation 49 | opener 12 | opening | consumer there | producer there`. Zero
// is a free ring. The generation moves on whenever the ring is claimed, so a value that was left
// never comes back.
struct RingWord {
  uint64_t raw = 0;

  // "Gone" also holds for both ends while the ring is free or opening.
  constexpr bool producer_gone() const { return (raw & kProducerBit) == 0; }
  constexpr bool consumer_gone() const { return (raw & kConsumerBit) == 0; }
  // Somebody may claim it.
  constexpr bool free() const { return (raw & kUseMask) == 0; }
  // Claimed by opener(), not yet of use to anybody.
  constexpr bool opening() const { return (raw & kOpeningBit) != 0; }
  constexpr uint32_t opener() const {
    return static_cast<uint32_t>(raw >> kOpenerShift) & kNoMember;
  }
  constexpr uint64_t generation() const { return raw >> kGenerationShift; }

  constexpr RingWord WithoutProducer() const { return {raw & ~kProducerBit}; }
  constexpr RingWord WithoutConsumer() const { return {raw & ~kConsumerBit}; }
  // Free -> opening by `slot`, with the next generation.
  constexpr RingWord Claimed(uint32_t slot) const {
    return {(generation() + 1) << kGenerationShift | uint64_t{slot & kNoMember} << kOpenerShift |
            kOpeningBit};
  }
  // Opening -> open; opening -> free.
  constexpr RingWord Opened() const {
    return {generation() << kGenerationShift | kProducerBit | kConsumerBit};
  }
  constexpr RingWord Abandoned() const { return {generation() << kGenerationShift}; }

  friend constexpr bool operator==(RingWord, RingWord) = default;

 private:
  static constexpr uint64_t kProducerBit = 1;
  static constexpr uint64_t kConsumerBit = 2;
  static constexpr uint64_t kOpeningBit = 4;
  static constexpr uint32_t kOpenerShift = 3;
  static constexpr uint32_t kGenerationShift = 15;
  static constexpr uint64_t kUseMask = (uint64_t{1} << kGenerationShift) - 1;
};

// Who uses a ring, and how. Fixed from its opening until it is free again.
struct RingEnds {
  MemberId producer = {};
  MemberId consumer = {};
  // The producer may take entries back while the consumer lives. Costs the consumer a second look
  // at `head` and a CAS for each entry.
  bool take_back_from_living = false;

  friend constexpr bool operator==(const RingEnds&, const RingEnds&) = default;
};

// The shared state of a ring but for its entries. First line: changes when the ring is opened or
// closed and when somebody sleeps, so both ends can look at it for every message. Second line:
// written by the consumer for every message.
template <class Sync>
struct alignas(kCacheLineSize) RingHeader {
  template <class T>
  using Atomic = typename Sync::template Atomic<T>;

  Atomic<uint64_t> word;      // RingWord
  Atomic<uint64_t> producer;  // MemberId
  Atomic<uint64_t> consumer;  // MemberId
  Atomic<uint32_t> take_back_from_living;
  // Futex words of the carrier. The ring only clears them when it is opened.
  Atomic<uint32_t> consumer_sleeping;
  Atomic<uint32_t> producer_sleeping;
  // Index of the oldest entry that was neither received nor taken back.
  alignas(kCacheLineSize) Atomic<uint64_t> head;
};
static_assert(std::is_standard_layout_v<RingHeader<RealSync>> &&
              sizeof(RingHeader<RealSync>) == 2 * kCacheLineSize);

// Four to a line, because what a ring costs is its lines going from processor to processor. `seal`
// is `lap 16 | tag 48` in one word: the entry of index j is published while its lap is that of j,
// which is j / capacity + 1 in 16 bits. Within one use of a ring a place holds the lap of its index
// or the one before, or 0 in the first lap, so that 16 bits tell them apart.
template <class Sync>
struct alignas(16) RingEntry {
  typename Sync::template Atomic<uint64_t> word;
  typename Sync::template Atomic<uint64_t> seal;
};
static_assert(std::is_standard_layout_v<RingEntry<RealSync>> && sizeof(RingEntry<RealSync>) == 16);

// What a look at a ring found.
enum class [[nodiscard]] RingLook{
    kReady,    // an entry is there; room is there
    kWait,     // nothing there; no room
    kCorrupt,  // the peer wrote a cursor that cannot be: stop using the ring
};

// A single-producer single-consumer ring of handles over bytes that the caller supplies and keeps
// alive. This class is the view that everybody has, a few words to be copied; the ends work through
// RingProducer and RingConsumer below. Zeroed bytes are a free ring.
//
// There is no shared tail: an entry says by its lap that it is published. Indices count up from 0
// in each use. Handing over entry j from producer P to consumer C (what happens to the block is the
// caller's business):
//   1. P: private index - head < capacity                        (acquire) pairs with 6: C has read
//      what P overwrites
//   2. P stores the word                                                                 (relaxed)
//   3. P stores the seal, lap and tag: published                                         (release)
//   4. C loads the seal at head, lap valid (acquire), then the word (relaxed)  pairs with 3: C sees
//      the body, and all that P did before
//   5. Only where entries may be taken back from a living consumer: C loads head again after an
//      acquire fence. Changed: again from 4. Then the caller accepts the block.
//   6. C moves head j -> j + 1                                  (release; CAS, acq_rel, if 5
//   applies)
// Taking entry j back: the caller takes the block, then
//   7. P moves head j -> j + 1 (CAS, acq_rel), then a release fence before it writes the entry
//      again: had C read a part of the new body in 4, it would see the new head in 5.
// P dies before 3: nobody reads the entry. After 3: it is delivered, and the reclaimer of P
// relabels its block. C dies after 5: if it had accepted the block, the entry is stale for whoever
// looks next, because the block is no longer sent; P drains. P dies within taking back: likewise.
// Either stopped anywhere: the other goes on as far as the ring has room or entries.
//
// The end of a ring: each end goes by CAS of the whole word *with the other bit as seen*, so that
// neither overlooks what the other left behind. The second one frees the ring, and must not touch
// it afterwards:
//   a. C sees the producer gone (acquire), *then* finds the ring empty, then goes.
//   b. C closes early: goes with the producer there. Fails (P has gone meanwhile): C receives what
//      is left, then a.
//   c. P closes, or drains a ring whose consumer has gone: takes all back, then goes.
//   d. The reclaimer of P passes over the ring, then goes with the consumer as it was when the pass
//      began. Fails: passes again.
// Dead before the CAS: its reclaimer goes in its place. After it: nothing is left to do.
//
// The use of a ring begins:
//   e. Opener O claims it: free -> opening(O), generation + 1                       (CAS, acq_rel)
//   f. O clears the seals, so that no entry of an earlier use is valid in this one       (release)
//   g. O stores ends and head                                                            (release)
//   h. O opens it                                                                   (CAS, acq_rel)
// O dies between e and h: its reclaimer makes the ring free again, and the next opener begins at e.
// Whoever may come late loads the word before and after it reads ends or entries: with the same
// generation both times, they are those of this use.
template <class Sync>
class SpscRing {
 public:
  static constexpr uint64_t kMaxCapacity = uint64_t{1} << 24;

  // `entries` are a power of two up to kMaxCapacity. Their number comes from the caller and never
  // from what a peer can write, so no peer can lead us outside.
  SpscRing(RingHeader<Sync>& header, std::span<RingEntry<Sync>> entries)
      : header_(&header),
        entries_(entries.data()),
        mask_(entries.size() - 1),
        shift_(static_cast<uint32_t>(std::countr_zero(entries.size()))) {
    HANDOFF_CHECK(std::has_single_bit(entries.size()) && entries.size() <= kMaxCapacity)
        << "capacity " << entries.size();
  }

  uint64_t capacity() const { return mask_ + 1; }

  // The ring's word (acquire).
  RingWord Word() const { return {header_->word.load(std::memory_order_acquire)}; }

  // Steps e to h for a free ring. Returns the word of the open ring, or nothing if the ring is not
  // free. `opener` is the slot of the calling member. Looks at every entry.
  std::optional<RingWord> Open(uint32_t opener, const RingEnds& ends) {
    return Open(opener, ends, [] {});
  }
  // The same; `prepare()` is called between g and h, when the ring is the opener's and nobody uses
  // it yet: to write what else belongs to this use.
  template <class Prepare>
  std::optional<RingWord> Open(uint32_t opener, const RingEnds& ends, Prepare prepare);

  // For the reclaimer of a dead opener: opening -> free. False if the word is no longer `seen`,
  // which is opening().
  bool AbandonOpening(RingWord seen) { return Move(&seen, seen.Abandoned()); }

  // The end goes, with the other end as in `*seen`, which says that it is there. False if the word
  // was not `*seen`; that then becomes what the word is. True: `*seen` is the word now; if it is
  // free(), the ring must not be touched any more.
  [[nodiscard]] bool SetProducerGone(RingWord* seen) { return Move(seen, seen->WithoutProducer()); }
  [[nodiscard]] bool SetConsumerGone(RingWord* seen) { return Move(seen, seen->WithoutConsumer()); }

  // A ring at a moment: what scans and reclaimers look at.
  struct Snapshot {
    RingWord word;
    RingEnds ends;
    uint64_t head = 0;  // may be any number: the consumer writes it

    friend bool operator==(const Snapshot&, const Snapshot&) = default;
  };

  // Nothing if the ring is free or opening. Repeats only while the word changes.
  std::optional<Snapshot> Look() const;

  // For a reclaimer of the producer: the body of the entry of index `index` if it is published.
  // From the head of the snapshot on, up to the first that is not; at most capacity() are. Then the
  // caller looks whether Word() still has the same generation and no more gone than before;
  // otherwise the body may be that of a later use.
  std::optional<RingBody> ReadPublished(uint64_t index) const {
    RingBody body;
    const bool published = Read(index, &body);
    Sync::AcquireFence();  // for the caller's look at the word; pairs with the one in
                           // RingProducer()
    if (!published) return std::nullopt;
    return body;
  }

  // Futex words of the carrier: the consumer waits for an entry, the producer for room. Whoever has
  // published or advanced looks after Sync::CompilerFence(); whoever is about to sleep sets its
  // word, passes a rare-side barrier, and looks at the ring once more.
  typename Sync::template Atomic<uint32_t>& consumer_sleeping() const {
    return header_->consumer_sleeping;
  }
  typename Sync::template Atomic<uint32_t>& producer_sleeping() const {
    return header_->producer_sleeping;
  }

 private:
  template <class>
  friend class RingProducer;
  template <class>
  friend class RingConsumer;

  RingEntry<Sync>& EntryOf(uint64_t index) const { return entries_[index & mask_]; }

  // Cut to 16 bits by whoever shifts it into a seal.
  uint64_t LapOf(uint64_t index) const { return (index >> shift_) + 1; }

  uint64_t SealOf(uint64_t index, uint64_t tag) const {
    return LapOf(index) << RingBody::kTagBits | tag;
  }

  // Step 4. False if the entry is not published; `*body` is then undefined.
  bool Read(uint64_t index, RingBody* body) const {
    const RingEntry<Sync>& entry = EntryOf(index);
    const uint64_t seal = entry.seal.load(std::memory_order_acquire);
    *body = {.word = entry.word.load(std::memory_order_relaxed), .tag = seal & kTagMask};
    return ((seal >> RingBody::kTagBits ^ LapOf(index)) & kLapMask) == 0;
  }

  // The same, but true only for an entry whose tag is `tag` in the bits of `mask`.
  bool ReadOne(uint64_t index, uint64_t mask, uint64_t tag, RingBody* body) const {
    const RingEntry<Sync>& entry = EntryOf(index);
    const uint64_t seal = entry.seal.load(std::memory_order_acquire);
    *body = {.word = entry.word.load(std::memory_order_relaxed), .tag = seal & kTagMask};
    return ((seal ^ SealOf(index, tag)) & (kLapMask << RingBody::kTagBits | mask)) == 0;
  }

  bool Move(RingWord* seen, RingWord next) {
    if (!header_->word.compare_exchange_strong(seen->raw, next.raw, std::memory_order_acq_rel,
                                               std::memory_order_acquire)) {
      return false;
    }
    *seen = next;
    return true;
  }

  // Step 6 where that is a CAS, and step 7. False if the head was not `index`.
  bool MoveHead(uint64_t index) {
    return header_->head.compare_exchange_strong(index, index + 1, std::memory_order_acq_rel,
                                                 std::memory_order_relaxed);
  }

  static constexpr uint64_t kTagMask = (uint64_t{1} << RingBody::kTagBits) - 1;
  static constexpr uint64_t kLapMask = ~uint64_t{0} >> RingBody::kTagBits;

  RingHeader<Sync>* header_;
  RingEntry<Sync>* entries_;
  uint64_t mask_;
  uint32_t shift_;
};

// The producer's end of an open ring. Made once in a use, after the ring was opened and before
// anything was published: its index is its own memory and cannot be found again. One thread at a
// time. Stays usable, to drain, after the consumer has gone.
template <class Sync>
class RingProducer {
 public:
  explicit RingProducer(const SpscRing<Sync>& ring) : ring_(ring) {
    // Who sees a body of this use also sees the word of its opening, or a later one.
    Sync::ReleaseFence();
  }

  const SpscRing<Sync>& ring() const { return ring_; }

  // Step 1: is there room for `count` entries, up to the capacity? Reads only own memory unless the
  // ring looks full.
  RingLook HasRoom(uint64_t count = 1) {
    if (published() + count - head_ <= ring_.capacity()) [[likely]]
      return RingLook::kReady;
    const RingLook look = LoadHead();
    if (look != RingLook::kReady) return look;
    return published() + count - head_ <= ring_.capacity() ? RingLook::kReady : RingLook::kWait;
  }

  // The index below which published() is while HasRoom(count) is kReady without another look.
  uint64_t RoomUntil(uint64_t count) const { return head_ + ring_.capacity() - count + 1; }

  // Steps 2 and 3, once for each entry that HasRoom() has said there is room for. After the last
  // one of a batch the caller looks whether the consumer sleeps.
  void Publish(const RingBody& body) {
    const uint64_t tail = published();
    HANDOFF_DCHECK_LT(tail - head_, ring_.capacity());
    HANDOFF_DCHECK_EQ(body.tag >> RingBody::kTagBits, 0u);
    RingEntry<Sync>& entry = ring_.EntryOf(tail);
    if (Mutated<Sync>(Mutation::kPublishBeforeBody)) {
      entry.seal.store(ring_.SealOf(tail, body.tag), std::memory_order_release);
    }
    entry.word.store(body.word, std::memory_order_relaxed);
    entry.seal.store(ring_.SealOf(tail, body.tag), std::memory_order_release);
    tail_.store(tail + 1, std::memory_order_relaxed);
  }

  struct Oldest {
    uint64_t index = 0;
    RingBody body;
  };

  // For taking back: the oldest published entry that is still in the ring. kWait: there is none. It
  // may be received at this very moment, so the caller takes the block by CAS; whether that
  // succeeds, or shows that the handle is stale, the entry then goes by TakeBack().
  RingLook PeekOldest(Oldest* oldest) {
    const RingLook look = LoadHead();
    if (look != RingLook::kReady) return look;
    if (head_ == published()) return RingLook::kWait;
    *oldest = {.index = head_, .body = {}};
    // Own stores, so the lap is right, unless somebody else has written into the ring.
    return ring_.Read(head_, &oldest->body) ? RingLook::kReady : RingLook::kCorrupt;
  }

  // Step 7 for the entry that PeekOldest() found. False if the consumer was faster; the entry is
  // out of the ring in either case. While the consumer lives, only in a ring opened for that.
  bool TakeBack(const Oldest& oldest) {
    const bool moved = ring_.MoveHead(oldest.index);
    // The place is written again as soon as HasRoom() finds it.
    Sync::ReleaseFence();
    return moved;
  }

  // Begins to fetch the place of the entry `ahead` behind the next one, for which there is room.
  void PrefetchAhead(uint64_t ahead) const {
    PrefetchForWrite(&ring_.EntryOf(published() + ahead));
  }
  // The next entry is the first one of a line.
  bool begins_line() const { return published() % (kCacheLineSize / sizeof(RingEntry<Sync>)) == 0; }

  // How many entries are still in the ring, as far as this end knows: never too few.
  uint64_t UnreceivedAtMost() const { return published() - head_; }

  // How many entries were published in this use. Any thread.
  uint64_t published() const { return tail_.load(std::memory_order_relaxed); }

 private:
  // kReady: `head_` is what the ring says.
  RingLook LoadHead() {
    const uint64_t head = ring_.header_->head.load(std::memory_order_acquire);
    // An honest head neither goes back nor overtakes. Unsigned, so one comparison tells both.
    if (head - head_ > published() - head_) [[unlikely]]
      return RingLook::kCorrupt;
    head_ = head;
    return RingLook::kReady;
  }

  SpscRing<Sync> ring_;
  uint64_t head_ = 0;              // a head seen before; never above the true one
  std::atomic<uint64_t> tail_{0};  // index of the next entry to publish; stored by this end only
};

// The consumer's end of an open ring. One at a time, and one thread at a time. May be made at any
// time of a use.
template <class Sync>
class RingConsumer {
 public:
  explicit RingConsumer(const SpscRing<Sync>& ring)
      : ring_(ring),
        head_(ring.header_->head.load(std::memory_order_acquire)),
        head_is_shared_(ring.header_->take_back_from_living.load(std::memory_order_acquire) != 0) {}

  const SpscRing<Sync>& ring() const { return ring_; }

  // Steps 4 and 5. kReady: `*body` is that of the oldest entry; the caller accepts the block, then
  // calls Advance(). kWait: nothing there; if the producer was seen gone *before* the call, nothing
  // will ever come. On other results than kReady `*body` is undefined.
  RingLook Peek(RingBody* body) { return head_is_shared_ ? PeekShared(body) : PeekOwn(body); }

  // The same where is_own(), with no need to find that out.
  RingLook PeekOwn(RingBody* body) const {
    return ring_.Read(head_, body) ? RingLook::kReady : RingLook::kWait;
  }
  // The same for bodies of one kind only: those whose tag is `tag` in the bits of `mask`.
  RingLook PeekOwn(uint64_t mask, uint64_t tag, RingBody* body) const {
    return ring_.ReadOne(head_, mask, tag, body) ? RingLook::kReady : RingLook::kWait;
  }
  void AdvanceOwn() { ring_.header_->head.store(++head_, std::memory_order_release); }
  // Nobody else moves the head: no entry is taken back while this end lives.
  bool is_own() const { return !head_is_shared_; }

  // Of the entry that is next, as far as this end knows.
  uint64_t index() const { return head_; }

  // The entry `ahead` places behind the next one, if it is published: may be out of date at once,
  // so it is of use for preparations only.
  std::optional<RingBody> PeekAhead(uint64_t ahead) const {
    RingBody body;
    if (!ring_.Read(head_ + ahead, &body)) return std::nullopt;
    return body;
  }

  // The word of that place, whatever entry it is of.
  uint64_t WordAhead(uint64_t ahead) const {
    return ring_.EntryOf(head_ + ahead).word.load(std::memory_order_relaxed);
  }

  // Step 6 for the entry that the last Peek() has returned. Afterwards the caller looks whether the
  // producer sleeps.
  void Advance() {
    if (head_is_shared_) {
      // If it fails, the producer has moved it, at least as far; the next Peek() begins at the head
      // it finds.
      ring_.MoveHead(head_++);
    } else {
      AdvanceOwn();
    }
  }

 private:
  RingLook PeekShared(RingBody* body) {
    uint64_t head = ring_.header_->head.load(std::memory_order_acquire);
    for (;;) {
      if (head - head_ > kLongestJump) [[unlikely]]
        return RingLook::kCorrupt;
      head_ = head;
      const bool published = ring_.Read(head, body);
      // Step 5. Also if nothing is there: the lap may be that of an entry written after this one
      // was taken back.
      Sync::AcquireFence();
      if (!Mutated<Sync>(Mutation::kNoSecondLookAtHead)) {
        head = ring_.header_->head.load(std::memory_order_acquire);
      }
      if (head == head_) return published ? RingLook::kReady : RingLook::kWait;
    }
  }

  // A head never goes back, and no honest producer takes back so many entries between two looks.
  static constexpr uint64_t kLongestJump = uint64_t{1} << 62;

  SpscRing<Sync> ring_;
  uint64_t head_;  // index of the entry that is next; the only truth unless head_is_shared_
  bool head_is_shared_;
};

template <class Sync>
template <class Prepare>
std::optional<RingWord> SpscRing<Sync>::Open(uint32_t opener, const RingEnds& ends,
                                             Prepare prepare) {
  RingWord word = Word();
  if (!word.free() || !Move(&word, word.Claimed(opener))) return std::nullopt;  // Step e.
  // Steps f and g. Release: whoever sees one of these also sees the word of this opening.
  for (uint64_t i = 0; i <= mask_; ++i) {
    auto& seal = entries_[i].seal;
    // Only what was used, so that a new ring's memory is not touched before its time.
    if (Mutated<Sync>(Mutation::kRestartAtLapOne)) break;
    if (seal.load(std::memory_order_relaxed) != 0) seal.store(0, std::memory_order_release);
  }
  header_->producer.store(ends.producer.Packed(), std::memory_order_release);
  header_->consumer.store(ends.consumer.Packed(), std::memory_order_release);
  header_->take_back_from_living.store(ends.take_back_from_living ? 1 : 0,
                                       std::memory_order_release);
  header_->consumer_sleeping.store(0, std::memory_order_release);
  header_->producer_sleeping.store(0, std::memory_order_release);
  header_->head.store(0, std::memory_order_release);
  prepare();
  if (!Move(&word, word.Opened())) return std::nullopt;  // Step h. Fails if taken for dead.
  return word;
}

template <class Sync>
auto SpscRing<Sync>::Look() const -> std::optional<Snapshot> {
  RingWord word = Word();
  while (!word.free() && !word.opening()) {
    Snapshot snapshot;
    snapshot.word = word;
    // Acquire, so that the second look at the word comes last.
    snapshot.ends.producer =
        MemberId::FromPacked(header_->producer.load(std::memory_order_acquire));
    snapshot.ends.consumer =
        MemberId::FromPacked(header_->consumer.load(std::memory_order_acquire));
    snapshot.ends.take_back_from_living =
        header_->take_back_from_living.load(std::memory_order_acquire) != 0;
    snapshot.head = header_->head.load(std::memory_order_acquire);
    word = Word();
    if (word == snapshot.word) return snapshot;
  }
  return std::nullopt;
}

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_SPSC_RING_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_EXPLORED_ACTOR_H_
#define HANDOFF_ALLOCATOR_TESTING_EXPLORED_ACTOR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "allocator/bundle.h"
#include "allocator/hold_moves.h"
#include "allocator/page_map.h"
#include "allocator/part_name.h"
#include "allocator/reclaim.h"
#include "allocator/ring_reclaim.h"
#include "allocator/share_group.h"
#include "allocator/table_reclaim.h"
#include "allocator/testing/explored_session.h"
#include "allocator/testing/explored_world.h"
#include "control_queue/spsc_ring.h"

namespace handoff {

// One member, from its join on. The functions that make steps are not inlined, so that nothing of
// them stays on the stack: what is there tells states apart.
class ExploredWorld::Actor {
 public:
  using Ring = SpscRing<ExploredSync>;
  using Producer = RingProducer<ExploredSync>;
  using Consumer = RingConsumer<ExploredSync>;
  using Pages = PageMap<ExploredSync>;

  Actor(ExploredWorld& world, size_t id, MemberId self) : w_(world), id_(id), self_(self) {}

  // What slot 1 has at first, and the producers' ends of rings that are open by now.
  void TakeWhatIsThere() {
    has_page_ = has_rows_ = self_.slot == 1;
    for (uint32_t k = 0; k < kRings; ++k) {
      if (w_.Has(k) && kExploredTopology[k][0] == self_.slot) {
        StartProducer(k, w_.RingAt(k).Word());
      }
    }
  }

  [[noreturn]] void Live() {
    for (;;) Do(AwaitAny([this] { return Enabled(); }));
  }

 private:
  static constexpr uint32_t kMostMessages = 2;

  enum Option : uint32_t {
    kAllocate = 0,  // + block
    kSend = 2,      // + ring + kRings * message
    kDrain = 10,    // + ring
    kReceive = 14,
    kEnd = 18,
    kClose = 22,
    kRecall = 26,
    kOpen = 30,
    kRelease = 34,  // + message
    kShare = 36,
    kCopy = 38,
    kUnpack = 40,
    kBundle = 42,
    kGiveBack = 43,
    kClaim = 44,
    kSweep = 45,
    kSweepGroups = 46,
    kReclaim = 47,  // + slot - 1
  };

  struct Message {
    PartName name;
    HoldWord hold;
    bool there() const { return name.kind != PartKind::kEmpty; }
  };

  uint32_t Messages() const {
    return (messages_[0].there() ? 1u : 0u) + (messages_[1].there() ? 1u : 0u);
  }

  static bool IsSweepable(const ExploredView& view) {
    const PageWord head = view.LoadPage(0);
    return view.header().ownerless.load(std::memory_order_relaxed) != 0 &&
           head.state() == PageState::kOwnerless && (head.IsPending() || view.AllFree(0, head));
  }

  // What there is to do; looks, but makes no step.
  uint64_t Enabled() const {
    uint64_t options = 0;
    const auto enable = [&options](uint32_t option, bool condition) {
      if (condition) options |= uint64_t{1} << option;
    };
    Shared& s = w_.shared_;
    for (uint32_t slot = 1; slot <= kExploredSlots; ++slot) {
      enable(kReclaim + slot - 1, slot != self_.slot && s.session.LooksDead(slot));
    }
    enable(kSweep,
           IsSweepable(w_.view_) || IsSweepable(w_.group_view_) || IsSweepable(w_.bundle_view_));
    enable(kSweepGroups, s.left.sweeps.Get() > 0 && w_.GroupHold().state() == HoldState::kLive);

    const PageWord page = w_.view_.LoadPage(0);
    const bool all_free = w_.BlockHold(0).IsFree() && w_.BlockHold(1).IsFree();
    const bool may_allocate =
        has_page_ || (ExploredSync::Mutated(Mutation::kStealFreePages) && page.IsHead());
    const bool room = Messages() < static_cast<uint32_t>(w_.budget_.messages);
    for (uint32_t block = 0; block < kBlocks; ++block) {
      enable(kAllocate + block,
             room && may_allocate && s.left.allocations.Get() > 0 && w_.BlockHold(block).IsFree());
    }
    enable(kGiveBack, has_page_ && Messages() == 0 && all_free && s.left.gives.Get() > 0);
    enable(kClaim, !has_page_ && page.IsFree() && s.left.claims.Get() > 0);
    for (uint32_t m = 0; m < kMostMessages; ++m) {
      const PartKind kind = messages_[m].name.kind;
      enable(kRelease + m, messages_[m].there());
      enable(kShare + m, kind == PartKind::kBlock && has_rows_ && s.left.shares.Get() > 0 &&
                             w_.GroupHold().IsFree());
      enable(kCopy + m, kind == PartKind::kReference && room && s.left.copies.Get() > 0);
      enable(kUnpack + m, kind == PartKind::kBundle);
    }
    enable(kBundle, messages_[0].name.kind == PartKind::kBlock &&
                        messages_[1].name.kind == PartKind::kBlock && has_rows_ &&
                        s.left.bundles.Get() > 0 && w_.BundleHold().IsFree());
    for (uint32_t k = 0; k < kRings; ++k) {
      if (w_.Has(k)) options |= EnabledOn(k, room);
    }
    return options;
  }

  uint64_t EnabledOn(uint32_t k, bool room) const {
    uint64_t options = 0;
    const auto enable = [&options](uint32_t option, bool condition) {
      if (condition) options |= uint64_t{1} << option;
    };
    const std::optional<Ring::Snapshot> look = w_.RingAt(k).Look();
    if (producers_[k].has_value()) {
      if (!look.has_value() || look->word.generation() != generations_[k]) {
        Violate("a ring was freed under its living producer");
        return 0;
      }
      const bool peer = w_.members_.Alive(look->ends.consumer) && !look->word.consumer_gone();
      for (uint32_t m = 0; m < kMostMessages; ++m) {
        enable(kSend + k + kRings * m,
               messages_[m].there() && peer && sent_[k] - look->head < w_.budget_.capacity);
      }
      enable(kDrain + k, room && !peer && !ExploredSync::Mutated(Mutation::kNoDrain));
      enable(kRecall + k,
             room && peer && w_.shared_.left.recalls.Get() > 0 && look->head != sent_[k]);
    } else {
      enable(kOpen + k, kExploredTopology[k][0] == self_.slot && w_.RingAt(k).Word().free() &&
                            w_.members_.Word(kExploredTopology[k][1]).state == MemberState::kLive);
    }
    if (look.has_value() && look->ends.consumer == self_ && !look->word.consumer_gone()) {
      const bool ready = w_.RingAt(k).ReadPublished(look->head).has_value();
      enable(kReceive + k, room && ready);
      enable(kEnd + k, !ready && (look->word.producer_gone() ||
                                  ExploredSync::Mutated(Mutation::kLookThenGone)));
      enable(kClose + k, room && w_.shared_.left.closes.Get() > 0);
    }
    return options;
  }

  void Do(uint32_t option) {
    if (option >= kReclaim) return Reclaim(option - kReclaim + 1);
    if (option >= kSweepGroups) return SweepTheGroup();
    if (option >= kSweep) return Sweep();
    if (option >= kClaim) return Claim();
    if (option >= kGiveBack) return GiveBack();
    if (option >= kBundle) return Bundle();
    if (option >= kUnpack) return Unpack(option - kUnpack);
    if (option >= kCopy) return Copy(option - kCopy);
    if (option >= kShare) return Share(option - kShare);
    if (option >= kRelease) return Release(option - kRelease);
    if (option >= kOpen) return Open(option - kOpen);
    if (option >= kRecall) return Recall(option - kRecall);
    if (option >= kClose) return Close(option - kClose);
    if (option >= kEnd) return End(option - kEnd);
    if (option >= kReceive) return Receive(option - kReceive);
    if (option >= kDrain) return Drain(option - kDrain);
    if (option >= kSend) return Send((option - kSend) % kRings, (option - kSend) / kRings);
    Allocate(option - kAllocate);
  }

  Names names() const { return Names(w_); }
  RingReclaim<ExploredSync, Names> ring_reclaim() const { return {w_.members_, names()}; }
  static void Spend(Ghost<int>& left) { left.Set(left.Get() - 1); }

  void Take(const PartName& name, HoldWord hold) {
    Message& message = messages_[messages_[0].there() ? 1 : 0];
    message = {name, hold};
    message.name.generation = hold.generation();
    w_.Own(id_, ThingOf(name), hold);
  }
  Message Lose(uint32_t m) {
    const Message message = messages_[m];
    messages_[m] = {};
    w_.Disown(ThingOf(message.name));
    return message;
  }
  ExploredMoves::Word& WordOf(const PartName& name) const {
    ExploredMoves::Word* word = names().Find(name);
    if (word == nullptr) Violate("a message that is held has no word");
    return *word;
  }

  [[gnu::noinline]] void Allocate(uint32_t block) {
    Spend(w_.shared_.left.allocations);
    const auto held = ExploredMoves::Allocate(w_.view_.small_hold(block), self_.slot);
    if (held.has_value()) Take({.kind = PartKind::kBlock, .row = block, .used_bytes = 1}, *held);
  }

  [[gnu::noinline]] void Release(uint32_t m) {
    const Message message = Lose(m);
    switch (message.name.kind) {
      case PartKind::kBlock:
        ExploredMoves::Release(w_.view_.small_hold(message.name.row), message.hold);
        names().Freed(message.name);
        break;
      case PartKind::kReference:
        w_.groups_.Release({message.name.group(), message.name.reference(), message.hold});
        break;
      default:
        w_.bundles_.Free(message.name.row, message.hold);
    }
  }

  [[gnu::noinline]] void Share(uint32_t m) {
    Spend(w_.shared_.left.shares);
    const auto group = ExploredMoves::Allocate(w_.groups_.GroupWord(0), self_.slot);
    if (!group.has_value()) return;
    const Message block = Lose(m);
    ShareGroups<ExploredSync, Names>::Reference reference;
    w_.groups_.Build(0, *group, block.name, w_.view_.small_hold(block.name.row), block.hold, 1,
                     &reference);
    Take(PartName::Reference(0, 0, 0, 1), reference.hold);
  }

  [[gnu::noinline]] void Copy(uint32_t m) {
    Spend(w_.shared_.left.copies);
    const PartName& name = messages_[m].name;
    const auto copy =
        w_.groups_.Copy({name.group(), name.reference(), messages_[m].hold}, self_.slot);
    if (copy.has_value()) Take(PartName::Reference(copy->row, copy->index, 0, 1), copy->hold);
  }

  [[gnu::noinline]] void Bundle() {
    Spend(w_.shared_.left.bundles);
    const auto bundle = ExploredMoves::Allocate(w_.bundles_.BundleWord(0), self_.slot);
    if (!bundle.has_value()) return;
    const PartName parts[] = {Lose(0).name, Lose(1).name};
    w_.bundles_.Build(0, *bundle, parts);
    Take({.kind = PartKind::kBundle, .row = 0, .used_bytes = 1}, *bundle);
  }

  [[gnu::noinline]] void Unpack(uint32_t m) {
    const Message bundle = Lose(m);
    std::vector<PartName> parts;
    if (!w_.bundles_.Unpack(0, bundle.hold, &parts) || parts.size() != kBlocks) {
      Violate("half a message");
    }
    for (const PartName& part : parts) {
      Take(part, HoldWord::Of(HoldState::kHeld, part.generation, self_.slot, 0));
    }
  }

  [[gnu::noinline]] void GiveBack() {
    Spend(w_.shared_.left.gives);
    if (!w_.view_.AllFree(0, w_.view_.LoadPage(0))) return;
    has_page_ = false;
    Pages::GiveBack(w_.view_, 0);
  }

  [[gnu::noinline]] void Claim() {
    Spend(w_.shared_.left.claims);
    has_page_ = !Pages::Claim(w_.view_, 0, 1, self_.slot, kClass).has_value();
  }

  [[gnu::noinline]] void Sweep() {
    for (const ExploredView* view : {&w_.view_, &w_.group_view_, &w_.bundle_view_}) {
      if (view->header().ownerless.load(std::memory_order_acquire) != 0) {
        SegmentReclaim<ExploredSync>(*view, w_.members_).Sweep();
      }
    }
  }

  [[gnu::noinline]] void SweepTheGroup() {
    Spend(w_.shared_.left.sweeps);
    SweepGroups(w_.group_view_, w_.groups_);
  }

  void StartProducer(uint32_t k, RingWord word) {
    producers_[k].emplace(w_.RingAt(k));
    sent_[k] = 0;
    generations_[k] = word.generation();
  }

  [[gnu::noinline]] void Open(uint32_t k) {
    const uint32_t peer = kExploredTopology[k][1];
    const MemberWord row = w_.members_.Word(peer);
    if (row.state != MemberState::kLive) return;
    Ring ring = w_.RingAt(k);
    const auto word = ring.Open(self_.slot, {self_, {peer, row.epoch}, w_.budget_.recalls > 0});
    if (!word.has_value()) return;
    // As RingTable::Open: who is reclaimed meanwhile has its row dead before its rings are looked
    // at.
    if (!w_.members_.Alive({peer, row.epoch})) {
      RingWord seen = *word;
      if (!ring.SetConsumerGone(&seen)) seen = ring.Word();
      while (seen.generation() == word->generation() && !seen.producer_gone() &&
             !ring.SetProducerGone(&seen)) {
      }
      return;
    }
    StartProducer(k, *word);
  }

  [[gnu::noinline]] void Send(uint32_t k, uint32_t m) {
    if (producers_[k]->HasRoom() != RingLook::kReady) return;
    ExploredMoves::Word& word = WordOf(messages_[m].name);
    const HoldWord sent = ExploredMoves::Mark(word, messages_[m].hold, kExploredTopology[k][1]);
    PartName name = Lose(m).name;
    name.generation = sent.generation();
    const PartName::Words words = name.Packed();
    producers_[k]->Publish({words.word, words.tag});
    ++sent_[k];
    w_.shared_.published_in[ThingOf(name)].Set(generations_[k] << 8 | (k + 1));
    w_.shared_.published_as[ThingOf(name)].Set(sent.raw());
  }

  [[gnu::noinline]] void Drain(uint32_t k) {
    if (TakeOldest(k)) return;
    Ring ring = w_.RingAt(k);
    RingWord word = ring.Word();
    while (word.generation() == generations_[k] && !word.producer_gone() &&
           !ring.SetProducerGone(&word)) {
    }
    producers_[k].reset();
    sent_[k] = generations_[k] = 0;
  }

  [[gnu::noinline]] void Recall(uint32_t k) {
    Spend(w_.shared_.left.recalls);
    (void)TakeOldest(k);
  }

  [[gnu::noinline]] bool TakeOldest(uint32_t k) {
    Producer::Oldest oldest;
    if (producers_[k]->PeekOldest(&oldest) != RingLook::kReady) return false;
    const PartName name = PartName::FromPacked({oldest.body.word, oldest.body.tag});
    if (ExploredMoves::Word* word = names().Find(name); word != nullptr) {
      const auto held = ExploredMoves::TakeBack(*word, name.generation, self_.slot);
      if (held.has_value()) {
        w_.shared_.published_in[ThingOf(name)].Set(0);
        Take(name, *held);
      }
    }
    (void)producers_[k]->TakeBack(oldest);
    return true;
  }

  [[gnu::noinline]] void Receive(uint32_t k) {
    Consumer consumer(w_.RingAt(k));
    RingBody body;
    if (consumer.Peek(&body) != RingLook::kReady) return;
    Accept(k, PartName::FromPacked({body.word, body.tag}));
    consumer.Advance();
  }

  [[gnu::noinline]] void Accept(uint32_t k, const PartName& name) {
    ExploredMoves::Word* word = names().Find(name);
    if (word == nullptr) return;
    const auto held = ExploredMoves::Accept(*word, name.generation, self_.slot);
    if (!held.has_value()) return;
    Ghost<uint64_t>& published_in = w_.shared_.published_in[ThingOf(name)];
    if ((published_in.Get() & 0xFF) != k + 1) Violate("accepted, though not published there");
    published_in.Set(0);
    Take(name, *held);
  }

  // The producer has gone, or seems so: the end of the ring.
  [[gnu::noinline]] void End(uint32_t k) {
    Ring ring = w_.RingAt(k);
    Consumer consumer(ring);
    RingBody body;
    RingWord word;
    if (ExploredSync::Mutated(Mutation::kLookThenGone)) {
      if (consumer.Peek(&body) != RingLook::kWait) return;
      word = ring.Word();
      if (!word.producer_gone()) return;
    } else {
      word = ring.Word();
      if (!word.producer_gone() || consumer.Peek(&body) != RingLook::kWait) return;
    }
    (void)ring.SetConsumerGone(&word);
  }

  [[gnu::noinline]] void Close(uint32_t k) {
    Spend(w_.shared_.left.closes);
    Ghost<uint32_t>& closing = w_.shared_.closing;
    closing.Set(closing.Get() | 1u << k);
    Ring ring = w_.RingAt(k);
    ring_reclaim().CloseConsumer(ring, ring.Word(), self_);
    closing.Set(closing.Get() & ~(1u << k));
  }

  // In the order of Member::ReclaimMember.
  [[gnu::noinline]] void Reclaim(uint32_t slot) {
    const std::optional<MemberId> victim = w_.shared_.session.FindDead(slot);
    if (!victim.has_value()) return;
    for (uint32_t k = 0; k < kRings; ++k) {
      if (w_.Has(k)) ReclaimRing(k, *victim);
    }
    if (!ReclaimTables(*victim) || !ReclaimBlocks(*victim)) return;
    SweepGroups(w_.group_view_, w_.groups_);
    ExploredMembers members = w_.shared_.session.members();
    members.Free(*victim);
  }
  [[gnu::noinline]] void ReclaimRing(uint32_t k, MemberId victim) {
    Ring ring = w_.RingAt(k);
    (void)ring_reclaim().Ring(ring, victim);
  }
  [[gnu::noinline]] bool ReclaimTables(MemberId victim) {
    if (w_.budget_.shares > 0 && !ReclaimGroups(w_.group_view_, w_.groups_, w_.members_, victim)) {
      return false;
    }
    return w_.budget_.bundles == 0 ||
           ReclaimBundles(w_.bundle_view_, w_.bundles_, w_.members_, victim);
  }
  [[gnu::noinline]] bool ReclaimBlocks(MemberId victim) {
    ReclaimCount count;
    return SegmentReclaim<ExploredSync>(w_.view_, w_.members_).Member(victim, &count);
  }

  ExploredWorld& w_;
  const size_t id_;
  const MemberId self_;
  bool has_page_ = false;
  bool has_rows_ = false;
  Message messages_[kMostMessages];
  std::optional<Producer> producers_[kRings];
  uint64_t sent_[kRings] = {};
  uint64_t generations_[kRings] = {};
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_EXPLORED_ACTOR_H_

// SPDX-License-Identifier: Apache-2.0
// What a member leaves in a ring when it is killed after each step, written by
// hand; then a survivor reclaims. The ring must be free, or deliver what was
// published, and be usable again.
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "allocator/hold.h"
#include "allocator/hold_moves.h"
#include "allocator/part_name.h"
#include "allocator/ring_layout.h"
#include "allocator/ring_table.h"
#include "allocator/testing/plain_rings.h"
#include "control_queue/member_id.h"
#include "control_queue/spsc_ring.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr uint32_t kProducer = 1;
constexpr uint32_t kConsumer = 2;
constexpr uint32_t kBystander = 3;
constexpr uint32_t kCapacity = 2;

class RingTornStateTest : public ::testing::Test {
 protected:
  RingTornStateTest()
      : producers(memory.Join(kProducer)),
        consumers(memory.Join(kConsumer)),
        bystanders(memory.Join(kBystander)) {
    const EndpointId from = *producers->Add({.name = "torn", .capacity = kCapacity});
    to = *consumers->Add({.name = "torn", .bound = true, .capacity = kCapacity});
    info = *producers->Open(from, *consumers->Look(to.row), kCapacity, false);
    producer.emplace(ring());
  }

  SpscRing<RealSync> ring() const { return bystanders->Ring(info.row, info.entries); }
  RingHeader<RealSync>& header() { return memory.layout().rings[info.row].header; }
  void Reclaim(const RingTable& victim) { memory.Reclaim(*bystanders, victim.self()); }
  HoldWord Allocate(uint32_t hold) {
    return *HoldMoves<RealSync>::Allocate(memory.hold_word(hold), kProducer);
  }

  // The consumer takes what is there; the number of messages.
  int ReceiveAll() {
    RingConsumer<RealSync> consumer(ring());
    int received = 0;
    for (RingBody body; consumer.Peek(&body) == RingLook::kReady; consumer.Advance()) {
      const PartName name = PartName::FromPacked({body.word, body.tag});
      const auto held =
          HoldMoves<RealSync>::Accept(memory.hold_word(name.row), name.generation, kConsumer);
      if (!held.has_value()) continue;
      ++received;
      HoldMoves<RealSync>::Release(memory.hold_word(name.row), *held);
    }
    return received;
  }

  void ExpectAllFree() {
    for (uint32_t i = 0; i < PlainRings::kHolds; ++i) {
      EXPECT_TRUE(memory.hold(i).IsFree()) << "hold " << i;
    }
  }
  // The row of the ring is found free, and a ring that is opened there is empty
  // and works.
  void ExpectUsableAgain() {
    EXPECT_TRUE(ring().Word().free());
    const EndpointId from = *bystanders->Add({.name = "again", .capacity = kCapacity});
    const EndpointId end = *bystanders->Add({.name = "again", .bound = true});
    const RingInfo again = *bystanders->Open(from, *bystanders->Look(end.row), kCapacity, false);
    EXPECT_EQ(again.row, info.row);
    RingConsumer<RealSync> consumer(ring());
    RingBody body;
    EXPECT_EQ(consumer.Peek(&body), RingLook::kWait);
    RingProducer<RealSync> sender(ring());
    EXPECT_EQ(sender.HasRoom(), RingLook::kReady);
    sender.Publish({.word = 1, .tag = 2});
    EXPECT_EQ(consumer.Peek(&body), RingLook::kReady);
  }
  void EndConsumer() {
    RingWord word = ring().Word();
    EXPECT_TRUE(word.producer_gone());
    EXPECT_TRUE(ring().SetConsumerGone(&word));
  }

  PlainRings memory;
  std::unique_ptr<RingTable> producers;
  std::unique_ptr<RingTable> consumers;
  std::unique_ptr<RingTable> bystanders;
  EndpointId to;
  RingInfo info;
  std::optional<RingProducer<RealSync>> producer;
};

TEST_F(RingTornStateTest, SenderKilledAfterTheMark) {
  HoldMoves<RealSync>::Mark(memory.hold_word(0), Allocate(0), kConsumer);
  Reclaim(*producers);
  EXPECT_EQ(ReceiveAll(), 0);
  ExpectAllFree();
  EndConsumer();
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, SenderKilledAfterTheBodyOfTheEntry) {
  const HoldWord sent = HoldMoves<RealSync>::Mark(memory.hold_word(0), Allocate(0), kConsumer);
  const PartName name{PartKind::kBlock, 0, 0, sent.generation(), 1};
  // The first word of the first entry; the seal says nothing yet.
  ring().ReadPublished(0);
  auto* words = reinterpret_cast<std::atomic<uint64_t>*>(memory.ring_window(info.row).data());
  words[0].store(name.Packed().word, std::memory_order_relaxed);
  Reclaim(*producers);
  EXPECT_EQ(ReceiveAll(), 0);
  ExpectAllFree();
  EndConsumer();
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, SenderKilledAfterTheSeal) {
  memory.Send(0, producers->self(), consumers->self(), *producer);
  memory.Send(1, producers->self(), consumers->self(), *producer);
  Reclaim(*producers);
  EXPECT_EQ(memory.hold(0).holder(), kNobody);
  EXPECT_EQ(ReceiveAll(), 2) << "what was published is delivered";
  ExpectAllFree();
  EndConsumer();
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, ReceiverKilledAfterTheAccept) {
  const PartName name = memory.Send(0, producers->self(), consumers->self(), *producer);
  memory.Send(1, producers->self(), consumers->self(), *producer);
  ASSERT_TRUE(HoldMoves<RealSync>::Accept(memory.hold_word(0), name.generation, kConsumer));
  Reclaim(*consumers);
  EXPECT_TRUE(memory.hold(0).IsFree());
  EXPECT_TRUE(ring().Word().consumer_gone());
  // The sender drains: the first entry is stale, the second comes back.
  RingProducer<RealSync>::Oldest oldest;
  int back = 0;
  while (producer->PeekOldest(&oldest) == RingLook::kReady) {
    const PartName old = PartName::FromPacked({oldest.body.word, oldest.body.tag});
    const auto held =
        HoldMoves<RealSync>::TakeBack(memory.hold_word(old.row), old.generation, kProducer);
    (void)producer->TakeBack(oldest);
    if (!held.has_value()) continue;
    ++back;
    HoldMoves<RealSync>::Release(memory.hold_word(old.row), *held);
  }
  EXPECT_EQ(back, 1);
  ExpectAllFree();
  RingWord word = ring().Word();
  EXPECT_TRUE(ring().SetProducerGone(&word));
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, SenderKilledAfterTakingBackOneOfTwo) {
  const PartName name = memory.Send(0, producers->self(), consumers->self(), *producer);
  memory.Send(1, producers->self(), consumers->self(), *producer);
  ASSERT_TRUE(HoldMoves<RealSync>::TakeBack(memory.hold_word(0), name.generation, kProducer));
  Reclaim(*producers);
  EXPECT_EQ(ReceiveAll(), 1) << "the entry of the first is stale";
  ExpectAllFree();
  EndConsumer();
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, BothKilledWithAnUnreadMessageInEitherOrder) {
  for (const bool producer_first : {true, false}) {
    if (producer_first) {
      memory.Send(0, producers->self(), consumers->self(), *producer);
      memory.members().MarkDead(consumers->self());
      Reclaim(*producers);
      Reclaim(*consumers);
    } else {
      producers = memory.Join(kProducer);
      consumers = memory.Join(kConsumer);
      const EndpointId from = *producers->Add({.name = "other", .capacity = kCapacity});
      to = *consumers->Add({.name = "other", .bound = true, .capacity = kCapacity});
      info = *producers->Open(from, *consumers->Look(to.row), kCapacity, false);
      producer.emplace(ring());
      memory.Send(0, producers->self(), consumers->self(), *producer);
      Reclaim(*consumers);
      Reclaim(*producers);
    }
    ExpectAllFree();
    EXPECT_TRUE(ring().Word().free());
  }
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, ReclaimerKilledAfterRelabellingOneOfTwo) {
  memory.Send(0, producers->self(), consumers->self(), *producer);
  memory.Send(1, producers->self(), consumers->self(), *producer);
  memory.members().MarkDead(producers->self());
  HoldWord seen = memory.hold(0);
  ASSERT_TRUE(HoldMoves<RealSync>::Swap(memory.hold_word(0), seen, seen.Relabelled()));
  Reclaim(*producers);
  EXPECT_EQ(ReceiveAll(), 2);
  ExpectAllFree();
  EndConsumer();
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, ReclaimerKilledAfterTheProducersEnd) {
  memory.Send(0, producers->self(), consumers->self(), *producer);
  memory.members().MarkDead(producers->self());
  HoldWord seen = memory.hold(0);
  ASSERT_TRUE(HoldMoves<RealSync>::Swap(memory.hold_word(0), seen, seen.Relabelled()));
  RingWord word = ring().Word();
  ASSERT_TRUE(ring().SetProducerGone(&word));
  Reclaim(*producers);
  EXPECT_EQ(ReceiveAll(), 1);
  ExpectAllFree();
  EndConsumer();
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, ReclaimerKilledAfterTheConsumersEnd) {
  memory.members().MarkDead(consumers->self());
  RingWord word = ring().Word();
  ASSERT_TRUE(ring().SetConsumerGone(&word));
  Reclaim(*consumers);
  word = ring().Word();
  EXPECT_TRUE(ring().SetProducerGone(&word));
  ExpectUsableAgain();
}

TEST_F(RingTornStateTest, OpenerKilledAfterTheClaim) {
  Reclaim(*consumers);
  RingWord word = ring().Word();
  ASSERT_TRUE(ring().SetProducerGone(&word));
  // Steps e, and f to g in part: the entries of the former use, the ends half
  // written.
  header().word.store(word.Claimed(kProducer).raw, std::memory_order_relaxed);
  header().producer.store(producers->self().Packed(), std::memory_order_relaxed);
  header().head.store(7, std::memory_order_relaxed);
  Reclaim(*producers);
  ExpectUsableAgain();
}

// The reclaimer of the consumer has looked at the rings, and not yet freed its endpoint.
TEST_F(RingTornStateTest, OpenedToAReaderWhoseReclaimIsUnderWay) {
  memory.members().MarkDead(consumers->self());
  const EndpointId from = *bystanders->Add({.name = "late", .capacity = kCapacity});
  const auto late = bystanders->Open(from, *bystanders->Look(to.row), kCapacity, false);
  EXPECT_FALSE(late.ok());
  EXPECT_TRUE(
      RingWord{memory.layout().rings[1].header.word.load(std::memory_order_relaxed)}.free());
}

TEST_F(RingTornStateTest, OpenerKilledBeforeItsLookAtAReaderThatWasReclaimed) {
  Reclaim(*consumers);
  RingWord word = ring().Word();
  ASSERT_TRUE(ring().SetProducerGone(&word));
  // Opened after the reclaimer of the consumer had passed the row.
  const RingEnds ends{producers->self(), consumers->self(), false};
  ASSERT_TRUE(ring().Open(kProducer, ends).has_value());
  Reclaim(*producers);
  ExpectUsableAgain();
}

// As above, and its reclaimer killed as well, between the two ends.
TEST_F(RingTornStateTest, ReclaimerKilledBeforeItEndsARingToAReaderThatWasReclaimed) {
  Reclaim(*consumers);
  RingWord word = ring().Word();
  ASSERT_TRUE(ring().SetProducerGone(&word));
  const RingEnds ends{producers->self(), consumers->self(), false};
  word = *ring().Open(kProducer, ends);
  memory.members().MarkDead(producers->self());
  ASSERT_TRUE(ring().SetProducerGone(&word));
  Reclaim(*producers);
  ExpectUsableAgain();
}

// Killed after an end, before the change was counted: the next reclaimer counts it, as long as the
// other end has not seen it.
TEST_F(RingTornStateTest, ReclaimerKilledBeforeItTellsTheProducer) {
  memory.members().MarkDead(consumers->self());
  bystanders->Reclaim(consumers->self(), memory.names());
  const uint64_t before = producers->changes();
  bystanders->Reclaim(consumers->self(), memory.names());
  EXPECT_NE(producers->changes(), before);
  RingWord word = ring().Word();
  ASSERT_TRUE(ring().SetProducerGone(&word));
  const uint64_t after = producers->changes();
  bystanders->Reclaim(consumers->self(), memory.names());
  EXPECT_EQ(producers->changes(), after);
}

TEST_F(RingTornStateTest, ReclaimerKilledBeforeItTellsTheConsumer) {
  memory.members().MarkDead(producers->self());
  bystanders->Reclaim(producers->self(), memory.names());
  const uint64_t before = consumers->changes();
  bystanders->Reclaim(producers->self(), memory.names());
  EXPECT_NE(consumers->changes(), before);
  EndConsumer();
  const uint64_t after = consumers->changes();
  bystanders->Reclaim(producers->self(), memory.names());
  EXPECT_EQ(consumers->changes(), after);
}

TEST_F(RingTornStateTest, EndpointHalfMade) {
  EndpointRow& row = memory.layout().endpoints[5];
  memory.layout().header.endpoints_used.store(6, std::memory_order_relaxed);
  row.word.store(EndpointWord{}.Claimed(kProducer).raw, std::memory_order_relaxed);
  Reclaim(*producers);
  EXPECT_EQ(EndpointWord{row.word.load(std::memory_order_relaxed)}.state(), EndpointState::kFree);
}

}  // namespace
}  // namespace handoff

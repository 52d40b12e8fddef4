// SPDX-License-Identifier: Apache-2.0
#include "allocator/ring_table.h"

#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "allocator/testing/plain_rings.h"
#include "base/crash_point.h"
#include "base/testing/child_process.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

EndpointOptions Named(std::string name, bool bound) {
  EndpointOptions options;
  options.name = std::move(name);
  options.bound = bound;
  options.capacity = 4;
  return options;
}

EndpointId MustAdd(RingTable& table, const EndpointOptions& options,
                   const std::vector<std::string>& topics = {}) {
  const auto id = table.Add(options, topics);
  HANDOFF_CHECK(id.ok()) << id.status().ToString();
  return *id;
}

// The ring that `consumer` would find.
std::optional<RingInfo> RingTo(RingTable& table, EndpointId consumer) {
  for (uint32_t row = 0; row < table.rings_used(); ++row) {
    auto info = table.LookAtRing(row);
    if (info.has_value() && info->consumer == consumer && !info->word.consumer_gone()) return info;
  }
  return std::nullopt;
}

bool NothingInUse(RingTable& table) {
  for (uint32_t row = 0; row < table.endpoints_used(); ++row) {
    if (table.Look(row).has_value()) return false;
  }
  for (uint32_t row = 0; row < table.rings_used(); ++row) {
    if (!table.Ring(row, 1).Word().free()) return false;
  }
  return true;
}

class RingTableTest : public testing::Test {
 protected:
  PlainRings memory_;
  std::unique_ptr<RingTable> one_ = memory_.Join(1);
  std::unique_ptr<RingTable> two_ = memory_.Join(2);
};

TEST_F(RingTableTest, ShowsAnEndpointToOthersUntilItIsRemoved) {
  const uint64_t before = two_->changes();
  EndpointOptions options = Named("data", true);
  options.pattern = 3;
  options.policy = 2;
  options.capacity = 1000;
  const EndpointId id = MustAdd(*one_, options);
  EXPECT_NE(two_->changes(), before);
  const auto found = two_->Find("data");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].id, id);
  EXPECT_EQ(found[0].member, one_->self());
  EXPECT_EQ(found[0].options.pattern, 3);
  EXPECT_TRUE(found[0].options.bound);
  EXPECT_EQ(found[0].options.policy, 2);
  EXPECT_EQ(found[0].options.capacity, 1000u);
  EXPECT_TRUE(two_->Find("dat").empty());
  one_->Remove(id, memory_.names());
  EXPECT_TRUE(two_->Find("data").empty());
  EXPECT_FALSE(two_->IsLive(id));
}

TEST_F(RingTableTest, RefusesNamesAndCapacitiesOutsideTheirRange) {
  EXPECT_TRUE(absl::IsInvalidArgument(one_->Add(Named("", true)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      one_->Add(Named(std::string(kMaxEndpointNameBytes + 1, 'x'), true)).status()));
  EndpointOptions options = Named("data", true);
  options.capacity = kMaxRingEntries + 1;
  EXPECT_TRUE(absl::IsInvalidArgument(one_->Add(options).status()));
  EXPECT_TRUE(one_->Add(Named(std::string(kMaxEndpointNameBytes, 'x'), true)).ok());
}

TEST_F(RingTableTest, SaysSoWhenAllEndpointsAreInUse) {
  for (uint32_t i = 0; i < kMaxEndpoints; ++i) MustAdd(*one_, Named("data", false));
  EXPECT_TRUE(absl::IsResourceExhausted(one_->Add(Named("data", false)).status()));
}

TEST_F(RingTableTest, GivesARowUsedAgainAnotherIdentity) {
  const EndpointId first = MustAdd(*one_, Named("data", true));
  one_->Remove(first, memory_.names());
  const EndpointId second = MustAdd(*one_, Named("other", true));
  EXPECT_EQ(first.row, second.row);
  EXPECT_FALSE(one_->IsLive(first));
  EXPECT_TRUE(one_->IsLive(second));
}

TEST_F(RingTableTest, CarriesHandlesThroughARingThatTheConsumerFinds) {
  const EndpointId from = MustAdd(*one_, Named("data", true));
  const EndpointId to = MustAdd(*two_, Named("data", false));
  const auto opened = one_->Open(from, *one_->Look(to.row), 3, false);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->entries, 4u);
  const auto found = RingTo(*two_, to);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->entries, 4u);
  EXPECT_EQ(found->producer, from);

  RingProducer<RealSync> producer(one_->Ring(opened->row, opened->entries));
  const PartName name = memory_.Send(0, one_->self(), two_->self(), producer);
  RingConsumer<RealSync> consumer(two_->Ring(found->row, found->entries));
  RingBody body;
  ASSERT_EQ(consumer.Peek(&body), RingLook::kReady);
  EXPECT_EQ(PartName::FromPacked({body.word, body.tag}), name);
}

TEST_F(RingTableTest, RefusesARingToAnEndpointThatHasJustGone) {
  const EndpointId from = MustAdd(*one_, Named("data", true));
  const EndpointId to = MustAdd(*two_, Named("data", false));
  const EndpointInfo seen = *one_->Look(to.row);
  two_->Remove(to, memory_.names());
  EXPECT_TRUE(absl::IsUnavailable(one_->Open(from, seen, 4, false).status()));
  one_->Remove(from, memory_.names());
  EXPECT_TRUE(NothingInUse(*one_));
}

TEST_F(RingTableTest, LeavesWhatAClosedProducerHasSentDeliverable) {
  const EndpointId from = MustAdd(*one_, Named("data", true));
  const EndpointId to = MustAdd(*two_, Named("data", false));
  const RingInfo ring = *one_->Open(from, *one_->Look(to.row), 4, false);
  RingProducer<RealSync> producer(one_->Ring(ring.row, ring.entries));
  memory_.Send(0, one_->self(), two_->self(), producer);
  one_->CloseProducer(ring, memory_.names());
  one_->Remove(from, memory_.names());
  EXPECT_TRUE(memory_.hold(0).IsSentTo(2));
  EXPECT_EQ(memory_.hold(0).holder(), kNobody);
  // Nobody reads it after all.
  two_->Remove(to, memory_.names());
  EXPECT_TRUE(memory_.hold(0).IsFree());
  EXPECT_TRUE(NothingInUse(*one_));
}

TEST_F(RingTableTest, LeavesWhatAClosedConsumerHasNotReadToTheSender) {
  const EndpointId from = MustAdd(*one_, Named("data", true));
  const EndpointId to = MustAdd(*two_, Named("data", false));
  const RingInfo ring = *one_->Open(from, *one_->Look(to.row), 4, false);
  RingProducer<RealSync> producer(one_->Ring(ring.row, ring.entries));
  const PartName name = memory_.Send(0, one_->self(), two_->self(), producer);
  two_->Remove(to, memory_.names());
  EXPECT_TRUE(one_->Ring(ring.row, ring.entries).Word().consumer_gone());
  EXPECT_TRUE(HoldMoves<RealSync>::TakeBack(memory_.hold_word(0), name.generation, 1).has_value());
}

TEST_F(RingTableTest, KeepsTopicsOfTheirMaker) {
  const std::vector<std::string> topics = {"", "a", std::string(kMaxTopicBytes, 'x')};
  const EndpointId id = MustAdd(*one_, Named("data", true), topics);
  EXPECT_EQ(two_->TopicsOf(id), topics);
  one_->Remove(id, memory_.names());
  EXPECT_EQ(two_->TopicsOf(id), std::nullopt);
  // The next one in the row has none of them.
  const EndpointId next = MustAdd(*one_, Named("data", true));
  EXPECT_EQ(next.row, id.row);
  EXPECT_EQ(two_->TopicsOf(next), std::vector<std::string>());
  EXPECT_EQ(two_->TopicsOf(id), std::nullopt);
}

TEST_F(RingTableTest, RefusesTopicsThatDoNotFit) {
  using Topics = std::vector<std::string>;
  EXPECT_TRUE(
      absl::IsResourceExhausted(one_->Add(Named("data", true), Topics(kMaxTopics + 1)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      one_->Add(Named("data", true), Topics{std::string(kMaxTopicBytes + 1, 'x')}).status()));
  EXPECT_TRUE(NothingInUse(*one_));
}

TEST_F(RingTableTest, SurvivesNonsenseInEveryFieldThatAPeerWrites) {
  const EndpointId from = MustAdd(*one_, Named("data", true));
  const EndpointId to = MustAdd(*two_, Named("data", false));
  const RingInfo ring = *one_->Open(from, *one_->Look(to.row), 4, false);
  RingTableLayout& layout = memory_.layout();
  layout.endpoints[to.row].name_bytes = ~uint64_t{0};
  layout.endpoints[to.row].options = ~uint64_t{0};
  layout.topics[to.row].count = ~uint64_t{0};
  layout.rings[ring.row].entries_shift = 77;
  layout.rings[ring.row].producer = ~uint64_t{0};
  layout.rings[ring.row].consumer = ~uint64_t{0};
  layout.rings[ring.row].header.head = ~uint64_t{0};
  EXPECT_LE(one_->Look(to.row)->options.name.size(), kMaxEndpointNameBytes);
  EXPECT_LE(one_->Look(to.row)->options.capacity, kMaxRingEntries);
  (void)one_->DoorOf(to.row);
  EXPECT_LE(one_->TopicsOf(to)->size(), kMaxTopics);
  EXPECT_LE(one_->LookAtRing(ring.row)->entries, kMaxRingEntries);
  memory_.Reclaim(*one_, two_->self());
  layout.header.endpoints_used = ~uint32_t{0};
  layout.header.rings_used = ~uint32_t{0};
  EXPECT_EQ(one_->endpoints_used(), kMaxEndpoints);
  EXPECT_EQ(one_->rings_used(), kMaxRings);
}

// Everything that a member does with the table. In a child, which dies on the way.
void UseTable(PlainRings& memory, RingTable& table, EndpointId peer) {
  const EndpointId own = MustAdd(table, Named("data", false), std::vector<std::string>{"a"});
  const EndpointInfo to = *table.Look(peer.row);
  const auto ring = table.Open(own, to, 4, false);
  HANDOFF_CHECK(ring.ok());
  RingProducer<RealSync> producer(table.Ring(ring->row, ring->entries));
  memory.Send(0, table.self(), to.member, producer);
  memory.Send(1, table.self(), to.member, producer);
  Door& door = table.DoorOf(peer.row);
  door.sleeping.store(Door::kSleeps);
  RingTable::Wake(door);
  table.CloseProducer(*ring, memory.names());
  table.Remove(own, memory.names());
}

std::vector<std::string> PointsOf(const std::function<void()>& body) {
  CountCrashPoints();
  body();
  std::vector<std::string> points;
  for (const auto& [name, times] : CrashPointsPassed()) points.emplace_back(name);
  return points;
}

// Whoever can meet an endpoint knows what it wants: a publisher that took it for one that wants
// nothing would pass over it without a word.
TEST_F(RingTableTest, NobodyMeetsAnEndpointBeforeItsTopicsAreThere) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  const std::vector<std::string> topics = {"wind"};
  const EndpointOptions options = Named("data", false);
  const std::vector<std::string> points = PointsOf([&] { MustAdd(*one_, options, topics); });
  EXPECT_GE(points.size(), 4u);
  size_t met = 0;
  for (const std::string& point : points) {
    SCOPED_TRACE(point);
    ChildProcess child = ChildProcess::Start([&] {
      ArmCrashPoint(point);
      MustAdd(*one_, options, topics);
      return 0;
    });
    ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
    const std::vector<EndpointInfo> found = two_->Find("data");
    for (const EndpointInfo& info : found) EXPECT_EQ(two_->TopicsOf(info.id), topics);
    met = found.size();
  }
  EXPECT_GE(met, 2u);
}

TEST_F(RingTableTest, IsWholeAfterAKillAtEveryPoint) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  const EndpointId peer = MustAdd(*one_, Named("data", true));
  const auto third = memory_.Join(3);
  const std::vector<std::string> points = PointsOf([&] { UseTable(memory_, *third, peer); });
  EXPECT_GE(points.size(), 9u);
  memory_.Reclaim(*one_, third->self());
  for (const std::string& point : points) {
    SCOPED_TRACE(point);
    const auto victim = memory_.Join(3);
    ChildProcess child = ChildProcess::Start([&] {
      ArmCrashPoint(point);
      UseTable(memory_, *victim, peer);
      return 0;
    });
    ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
    memory_.Reclaim(*one_, victim->self());
    // What was published is still received; then nothing is left.
    if (const auto ring = RingTo(*one_, peer); ring.has_value()) {
      EXPECT_TRUE(ring->word.producer_gone());
      RingConsumer<RealSync> consumer(one_->Ring(ring->row, ring->entries));
      RingBody body;
      uint32_t received = 0;
      while (consumer.Peek(&body) == RingLook::kReady) {
        const PartName name = PartName::FromPacked({body.word, body.tag});
        const auto held = HoldMoves<RealSync>::Accept(memory_.hold_word(name.row), name.generation,
                                                      one_->self().slot);
        ASSERT_TRUE(held.has_value());
        HoldMoves<RealSync>::Release(memory_.hold_word(name.row), *held);
        consumer.Advance();
        ++received;
      }
      EXPECT_LE(received, 2u);
      RingWord word = ring->word;
      EXPECT_TRUE(one_->Ring(ring->row, ring->entries).SetConsumerGone(&word));
    }
    EXPECT_EQ(one_->Find("data").size(), 1u);
    for (uint32_t i = 0; i < 2; ++i) EXPECT_TRUE(memory_.hold(i).IsFree());
    for (uint32_t row = 0; row < one_->rings_used(); ++row) {
      EXPECT_TRUE(one_->Ring(row, 1).Word().free());
    }
  }
}

TEST_F(RingTableTest, IsWholeAfterReclaimersAreKilledAtEveryPoint) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  const EndpointId peer = MustAdd(*one_, Named("data", true));
  // Two rings with unread messages, one each way.
  const auto prepare = [&](RingTable& victim) {
    const EndpointId own = MustAdd(victim, Named("data", false));
    const auto there = victim.Open(own, *victim.Look(peer.row), 4, false);
    const auto back = one_->Open(peer, *one_->Look(own.row), 4, false);
    HANDOFF_CHECK(there.ok() && back.ok());
    RingProducer<RealSync> producer(victim.Ring(there->row, there->entries));
    memory_.Send(0, victim.self(), one_->self(), producer);
    return std::pair(*there, *back);
  };
  const auto finish = [&](const std::pair<RingInfo, RingInfo>& rings) {
    EXPECT_EQ(memory_.hold(0).holder(), kNobody);
    RingConsumer<RealSync> consumer(one_->Ring(rings.first.row, rings.first.entries));
    RingBody body;
    ASSERT_EQ(consumer.Peek(&body), RingLook::kReady);
    const PartName name = PartName::FromPacked({body.word, body.tag});
    const auto held = HoldMoves<RealSync>::Accept(memory_.hold_word(0), name.generation, 1);
    ASSERT_TRUE(held.has_value());
    HoldMoves<RealSync>::Release(memory_.hold_word(0), *held);
    RingWord word = one_->Ring(rings.first.row, 4).Word();
    EXPECT_TRUE(word.producer_gone());
    EXPECT_TRUE(one_->Ring(rings.first.row, 4).SetConsumerGone(&word));
    word = one_->Ring(rings.second.row, 4).Word();
    EXPECT_TRUE(word.consumer_gone());
    EXPECT_TRUE(one_->Ring(rings.second.row, 4).SetProducerGone(&word));
    EXPECT_EQ(one_->Find("data").size(), 1u);
  };
  const auto first = memory_.Join(3);
  const auto rings = prepare(*first);
  const std::vector<std::string> points = PointsOf([&] { memory_.Reclaim(*one_, first->self()); });
  EXPECT_GE(points.size(), 5u);
  finish(rings);
  for (const std::string& point : points) {
    SCOPED_TRACE(point);
    const auto victim = memory_.Join(3);
    const auto left = prepare(*victim);
    ChildProcess child = ChildProcess::Start([&] {
      ArmCrashPoint(point);
      memory_.Reclaim(*two_, victim->self());
      return 0;
    });
    ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
    memory_.Reclaim(*one_, victim->self());
    finish(left);
  }
}

TEST_F(RingTableTest, ClosesByItsTickWhatNobodyReads) {
  const EndpointId from = MustAdd(*one_, Named("data", true));
  const EndpointId to = MustAdd(*two_, Named("data", false));
  const RingInfo ring = *one_->Open(from, *one_->Look(to.row), 4, false);
  RingProducer<RealSync> producer(one_->Ring(ring.row, ring.entries));
  memory_.Send(0, one_->self(), two_->self(), producer);
  // The producer is killed just after its look at the endpoint, the consumer's is freed meanwhile.
  memory_.Reclaim(*two_, one_->self());
  auto& word = memory_.layout().endpoints[to.row].word;
  word = EndpointWord{word.load()}.Freed().raw;
  two_->Changed();
  two_->Tick(memory_.names());
  EXPECT_TRUE(memory_.hold(0).IsFree());
  EXPECT_TRUE(NothingInUse(*two_));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "control_queue/spsc_ring.h"
#include "control_queue/testing/interleaving.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using Ring = SpscRing<SteppedSync>;
using Producer = RingProducer<SteppedSync>;
using Consumer = RingConsumer<SteppedSync>;
using Ends = Scenario::Ends;
using End = Scenario::End;

constexpr uint32_t kOpener = 2;

RingBody Body(uint64_t number) { return {.word = ~number, .tag = number}; }

// A ring, and blocks that the one who moves a word from sent to another state has.
struct World {
  enum State : uint32_t { kHeld, kSent, kAccepted, kTakenBack };

  World(size_t capacity, bool take_back_from_living) : entries(capacity), ring(header, entries) {
    word = *ring.Open(kOpener, {.producer = {.slot = 1, .epoch = 0},
                                .consumer = {.slot = 2, .epoch = 0},
                                .take_back_from_living = take_back_from_living});
    producer.emplace(ring);
    consumer.emplace(ring);
  }

  bool Take(uint64_t number, State state) {
    uint32_t sent = kSent;
    return blocks[number].compare_exchange_strong(sent, state, std::memory_order_acq_rel,
                                                  std::memory_order_acquire);
  }

  bool HasRoom() {
    const RingLook look = producer->HasRoom();
    EXPECT_NE(look, RingLook::kCorrupt);
    return look != RingLook::kWait;
  }

  void Send(uint64_t number) {
    blocks[number].store(kSent, std::memory_order_release);
    producer->Publish(Body(number));
  }

  // Takes one block back if the ring is not empty and the consumer is not faster.
  bool TakeBackOldest() {
    Producer::Oldest oldest;
    if (producer->PeekOldest(&oldest) != RingLook::kReady) return false;
    EXPECT_EQ(oldest.body, Body(oldest.body.tag));
    (void)Take(oldest.body.tag, kTakenBack);  // or accepted, and the consumer is about to advance
    (void)producer->TakeBack(oldest);
    return true;
  }

  // Accepts what is there. False: nothing is.
  bool Receive() {
    RingBody body;
    const RingLook look = consumer->Peek(&body);
    EXPECT_NE(look, RingLook::kCorrupt);
    if (look != RingLook::kReady) return false;
    EXPECT_EQ(body, Body(body.tag)) << "one message's word, another one's tag";
    if (Take(body.tag, kAccepted)) accepted.push_back(body.tag);
    consumer->Advance();
    return true;
  }

  // Everything after the end of all actors: what is left is received.
  void Drain() {
    consumer.emplace(ring);
    while (Receive()) {
    }
  }

  uint32_t StateOf(uint64_t number) { return blocks[number].load(std::memory_order_acquire); }

  RingHeader<SteppedSync> header;
  std::vector<RingEntry<SteppedSync>> entries;
  Ring ring;
  RingWord word;
  std::optional<Producer> producer;
  std::optional<Consumer> consumer;
  std::array<SteppedSync::Atomic<uint32_t>, 8> blocks;
  std::vector<uint64_t> accepted;
};

TEST(SpscRingInterleavingTest, DeliversInOrderAndEachOnce) {
  for (const size_t capacity : {1, 2}) {
    const uint64_t runs = ExploreInterleavings({.preemptions = 3}, [&] {
      auto world = std::make_shared<World>(capacity, false);
      return Scenario{.actors = {[=] {
                                   for (uint64_t number = 0; number < 3; ++number) {
                                     while (!world->HasRoom()) {
                                       SteppedSync::Pause();
                                     }
                                     world->Send(number);
                                   }
                                 },
                                 [=] {
                                   while (world->accepted.size() < 3) {
                                     if (!world->Receive()) SteppedSync::Pause();
                                   }
                                 }},
                      .at_end = [=](const Ends&) {
                        EXPECT_THAT(world->accepted, ::testing::ElementsAre(0, 1, 2));
                      }};
    });
    RecordProperty("runs", static_cast<int>(runs));
  }
}

// The producer drops the oldest to make room; nobody waits for anybody.
TEST(SpscRingInterleavingTest, GivesEachBlockToOneOfTheTwoWhenTheOldestAreDropped) {
  for (const size_t capacity : {1, 2}) {
    const uint64_t runs = ExploreInterleavings({.preemptions = 3}, [&] {
      auto world = std::make_shared<World>(capacity, true);
      return Scenario{.actors = {[=] {
                                   for (uint64_t number = 0; number < 3; ++number) {
                                     while (!world->HasRoom()) {
                                       (void)world->TakeBackOldest();
                                     }
                                     world->Send(number);
                                   }
                                 },
                                 [=] {
                                   for (int look = 0; look < 2; ++look) (void)world->Receive();
                                 }},
                      .at_end = [=](const Ends&) {
                        world->Drain();
                        uint64_t taken_back = 0;
                        for (uint64_t number = 0; number < 3; ++number) {
                          taken_back += world->StateOf(number) == World::kTakenBack ? 1 : 0;
                        }
                        EXPECT_EQ(world->accepted.size() + taken_back, 3u);
                        EXPECT_EQ(world->StateOf(2), World::kAccepted) << "the newest";
                        EXPECT_TRUE(std::is_sorted(world->accepted.begin(), world->accepted.end()));
                      }};
    });
    RecordProperty("runs", static_cast<int>(runs));
  }
}

TEST(SpscRingInterleavingTest, KeepsWhatWasPublishedWhenEitherEndIsKilled) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 2, .kills = 2}, [&] {
    auto world = std::make_shared<World>(2, true);
    return Scenario{.actors = {[=] {
                                 for (uint64_t number = 0; number < 3; ++number) {
                                   while (!world->HasRoom()) {
                                     (void)world->TakeBackOldest();
                                   }
                                   world->Send(number);
                                 }
                               },
                               [=] {
                                 for (int look = 0; look < 2; ++look) (void)world->Receive();
                               }},
                    .at_end = [=](const Ends& ends) {
                      // What a new reader finds: nothing twice, no hole, and only what was
                      // marked before it was published.
                      const std::vector<uint64_t> before = world->accepted;
                      world->Drain();
                      for (uint64_t number = 0; number < 3; ++number) {
                        const uint32_t state = world->StateOf(number);
                        // Sent and in no ring: its sender died between mark and publish.
                        EXPECT_TRUE(state != World::kSent || ends[0] == End::kKilled);
                      }
                      EXPECT_TRUE(std::is_sorted(world->accepted.begin(), world->accepted.end()));
                      EXPECT_GE(world->accepted.size(), before.size());
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

// Steps a and c at the end of a ring, both ends at once.
TEST(SpscRingInterleavingTest, LosesNothingWhenTheProducerGoesAndIsFreedOnce) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 4}, [&] {
    auto world = std::make_shared<World>(2, false);
    auto freed = std::make_shared<int>(0);
    return Scenario{.actors = {[=] {
                                 world->Send(0);
                                 world->Send(1);
                                 RingWord seen = world->ring.Word();
                                 while (!world->ring.SetProducerGone(&seen)) {
                                 }
                                 *freed += seen.free() ? 1 : 0;
                               },
                               [=] {
                                 for (;;) {
                                   RingWord seen = world->ring.Word();
                                   if (world->Receive()) continue;
                                   if (!seen.producer_gone()) {
                                     SteppedSync::Pause();
                                     continue;
                                   }
                                   EXPECT_TRUE(world->ring.SetConsumerGone(&seen));
                                   *freed += seen.free() ? 1 : 0;
                                   return;
                                 }
                               }},
                    .at_end = [=](const Ends&) {
                      EXPECT_THAT(world->accepted, ::testing::ElementsAre(0, 1));
                      EXPECT_EQ(*freed, 1);
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

// Step b against c: whoever goes second sees to what is left.
TEST(SpscRingInterleavingTest, LeavesNoBlockBehindWhenBothEndsCloseAtOnce) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 4}, [&] {
    auto world = std::make_shared<World>(2, false);
    return Scenario{.actors = {[=] {
                                 world->Send(0);
                                 RingWord seen = world->ring.Word();
                                 do {
                                   if (!seen.consumer_gone()) continue;
                                   while (world->TakeBackOldest()) {
                                   }
                                 } while (!world->ring.SetProducerGone(&seen));
                               },
                               [=] {
                                 RingWord seen = world->ring.Word();
                                 do {
                                   if (!seen.producer_gone()) continue;
                                   while (world->Receive()) {
                                   }
                                 } while (!world->ring.SetConsumerGone(&seen));
                               }},
                    .at_end = [=](const Ends&) {
                      EXPECT_TRUE(world->ring.Word().free());
                      EXPECT_NE(world->StateOf(0), World::kSent);
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

// A scan that runs late meets the next use of the ring.
TEST(SpscRingInterleavingTest, NeverMixesTheEndsOrEntriesOfTwoUses) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 3}, [&] {
    auto world = std::make_shared<World>(1, false);
    world->producer->Publish(Body(0));
    return Scenario{
        .actors = {[=] {
                     RingWord seen = world->ring.Word();
                     EXPECT_TRUE(world->ring.SetProducerGone(&seen));
                     EXPECT_TRUE(world->ring.SetConsumerGone(&seen));
                     EXPECT_TRUE(world->ring.Open(3, {.producer = {.slot = 3, .epoch = 0},
                                                      .consumer = {.slot = 4, .epoch = 0}}));
                     Producer(world->ring).Publish(Body(1));
                   },
                   [=] {
                     const std::optional<Ring::Snapshot> snapshot = world->ring.Look();
                     if (!snapshot) return;
                     const bool first = snapshot->word.generation() == world->word.generation();
                     EXPECT_EQ(snapshot->ends.producer.slot, first ? 1u : 3u);
                     EXPECT_EQ(snapshot->ends.consumer.slot, first ? 2u : 4u);
                     const std::optional<RingBody> body = world->ring.ReadPublished(snapshot->head);
                     if (!body || world->ring.Word() != snapshot->word) return;
                     EXPECT_EQ(*body, Body(first ? 0 : 1));
                   }},
        .at_end = [](const Ends&) {}};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

TEST(SpscRingInterleavingTest, IsOpenedByOneAndAfterItsDeathByTheNext) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 2, .kills = 1}, [&] {
    auto world = std::make_shared<World>(1, false);
    world->producer->Publish(Body(0));
    EXPECT_TRUE(world->ring.SetProducerGone(&world->word));
    EXPECT_TRUE(world->ring.SetConsumerGone(&world->word));
    auto opened = std::make_shared<std::array<bool, 2>>();
    const auto open = [=](uint32_t i) {
      (*opened)[i] = world->ring.Open(i + 1, {.producer = {.slot = i + 1, .epoch = 0}}).has_value();
    };
    return Scenario{.actors = {[=] { open(0); }, [=] { open(1); }},
                    .at_end = [=](const Ends& ends) {
                      EXPECT_FALSE((*opened)[0] && (*opened)[1]);
                      RingWord word = world->ring.Word();
                      if (word.opening()) {
                        EXPECT_EQ(ends[word.opener() - 1], End::kKilled);
                        EXPECT_TRUE(world->ring.AbandonOpening(word));
                        EXPECT_TRUE(world->ring.Open(3, {.producer = {.slot = 3, .epoch = 0}}));
                      }
                      const std::optional<Ring::Snapshot> snapshot = world->ring.Look();
                      ASSERT_TRUE(snapshot.has_value());
                      Consumer consumer(world->ring);
                      RingBody body;
                      EXPECT_EQ(consumer.Peek(&body), RingLook::kWait) << "of the first use";
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

}  // namespace
}  // namespace handoff

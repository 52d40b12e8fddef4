// SPDX-License-Identifier: Apache-2.0
#include "control_queue/spsc_ring.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/sync.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Ring = SpscRing<RealSync>;
using Producer = RingProducer<RealSync>;
using Consumer = RingConsumer<RealSync>;

constexpr RingEnds kEnds = {.producer = {.slot = 1, .epoch = 7},
                            .consumer = {.slot = 2, .epoch = 8}};
constexpr RingEnds kTakeBackEnds = {.producer = {.slot = 1, .epoch = 7},
                                    .consumer = {.slot = 2, .epoch = 8},
                                    .take_back_from_living = true};
constexpr uint32_t kOpener = 2;

// On the heap, because gcc's address sanitizer does not align the stack to cache lines.
template <size_t kCapacity>
struct Memory {
  struct Bytes {
    RingHeader<RealSync> header = {};
    std::array<RingEntry<RealSync>, kCapacity> entries = {};
  };

  Ring ring() { return Ring(header, entries); }

  const std::unique_ptr<Bytes> bytes = std::make_unique<Bytes>();
  RingHeader<RealSync>& header = bytes->header;
  std::array<RingEntry<RealSync>, kCapacity>& entries = bytes->entries;
};

// A ring just opened, and its two ends.
template <size_t kCapacity>
struct OpenRing {
  explicit OpenRing(const RingEnds& ends = kEnds) : word(*ring.Open(kOpener, ends)) {}

  Memory<kCapacity> memory;
  Ring ring = memory.ring();
  RingWord word;
  Producer producer{ring};
  Consumer consumer{ring};
};

RingBody Body(uint64_t number) { return {.word = ~number, .tag = number}; }

// Publishes 0, 1, ... `count` - 1, for which there is room.
void PublishNumbers(Producer& producer, uint64_t count) {
  for (uint64_t number = 0; number < count; ++number) {
    ASSERT_EQ(producer.HasRoom(), RingLook::kReady);
    producer.Publish(Body(number));
  }
}

// The number of the next body, taken off the ring; nothing if there is none.
std::optional<uint64_t> Receive(Consumer& consumer) {
  RingBody body;
  if (consumer.Peek(&body) != RingLook::kReady) return std::nullopt;
  EXPECT_EQ(body, Body(body.tag));
  consumer.Advance();
  return body.tag;
}

std::vector<uint64_t> ReceiveAll(Consumer& consumer) {
  std::vector<uint64_t> numbers;
  while (const std::optional<uint64_t> number = Receive(consumer)) numbers.push_back(*number);
  return numbers;
}

TEST(SpscRingTest, IsFreeWhenItsBytesAreZero) {
  Memory<4> memory;
  EXPECT_TRUE(memory.ring().Word().free());
  EXPECT_EQ(memory.ring().Look(), std::nullopt);
}

TEST(SpscRingTest, IsOpenedOnce) {
  Memory<4> memory;
  Ring ring = memory.ring();
  const std::optional<RingWord> word = ring.Open(kOpener, kEnds);
  ASSERT_TRUE(word.has_value());
  EXPECT_EQ(ring.Word(), *word);
  EXPECT_FALSE(word->free() || word->opening() || word->producer_gone() || word->consumer_gone());
  EXPECT_EQ(ring.Open(kOpener, kEnds), std::nullopt);
  EXPECT_EQ(ring.Look(), (Ring::Snapshot{.word = *word, .ends = kEnds, .head = 0}));
}

TEST(SpscRingTest, DeliversInOrderAndEachOnce) {
  OpenRing<4> open;
  EXPECT_THAT(ReceiveAll(open.consumer), IsEmpty());
  PublishNumbers(open.producer, 3);
  EXPECT_THAT(ReceiveAll(open.consumer), ElementsAre(0, 1, 2));
  PublishNumbers(open.producer, 4);
  EXPECT_THAT(ReceiveAll(open.consumer), ElementsAre(0, 1, 2, 3)) << "around the end";
  EXPECT_THAT(ReceiveAll(open.consumer), IsEmpty());
}

TEST(SpscRingTest, GivesAnEntryAgainUntilTheConsumerAdvances) {
  Memory<4> memory;
  Ring ring = memory.ring();
  ASSERT_TRUE(ring.Open(kOpener, kEnds));
  Producer producer(ring);
  PublishNumbers(producer, 2);
  RingBody body;
  for (int look = 0; look < 2; ++look) {
    Consumer consumer(ring);
    ASSERT_EQ(consumer.Peek(&body), RingLook::kReady);
    EXPECT_EQ(body, Body(0));
  }
  Consumer consumer(ring);
  EXPECT_EQ(Receive(consumer), 0u);
  EXPECT_EQ(Receive(consumer), 1u);
}

TEST(SpscRingTest, HasRoomForItsCapacity) {
  OpenRing<4> open;
  EXPECT_EQ(open.producer.HasRoom(4), RingLook::kReady);
  EXPECT_EQ(open.producer.HasRoom(5), RingLook::kWait);
  PublishNumbers(open.producer, 4);
  EXPECT_EQ(open.producer.HasRoom(), RingLook::kWait);
  EXPECT_EQ(open.producer.UnreceivedAtMost(), 4u);
  EXPECT_EQ(Receive(open.consumer), 0u);
  EXPECT_EQ(open.producer.HasRoom(), RingLook::kReady);
  EXPECT_EQ(open.producer.HasRoom(2), RingLook::kWait);
  EXPECT_EQ(open.producer.UnreceivedAtMost(), 3u);
}

// A lap is 16 bits, so this goes around more than twice.
TEST(SpscRingTest, GoesOnWhenTheLapsBeginAnew) {
  OpenRing<1> open;
  for (uint64_t number = 0; number < 150000; ++number) {
    ASSERT_EQ(open.producer.HasRoom(), RingLook::kReady);
    open.producer.Publish(Body(number));
    ASSERT_EQ(Receive(open.consumer), number);
    ASSERT_EQ(Receive(open.consumer), std::nullopt);
  }
}

TEST(SpscRingTest, CarriesEveryBitOfABody) {
  OpenRing<1> open;
  const RingBody full = {.word = UINT64_MAX, .tag = (uint64_t{1} << RingBody::kTagBits) - 1};
  for (const RingBody& body : {full, RingBody{}, full}) {
    ASSERT_EQ(open.producer.HasRoom(), RingLook::kReady);
    open.producer.Publish(body);
    RingBody received;
    ASSERT_EQ(open.consumer.Peek(&received), RingLook::kReady);
    EXPECT_EQ(received, body);
    open.consumer.Advance();
  }
}

// What a producer leaves that is killed between the body and the seal.
TEST(SpscRingTest, HidesAnEntryWithoutItsSeal) {
  OpenRing<2> open;
  PublishNumbers(open.producer, 1);
  open.memory.entries[1].word.store(99, std::memory_order_relaxed);
  EXPECT_THAT(ReceiveAll(open.consumer), ElementsAre(0));
  EXPECT_EQ(open.ring.ReadPublished(1), std::nullopt);
}

TEST(SpscRingTest, ShowsAReclaimerWhatWasPublishedAndNotReceived) {
  OpenRing<4> open;
  PublishNumbers(open.producer, 3);
  ASSERT_EQ(Receive(open.consumer), 0u);
  PublishNumbers(open.producer, 2);
  const auto published = [&] {
    std::vector<uint64_t> numbers;
    for (uint64_t index = open.ring.Look()->head;; ++index) {
      const std::optional<RingBody> body = open.ring.ReadPublished(index);
      if (!body) return numbers;
      numbers.push_back(body->tag);
    }
  };
  EXPECT_THAT(published(), ElementsAre(1, 2, 0, 1)) << "full";
  EXPECT_THAT(ReceiveAll(open.consumer), ElementsAre(1, 2, 0, 1));
  EXPECT_THAT(published(), IsEmpty());
}

TEST(SpscRingTest, IsFreedBySecondEndThatGoes) {
  Memory<4> memory;
  Ring ring = memory.ring();
  RingWord word = *ring.Open(kOpener, kEnds);
  ASSERT_TRUE(ring.SetProducerGone(&word));
  EXPECT_TRUE(word.producer_gone());
  EXPECT_FALSE(word.consumer_gone() || word.free());
  EXPECT_EQ(ring.Word(), word);
  ASSERT_TRUE(ring.SetConsumerGone(&word));
  EXPECT_TRUE(word.free());
  EXPECT_TRUE(ring.Word().free());
}

TEST(SpscRingTest, LetsNeitherEndGoWithoutHavingSeenTheOther) {
  Memory<4> memory;
  Ring ring = memory.ring();
  const RingWord open = *ring.Open(kOpener, kEnds);
  RingWord producer_saw = open;
  RingWord consumer_saw = open;
  ASSERT_TRUE(ring.SetConsumerGone(&consumer_saw));
  EXPECT_FALSE(ring.SetProducerGone(&producer_saw));
  EXPECT_TRUE(producer_saw.consumer_gone()) << "so that it drains first";
  EXPECT_FALSE(ring.Word().producer_gone());
  EXPECT_TRUE(ring.SetProducerGone(&producer_saw));
  EXPECT_TRUE(ring.Word().free());
}

TEST(SpscRingTest, DeliversWhatAProducerLeftThatHasGone) {
  OpenRing<4> open;
  PublishNumbers(open.producer, 2);
  ASSERT_TRUE(open.ring.SetProducerGone(&open.word));
  EXPECT_THAT(ReceiveAll(open.consumer), ElementsAre(0, 1));
}

TEST(SpscRingTest, ShowsNothingOfAnEarlierUse) {
  Memory<4> memory;
  Ring ring = memory.ring();
  RingWord first = *ring.Open(kOpener, kEnds);
  {
    Producer producer(ring);
    PublishNumbers(producer, 3);
  }
  RingWord word = first;
  ASSERT_TRUE(ring.SetProducerGone(&word));
  ASSERT_TRUE(ring.SetConsumerGone(&word));

  const RingWord second = *ring.Open(kOpener, kTakeBackEnds);
  EXPECT_GT(second.generation(), first.generation());
  EXPECT_EQ(ring.Look(), (Ring::Snapshot{.word = second, .ends = kTakeBackEnds, .head = 0}));
  Producer producer(ring);
  Consumer consumer(ring);
  EXPECT_THAT(ReceiveAll(consumer), IsEmpty());
  PublishNumbers(producer, 1);
  EXPECT_THAT(ReceiveAll(consumer), ElementsAre(0));
  EXPECT_FALSE(ring.SetProducerGone(&first)) << "a late reclaimer of the first use";
}

// What an opener leaves that is killed between its claim and the opening.
TEST(SpscRingTest, IsFreeAgainOnceAHalfMadeOpeningIsAbandoned) {
  Memory<4> memory;
  Ring ring = memory.ring();
  const RingWord claimed = ring.Word().Claimed(kOpener);
  memory.header.word.store(claimed.raw, std::memory_order_relaxed);
  memory.entries[0].seal.store(UINT64_MAX, std::memory_order_relaxed);
  EXPECT_TRUE(claimed.opening() && claimed.producer_gone() && claimed.consumer_gone());
  EXPECT_EQ(claimed.opener(), kOpener);
  EXPECT_EQ(ring.Look(), std::nullopt);
  EXPECT_EQ(ring.Open(3, kEnds), std::nullopt);
  EXPECT_TRUE(ring.AbandonOpening(claimed));
  const RingWord open = *ring.Open(3, kEnds);
  EXPECT_GT(open.generation(), claimed.generation());
  EXPECT_FALSE(ring.AbandonOpening(claimed)) << "a late reclaimer of the first opener";
  Consumer consumer(ring);
  EXPECT_THAT(ReceiveAll(consumer), IsEmpty());
}

TEST(SpscRingTest, GivesBackWhatADeadConsumerHasLeft) {
  Memory<4> memory;
  Ring ring = memory.ring();
  RingWord word = *ring.Open(kOpener, kEnds);
  Producer producer(ring);
  {
    Consumer consumer(ring);
    PublishNumbers(producer, 4);
    ASSERT_EQ(Receive(consumer), 0u);
  }
  ASSERT_TRUE(ring.SetConsumerGone(&word));
  Producer::Oldest oldest;
  for (uint64_t number = 1; number < 4; ++number) {
    ASSERT_EQ(producer.PeekOldest(&oldest), RingLook::kReady);
    EXPECT_EQ(oldest.body, Body(number));
    EXPECT_TRUE(producer.TakeBack(oldest));
  }
  EXPECT_EQ(producer.PeekOldest(&oldest), RingLook::kWait);
  EXPECT_EQ(producer.UnreceivedAtMost(), 0u);
  ASSERT_TRUE(ring.SetProducerGone(&word));
  EXPECT_TRUE(word.free());
}

TEST(SpscRingTest, LetsTheProducerDropTheOldestUnderALivingConsumer) {
  OpenRing<2> open(kTakeBackEnds);
  Producer::Oldest oldest;
  for (uint64_t number = 0; number < 5; ++number) {
    if (open.producer.HasRoom() == RingLook::kWait) {
      ASSERT_EQ(open.producer.PeekOldest(&oldest), RingLook::kReady);
      ASSERT_TRUE(open.producer.TakeBack(oldest));
      ASSERT_EQ(open.producer.HasRoom(), RingLook::kReady);
    }
    open.producer.Publish(Body(number));
  }
  EXPECT_THAT(ReceiveAll(open.consumer), ElementsAre(3, 4));
}

TEST(SpscRingTest, GivesAnEntryToOneOfTheTwoWhoWantIt) {
  OpenRing<2> open(kTakeBackEnds);
  PublishNumbers(open.producer, 2);
  Producer::Oldest oldest;
  ASSERT_EQ(open.producer.PeekOldest(&oldest), RingLook::kReady);
  ASSERT_EQ(Receive(open.consumer), 0u);
  EXPECT_FALSE(open.producer.TakeBack(oldest));
  ASSERT_EQ(open.producer.PeekOldest(&oldest), RingLook::kReady);
  EXPECT_EQ(oldest.body, Body(1));
  RingBody body;
  ASSERT_EQ(open.consumer.Peek(&body), RingLook::kReady);
  EXPECT_TRUE(open.producer.TakeBack(oldest));
  open.consumer.Advance();
  EXPECT_EQ(open.consumer.Peek(&body), RingLook::kWait);
  EXPECT_EQ(open.memory.header.head.load(std::memory_order_relaxed), 2u);
}

TEST(SpscRingTest, TellsTheProducerOfAHeadThatCannotBe) {
  for (const uint64_t head : {uint64_t{3}, uint64_t{0}, UINT64_MAX}) {
    OpenRing<2> open;
    PublishNumbers(open.producer, 2);
    ASSERT_EQ(Receive(open.consumer), 0u);
    ASSERT_EQ(open.producer.HasRoom(2), RingLook::kWait) << "has seen head 1";
    open.memory.header.head.store(head, std::memory_order_relaxed);
    Producer::Oldest oldest;
    EXPECT_EQ(open.producer.PeekOldest(&oldest), RingLook::kCorrupt) << head;
    EXPECT_EQ(open.producer.HasRoom(2), RingLook::kCorrupt) << head;
  }
}

TEST(SpscRingTest, TellsTheConsumerOfAHeadThatWentBack) {
  OpenRing<2> open(kTakeBackEnds);
  PublishNumbers(open.producer, 2);
  ASSERT_THAT(ReceiveAll(open.consumer), ElementsAre(0, 1));
  open.memory.header.head.store(1, std::memory_order_relaxed);
  RingBody body;
  EXPECT_EQ(open.consumer.Peek(&body), RingLook::kCorrupt);
}

// Ends on a ring full of noise: they may say anything, but stay inside (address sanitizer).
TEST(SpscRingTest, StaysInsideWhateverAPeerWrites) {
  std::mt19937_64 random(1);
  for (int turn = 0; turn < 2000; ++turn) {
    Memory<4> memory;
    Ring ring = memory.ring();
    ASSERT_TRUE(ring.Open(kOpener, turn % 2 == 0 ? kEnds : kTakeBackEnds));
    Producer producer(ring);
    Consumer consumer(ring);
    for (int step = 0; step < 20; ++step) {
      RingBody body;
      Producer::Oldest oldest;
      switch (random() % 6) {
        case 0:
          if (producer.HasRoom() == RingLook::kReady) producer.Publish(Body(random() % 100));
          break;
        case 1:
          if (consumer.Peek(&body) == RingLook::kReady) consumer.Advance();
          break;
        case 2:
          if (producer.PeekOldest(&oldest) == RingLook::kReady) (void)producer.TakeBack(oldest);
          break;
        case 3:
          memory.header.head.store(random() >> random() % 64, std::memory_order_relaxed);
          break;
        case 4:
          memory.entries[random() % 4].seal.store(random(), std::memory_order_relaxed);
          break;
        case 5:
          (void)ring.ReadPublished(random());
          (void)ring.Look();
          break;
      }
    }
  }
}

// The payload is plain memory, so the thread sanitizer sees whether a handle orders it.
TEST(SpscRingStressTest, DeliversEverythingWithItsPayload) {
  constexpr uint64_t kCount = 200000;
  Memory<64> memory;
  Ring ring = memory.ring();
  RingWord word = *ring.Open(kOpener, kEnds);
  std::array<uint64_t, 64> payload = {};
  std::thread sender([&] {
    Producer producer(ring);
    for (uint64_t number = 0; number < kCount; ++number) {
      while (producer.HasRoom() != RingLook::kReady) std::this_thread::yield();
      payload[number % 64] = number;
      producer.Publish(Body(number));
    }
    RingWord seen = word;
    EXPECT_TRUE(ring.SetProducerGone(&seen));
  });
  Consumer consumer(ring);
  uint64_t next = 0;
  for (;;) {
    const RingWord seen = ring.Word();
    RingBody body;
    if (consumer.Peek(&body) == RingLook::kReady) {
      ASSERT_EQ(body, Body(next));
      ASSERT_EQ(payload[next % 64], next);
      ++next;
      consumer.Advance();
    } else if (seen.producer_gone()) {
      break;
    } else {
      std::this_thread::yield();
    }
  }
  EXPECT_EQ(next, kCount);
  sender.join();
}

TEST(SpscRingStressTest, GivesEachEntryToExactlyOneWhenTheOldestAreDropped) {
  constexpr uint32_t kCount = 100000;
  enum State : uint32_t { kSent, kAccepted, kTakenBack };
  std::vector<std::atomic<uint32_t>> blocks(kCount);
  const auto take = [&](uint64_t number, State state) {
    uint32_t sent = kSent;
    return blocks[number].compare_exchange_strong(sent, state, std::memory_order_acq_rel);
  };
  Memory<4> memory;
  Ring ring = memory.ring();
  ASSERT_TRUE(ring.Open(kOpener, kTakeBackEnds));
  std::atomic<bool> done{false};
  std::thread sender([&] {
    Producer producer(ring);
    Producer::Oldest oldest;
    for (uint64_t number = 0; number < kCount; ++number) {
      while (producer.HasRoom() != RingLook::kReady) {
        if (producer.PeekOldest(&oldest) != RingLook::kReady) continue;
        if (take(oldest.body.tag, kTakenBack)) {
          (void)producer.TakeBack(oldest);
        } else {
          std::this_thread::yield();  // the consumer has it, and is about to advance
        }
      }
      producer.Publish(Body(number));
    }
    done = true;
  });
  Consumer consumer(ring);
  std::optional<uint64_t> last;
  uint64_t accepted = 0;
  for (bool was_done = false;;) {
    RingBody body;
    const RingLook look = consumer.Peek(&body);
    ASSERT_NE(look, RingLook::kCorrupt);
    if (look == RingLook::kReady) {
      ASSERT_EQ(body, Body(body.tag)) << "one message's word, another one's tag";
      if (take(body.tag, kAccepted)) {
        ASSERT_TRUE(!last || body.tag > *last);
        last = body.tag;
        ++accepted;
      }
      consumer.Advance();
    } else if (was_done) {
      break;
    } else {
      was_done = done;
      if (!was_done) std::this_thread::yield();
    }
  }
  sender.join();
  EXPECT_EQ(last, kCount - 1) << "the newest is never dropped";
  uint64_t taken_back = 0;
  for (const auto& block : blocks) taken_back += block == kTakenBack ? 1 : 0;
  EXPECT_EQ(accepted + taken_back, kCount);
}

TEST(SpscRingStressTest, IsOpenedByOneOfManyAndNeverShowsAnOldEntry) {
  Memory<4> memory;
  Ring ring = memory.ring();
  for (uint64_t turn = 0; turn < 300; ++turn) {
    std::atomic<int> opened{0};
    std::vector<std::thread> openers;
    for (uint32_t slot = 1; slot <= 3; ++slot) {
      openers.emplace_back([&, slot] { opened += ring.Open(slot, kEnds) ? 1 : 0; });
    }
    for (std::thread& opener : openers) opener.join();
    ASSERT_EQ(opened, 1);
    Producer producer(ring);
    Consumer consumer(ring);
    ASSERT_EQ(Receive(consumer), std::nullopt);
    PublishNumbers(producer, turn % 5);
    RingWord word = ring.Word();
    ASSERT_TRUE(ring.SetProducerGone(&word));
    ASSERT_TRUE(ring.SetConsumerGone(&word));
  }
}

}  // namespace
}  // namespace handoff

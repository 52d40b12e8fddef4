// SPDX-License-Identifier: Apache-2.0
// What a peer that is broken, or means harm, writes into the rings: whoever uses them neither stops
// nor reads what it should not, drops what makes no sense, and goes on with the others.
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/bundle.h"
#include "allocator/management_layout.h"
#include "allocator/mapping.h"
#include "allocator/member.h"
#include "allocator/part_name.h"
#include "allocator/ring_layout.h"
#include "allocator/session.h"
#include "base/clock.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

// HANDOFF_FUZZ_SECONDS lengthens the random part, HANDOFF_FUZZ_SEED repeats it.
absl::Duration FuzzLength() {
  const char* const seconds = std::getenv("HANDOFF_FUZZ_SECONDS");
  return seconds == nullptr ? absl::Milliseconds(1500) : absl::Seconds(std::atoi(seconds));
}
uint64_t FuzzSeed() {
  const char* const seed = std::getenv("HANDOFF_FUZZ_SEED");
  return seed == nullptr ? std::random_device()() : std::strtoull(seed, nullptr, 10);
}

class RingDamageTest : public SessionFixture {
 protected:
  RingDamageTest() {
    SessionOptions options;
    options.names.session = session_.name();
    options.names.shm_dir = session_.directory();
    options.main_segment_bytes = kSegmentBytes;
    auto vandal = Member::Join(std::move(options));
    EXPECT_TRUE(vandal.ok()) << vandal.status();
    vandal_ = *std::move(vandal);
    table_area_ = *vandal_->session().OpenArea(AreaKind::kRingTable);
    data_area_ = *vandal_->session().OpenArea(AreaKind::kRingData);
  }

  RingTableLayout& table() {
    return *reinterpret_cast<RingTableLayout*>(table_area_.bytes().data());
  }
  RingEntry<RealSync>& entry(uint32_t row, uint64_t index) {
    return reinterpret_cast<RingEntry<RealSync>*>(data_area_.bytes().data() +
                                                  row * kRingWindowBytes)[index];
  }
  uint32_t rings() { return table().header.rings_used.load(std::memory_order_acquire); }
  uint32_t endpoints() { return table().header.endpoints_used.load(std::memory_order_acquire); }

  // Overwrites the name in an entry, which stays published.
  void Forge(uint32_t row, uint64_t index, const PartName& name) {
    const PartName::Words words = name.Packed();
    const uint64_t lap = entry(row, index).seal.load(std::memory_order_acquire) >> 48;
    entry(row, index).word.store(words.word, std::memory_order_relaxed);
    entry(row, index).seal.store(lap << 48 | words.tag, std::memory_order_release);
  }
  PartName NameIn(uint32_t row, uint64_t index) {
    constexpr uint64_t kTagMask = (uint64_t{1} << 48) - 1;
    return PartName::FromPacked(
        {entry(row, index).word.load(std::memory_order_acquire),
         entry(row, index).seal.load(std::memory_order_acquire) & kTagMask});
  }

  static SocketResult SendOne(Transport& transport, Socket& socket, uint64_t seed) {
    return socket.TrySend(Filled(transport, 100, seed));
  }
  // Reads whatever has come.
  static uint64_t ReadAll(Socket& socket) {
    uint64_t sum = 0;
    Message message;
    for (int i = 0; i < 2000 && socket.TryReceive(&message) == SocketResult::kOk; ++i) {
      if (message.empty()) continue;
      sum += static_cast<uint64_t>(message.bytes().front()) +
             static_cast<uint64_t>(message.bytes().back());
    }
    return sum;
  }

  std::unique_ptr<Member> vandal_;
  Mapping table_area_;
  Mapping data_area_;
};

TEST_F(RingDamageTest, DropsForgedNamesCountsThemAndReportsTheirSenderOnce) {
  auto one = OpenTransport();
  auto two = OpenTransport();
  auto push = Bind(*one, Pattern::kPush, "ring://data");
  auto pull = Connect(*two, Pattern::kPull, "ring://data");
  ASSERT_EQ(SendOne(*one, *push, 0), SocketResult::kOk);
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  ASSERT_EQ(rings(), 1u);
  const auto forgeries = [](PartName good) {
    std::vector<PartName> bad(10, good);
    bad[0].generation += 1;
    bad[1].generation = 0;
    bad[2].row = PartName::kMaxRow;
    bad[3].segment = 63;
    bad[4].used_bytes = (uint64_t{1} << 37) - 1;  // more than the block has
    bad[5].kind = PartKind::kReference;
    bad[6].kind = PartKind::kBundle;
    bad[7].used_bytes = 0;
    bad[8].row += 1;
    bad[9] = PartName::FromPacked({~uint64_t{0}, (uint64_t{1} << 48) - 1});
    return bad;
  };
  uint64_t index = 1;
  for (size_t i = 0; i < 10; ++i, index += 2) {
    ASSERT_EQ(SendOne(*one, *push, i), SocketResult::kOk);
    Forge(0, index, forgeries(NameIn(0, index))[i]);
    ASSERT_EQ(SendOne(*one, *push, 100 + i), SocketResult::kOk);
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << i;
    EXPECT_TRUE(IsFilled(message, 100, 100 + i)) << i;
  }
  const SocketStatistics statistics = pull->Statistics();
  EXPECT_EQ(statistics.stale_handles + statistics.bad_frames, 10u);
  ASSERT_EQ(statistics.refused_peers.size(), 1u);
  EXPECT_EQ(statistics.refused_peers[0].frames, 10u);
  ASSERT_EQ(statistics.peers.size(), 1u);
  EXPECT_EQ(statistics.peers[0].refused_frames, 10u);
  EXPECT_NE(statistics.refused_peers[0].peer.find("pid "), std::string::npos);
  EXPECT_NE(statistics.refused_peers[0].reason, "");
}

TEST_F(RingDamageTest, FreesManyPartsWhoseListLiesAboutThemOrTheirNumber) {
  auto one = OpenTransport();
  auto two = OpenTransport();
  auto push = Bind(*one, Pattern::kPush, "ring://data");
  auto pull = Connect(*two, Pattern::kPull, "ring://data");
  uint64_t index = 0;
  // The list of a message of two parts that was just sent.
  const auto send_parts = [&]() -> PartList<RealSync>& {
    std::vector<Message> parts(2);
    for (Message& part : parts) part = Filled(*one, 100, 1);
    EXPECT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
    const PartName name = NameIn(0, index++);
    EXPECT_EQ(name.kind, PartKind::kBundle);
    return *reinterpret_cast<PartList<RealSync>*>(vandal_->bundle_rows().section() +
                                                  name.row * kPageBytes);
  };
  std::vector<Message> parts;
  for (const uint64_t count : {uint64_t{0}, uint64_t{3}, uint64_t{40'000'000'000}}) {
    send_parts().count.store(count, std::memory_order_relaxed);
    // Whatever is made of it, it does not hold up what comes behind it.
    ASSERT_EQ(SendOne(*one, *push, count), SocketResult::kOk);
    ++index;
    do {
      ASSERT_EQ(pull->ReceiveParts(&parts, Soon()), SocketResult::kOk) << count;
    } while (parts.size() != 1 || !IsFilled(parts[0], 100, count));
  }
  const uint64_t bad = pull->Statistics().bad_frames;
  send_parts().parts[1].words[0].store(~uint64_t{0}, std::memory_order_relaxed);
  EXPECT_EQ(pull->TryReceiveParts(&parts), SocketResult::kWouldBlock);
  EXPECT_EQ(pull->Statistics().bad_frames, bad + 1);
  EXPECT_EQ(pull->Statistics().refused_peers.size(), 1u);
}

TEST_F(RingDamageTest, LeavesAReceiverWhoseCursorIsNonsenseAndGoesOnWithTheOthers) {
  auto one = OpenTransport();
  auto two = OpenTransport();
  for (const uint64_t head : {uint64_t{1000}, ~uint64_t{0}, uint64_t{1} << 63}) {
    auto push = Bind(*one, Pattern::kPush, "ring://data");
    SocketOptions few = PatientOptions();
    few.receive_high_water_mark = 4;
    auto broken = Connect(*two, Pattern::kPull, "ring://data", few);
    for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(SendOne(*one, *push, i), SocketResult::kOk);
    for (uint32_t row = 0; row < rings(); ++row) {
      if (!RingWord{table().rings[row].header.word.load(std::memory_order_acquire)}.free()) {
        table().rings[row].header.head.store(head, std::memory_order_release);
      }
    }
    // Full, so that it looks at the cursor.
    EXPECT_EQ(SendOne(*one, *push, 4), SocketResult::kWouldBlock);
    auto good = Connect(*two, Pattern::kPull, "ring://data");
    // All four come back from the broken one and go to the other, then the new one.
    EXPECT_EQ(push->Send(Filled(*one, 100, 4), Soon()), SocketResult::kOk);
    for (uint64_t i = 0; i < 5; ++i) {
      Message message;
      ASSERT_EQ(good->Receive(&message, Soon()), SocketResult::kOk) << i;
      EXPECT_TRUE(IsFilled(message, 100, i)) << i;
    }
    const SocketStatistics statistics = push->Statistics();
    EXPECT_EQ(statistics.bad_frames, 1u);
    ASSERT_EQ(statistics.refused_peers.size(), 1u);
    EXPECT_NE(statistics.refused_peers[0].reason.find("cursor"), std::string::npos);
  }
}

// The number that sockets use for "look in any case" is one that somebody may write.
TEST_F(RingDamageTest, GoesTheRightWayWhateverTheNumberOfChanges) {
  auto one = OpenTransport();
  auto two = OpenTransport();
  auto push = Bind(*one, Pattern::kPush, "ring://nobody");
  auto pull = Bind(*two, Pattern::kPull, "ring://idle");
  auto publish = Bind(*one, Pattern::kPublish, "ring://all");
  auto first = Connect(*two, Pattern::kSubscribe, "ring://all");
  auto second = Connect(*two, Pattern::kSubscribe, "ring://all");
  for (const uint64_t changes : {~uint64_t{0}, uint64_t{1}, uint64_t{1} << 63, ~uint64_t{0} >> 1}) {
    const auto damage = [&] { table().header.changes.store(changes, std::memory_order_release); };
    Message message;
    damage();
    EXPECT_EQ(SendOne(*one, *push, 1), SocketResult::kWouldBlock);
    damage();
    EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
    for (uint64_t i = 0; i < 3; ++i) {
      damage();
      ASSERT_EQ(SendOne(*one, *publish, i), SocketResult::kOk);
      for (Socket* subscriber : {first.get(), second.get()}) {
        damage();
        ASSERT_EQ(subscriber->TryReceive(&message), SocketResult::kOk) << changes << " " << i;
        EXPECT_TRUE(IsFilled(message, 100, i));
        message.Release();
      }
    }
  }
}

// A sender takes the word of the door, and is stopped before it wakes whoever sleeps there.
TEST_F(RingDamageTest, MakesADescriptorReadableThoughNobodyWoke) {
  auto one = OpenTransport();
  auto two = OpenTransport();
  SocketOptions options;
  options.send_high_water_mark = 1;
  auto push = Bind(*one, Pattern::kPush, "ring://data", options);
  auto pull = Connect(*two, Pattern::kPull, "ring://data");
  const auto wakes_nobody = [&] {
    absl::SleepFor(absl::Milliseconds(10));  // lets who watches the door fall asleep there
    for (uint32_t i = 0; i < endpoints(); ++i) table().endpoints[i].door.sleeping.store(0);
  };
  const auto becomes_readable = [](Socket& socket) {
    pollfd one_fd{.fd = *socket.Descriptor(), .events = POLLIN, .revents = 0};
    return poll(&one_fd, 1, 20'000) == 1;
  };
  Message message;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(SendOne(*one, *push, 1), SocketResult::kOk);
    ASSERT_TRUE(pull->Descriptor().ok());
    EXPECT_TRUE(pull->Ready().receive);
    ASSERT_EQ(pull->TryReceive(&message), SocketResult::kOk);
    EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
    wakes_nobody();
    ASSERT_EQ(SendOne(*one, *push, 2), SocketResult::kOk);
    EXPECT_TRUE(becomes_readable(*pull));
    ASSERT_EQ(pull->TryReceive(&message), SocketResult::kOk);
  }
  // The same for who waits for room.
  ASSERT_TRUE(push->Descriptor().ok());
  for (const size_t parts : {size_t{1}, size_t{2}}) {
    EXPECT_TRUE(push->Ready().send);
    ASSERT_EQ(SendOne(*one, *push, 3), SocketResult::kOk);
    std::vector<Message> more(parts);
    EXPECT_EQ(push->TrySendParts(more), SocketResult::kWouldBlock);
    wakes_nobody();
    ASSERT_EQ(pull->TryReceive(&message), SocketResult::kOk);
    EXPECT_TRUE(becomes_readable(*push));
  }
}

TEST_F(RingDamageTest, NeitherStopsNorReadsWhatItShouldNotWhateverIsWritten) {
  const uint64_t seed = FuzzSeed();
  SCOPED_TRACE("HANDOFF_FUZZ_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const Deadline until = Deadline::After(FuzzLength());
  int rounds = 0;
  for (; !until.expired(); ++rounds) {
    auto one = OpenTransport();
    auto two = OpenTransport();
    SocketOptions options = PatientOptions();
    options.receive_high_water_mark = 8;
    options.slow_policy = static_cast<SlowPolicy>(random() % 3);
    std::vector<std::unique_ptr<Socket>> senders;
    std::vector<std::unique_ptr<Socket>> receivers;
    senders.push_back(Bind(*one, Pattern::kPush, "ring://push", options));
    senders.push_back(Bind(*one, Pattern::kPair, "ring://pair", options));
    senders.push_back(Bind(*one, Pattern::kPublish, "ring://publish", options));
    senders.push_back(Connect(*one, Pattern::kRequest, "ring://ask", options));
    receivers.push_back(Connect(*two, Pattern::kPull, "ring://push", options));
    receivers.push_back(Connect(*two, Pattern::kPair, "ring://pair", options));
    receivers.push_back(Connect(*two, Pattern::kSubscribe, "ring://publish", options));
    receivers.push_back(Connect(*two, Pattern::kSubscribe, "ring://publish", options));
    receivers.push_back(Bind(*two, Pattern::kReply, "ring://ask", options));
    const auto move = [&] {
      for (auto& sender : senders) {
        (void)SendOne(*one, *sender, random());
        std::vector<Message> parts(1 + random() % 4);
        for (Message& part : parts) part = Filled(*one, random() % 3 * 50, 1);
        (void)sender->TrySendParts(parts);
      }
      for (auto& receiver : receivers) (void)ReadAll(*receiver);
      (void)SendOne(*two, *receivers.back(), 1);
      (void)SendOne(*two, *receivers[1], 1);
      (void)ReadAll(*senders[3]);
      (void)ReadAll(*senders[1]);
    };
    move();
    for (int step = 0; step < 30; ++step) {
      const uint32_t row = static_cast<uint32_t>(random() % std::max(1u, rings()));
      const uint32_t endpoint = static_cast<uint32_t>(random() % std::max(1u, endpoints()));
      // Often close to what makes sense.
      uint64_t value = random() >> random() % 64;
      switch (random() % 13) {
        case 0:
        case 1:
        case 2:
        case 3: {
          const uint64_t index = random() % 8;
          PartName name = NameIn(row, index);
          switch (random() % 5) {
            case 0:
              name.generation += random() % 3;
              break;
            case 1:
              name.row += static_cast<uint32_t>(random() % 4096);
              break;
            case 2:
              name.kind = static_cast<PartKind>(random() % 4);
              break;
            case 3:
              name.used_bytes = value;
              break;
            case 4:
              name.segment = static_cast<uint32_t>(random() % 64);
              break;
          }
          Forge(row, index, name);
          break;
        }
        case 4:
          entry(row, random() % 8).seal.store(random(), std::memory_order_release);
          break;
        case 5:
          entry(row, random() % 8).word.store(value, std::memory_order_release);
          break;
        case 6:
          table().rings[row].header.head.store(value, std::memory_order_release);
          break;
        case 7:
          table().rings[row].header.head.fetch_add(random() % 16, std::memory_order_acq_rel);
          break;
        case 8:
          table().rings[row].entries_shift.store(value, std::memory_order_release);
          break;
        case 9:
          (random() % 2 == 0 ? table().rings[row].producer : table().rings[row].consumer)
              .store(value, std::memory_order_release);
          break;
        case 10:
          table().endpoints[endpoint].options.store(value, std::memory_order_release);
          break;
        case 11:
          table().topics[endpoint].count.store(value, std::memory_order_release);
          break;
        case 12:
          table().header.changes.store(~value, std::memory_order_release);
          break;
      }
      table().header.changes.fetch_add(random() % 2, std::memory_order_acq_rel);
      move();
    }
    // Whoever comes now meets the damaged rows.
    for (const char* name : {"ring://push", "ring://pair", "ring://publish", "ring://ask"}) {
      auto late = *two->CreateSocket(Pattern::kPull, options);
      (void)late->Connect(name);
      Message message;
      (void)late->TryReceive(&message);
    }
    senders.clear();
    receivers.clear();
  }
  EXPECT_GT(rounds, 0);
  RecordProperty("rounds", rounds);
  // What the members of the damaged rounds had is free, for all that was written.
  EXPECT_TRUE(WaitFor([&] {
    vandal_->ReclaimDead();
    return vandal_->main_segment().Usage().used_blocks == 0;
  }));
}

}  // namespace
}  // namespace handoff

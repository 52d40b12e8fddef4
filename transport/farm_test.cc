// SPDX-License-Identifier: Apache-2.0
// A farm of one sender, four workers and one sink, each a process, whose workers are killed and
// stopped all the time: every message is accounted for.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/member.h"
#include "allocator/ring_table.h"
#include "allocator/session_audit.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

constexpr uint32_t kWorkers = 4;
constexpr uint64_t kMostMessages = uint64_t{1} << 23;

// HANDOFF_STORM_SECONDS lengthens the storm.
int StormSeconds() {
  const char* const seconds = std::getenv("HANDOFF_STORM_SECONDS");
  return seconds == nullptr ? 5 : std::max(1, std::atoi(seconds));
}

// What became of each message, in memory of all processes.
struct Ledger {
  std::atomic<bool> sender_ends;
  std::atomic<bool> sink_ends;
  std::atomic<uint64_t> sent;
  std::atomic<uint64_t> received;
  std::atomic<uint64_t> worked;                       // by all workers
  std::array<std::atomic<uint64_t>, kWorkers> turns;  // of each worker
  struct Message {
    std::atomic<uint16_t> worker;     // the last that had it in its hands; 0: none has said so
    std::atomic<uint8_t> deliveries;  // to the sink
  };
  std::array<Message, kMostMessages> messages;
};

class FarmTest : public SessionFixture {
 protected:
  FarmTest() {
    void* const memory = ::mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HANDOFF_CHECK(memory != MAP_FAILED);
    ledger_ = static_cast<Ledger*>(memory);
  }
  ~FarmTest() override { ::munmap(ledger_, sizeof(Ledger)); }

  static uint64_t NumberIn(const Message& message) {
    uint64_t number = kMostMessages;
    if (message.size() >= sizeof(number)) std::memcpy(&number, message.data(), sizeof(number));
    return number;
  }

  ChildProcess StartSender(const std::string& address) {
    return ChildProcess::Start([this, address] {
      const auto transport = OpenTransport();
      const auto push = Bind(*transport, Pattern::kPush, address, FarmOptions());
      std::mt19937 random(1);
      for (uint64_t i = 0; i < kMostMessages && !ledger_->sender_ends.load(); ++i) {
        const size_t size_bytes = random() % 16 == 0 ? 100'000 : 64;
        auto message = transport->Allocate(size_bytes, {.deadline = Deadline::Infinite()});
        if (!message.ok()) return 1;
        std::memcpy(message->mutable_bytes().data(), &i, sizeof(i));
        // Until it is gone: while all workers are dead there is nobody to send to.
        while (push->Send(*std::move(message), Deadline::After(absl::Milliseconds(50))) !=
               SocketResult::kOk) {
          if (ledger_->sender_ends.load()) return WaitForEnd();
        }
        ledger_->sent.store(i + 1);
        // So that the ledger lasts.
        if (i % 100 == 0) absl::SleepFor(absl::Milliseconds(1));
      }
      return WaitForEnd();
    });
  }
  // The sender goes on to serve what comes back from dead workers until everything is over.
  int WaitForEnd() const {
    while (!ledger_->sink_ends.load()) absl::SleepFor(absl::Milliseconds(1));
    return 0;
  }

  ChildProcess StartSink(const std::string& address) {
    return ChildProcess::Start([this, address] {
      const auto transport = OpenTransport();
      const auto pull = Bind(*transport, Pattern::kPull, address, FarmOptions());
      Message message;
      while (!ledger_->sink_ends.load()) {
        if (pull->Receive(&message, Deadline::After(absl::Milliseconds(10))) != SocketResult::kOk) {
          continue;
        }
        const uint64_t number = NumberIn(message);
        if (number >= kMostMessages) return 1;
        ledger_->messages[number].deliveries.fetch_add(1);
        ledger_->received.fetch_add(1);
      }
      return 0;
    });
  }

  // `life` tells one worker from the one before it in its place.
  ChildProcess StartWorker(uint32_t place, uint16_t life, const std::string& from,
                           const std::string& to) {
    return ChildProcess::Start([=, this] {
      const auto transport = OpenTransport();
      const auto pull = Connect(*transport, Pattern::kPull, from, FarmOptions());
      const auto push = Connect(*transport, Pattern::kPush, to, FarmOptions());
      Message message;
      for (;;) {
        ledger_->turns[place].fetch_add(1);
        if (pull->Receive(&message, Deadline::After(absl::Milliseconds(10))) != SocketResult::kOk) {
          continue;
        }
        ledger_->messages[NumberIn(message)].worker.store(life);
        while (push->Send(std::move(message), Deadline::After(absl::Milliseconds(10))) !=
               SocketResult::kOk) {
          ledger_->turns[place].fetch_add(1);
        }
        ledger_->worked.fetch_add(1);
      }
      return 1;
    });
  }

  static SocketOptions FarmOptions() {
    SocketOptions options = PatientOptions();
    options.send_high_water_mark = 64;
    options.receive_high_water_mark = 64;
    return options;
  }

  bool GoesOn(const std::atomic<uint64_t>& count) const {
    const uint64_t before = count.load();
    return WaitFor([&] { return count.load() > before + 5; });
  }

  // Runs the farm; afterwards only the sender and the sink are there.
  void Storm(const std::string& from, const std::string& to) {
    const uint32_t seed = std::random_device()();
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    sender_.emplace(StartSender(from));
    sink_.emplace(StartSink(to));
    uint16_t lives = 0;
    std::vector<ChildProcess> workers;
    std::vector<uint16_t> life(kWorkers);
    for (uint32_t i = 0; i < kWorkers; ++i) {
      workers.push_back(StartWorker(i, life[i] = ++lives, from, to));
    }
    const Deadline end = Deadline::After(absl::Seconds(StormSeconds()));
    while ((!end.expired() || killed_.size() < 3) && !HasFailure()) {
      absl::SleepFor(absl::Microseconds(5'000 + random() % 40'000));
      const uint32_t i = static_cast<uint32_t>(random() % kWorkers);
      if (random() % 8 == 0) {
        // One that stands still keeps what it has, and the others go on.
        ASSERT_TRUE(workers[i].Stop());
        ++stops_;
        EXPECT_TRUE(GoesOn(ledger_->received)) << "after " << killed_.size() << " kills\n"
                                               << DescribeRings();
        for (uint32_t other = 0; other < kWorkers; ++other) {
          EXPECT_TRUE(other == i || GoesOn(ledger_->turns[other])) << other << " hangs";
        }
        workers[i].Kill(SIGCONT);
        EXPECT_TRUE(GoesOn(ledger_->turns[i])) << "stays where it was stopped";
        continue;
      }
      workers[i].Kill();
      EXPECT_EQ(workers[i].Wait(), ChildExit::Signal(SIGKILL));
      killed_.insert(life[i]);
      if (lives == UINT16_MAX) break;
      workers[i] = StartWorker(i, life[i] = ++lives, from, to);
    }
    ledger_->sender_ends.store(true);
    // The workers that are left do the rest: until no block is in use any more, each message has
    // been delivered, or was reclaimed with the worker that had it. On ZeroMQ, until nothing comes.
    const auto observer = OpenTransport();
    uint64_t before = ~uint64_t{0};
    EXPECT_TRUE(WaitFor([&] {
      if (strict_) return observer->Usage().used_blocks == 0;
      const uint64_t received = ledger_->received.load();
      const bool quiet = received == before;
      before = received;
      if (!quiet) absl::SleepFor(absl::Milliseconds(200));
      return quiet;
    })) << "messages are neither delivered nor lost\n"
        << DescribeRings();
    for (ChildProcess& worker : workers) worker.Kill();
    for (ChildProcess& worker : workers) EXPECT_EQ(worker.Wait(), ChildExit::Signal(SIGKILL));
    // A ring that stayed for each killed worker would use up the table in the end.
    if (strict_) {
      const auto member = Observer();
      EXPECT_TRUE(WaitFor([&] { return OpenRings(member->rings()) == 0; }))
          << "rings of killed workers stay\n"
          << DescribeRings();
    }
  }

  std::unique_ptr<handoff::Member> Observer() const {
    SessionOptions options;
    options.names.session = session_.name();
    options.names.shm_dir = session_.directory();
    auto member = handoff::Member::Join(std::move(options));
    HANDOFF_CHECK(member.ok()) << member.status().ToString();
    return *std::move(member);
  }

  static uint32_t OpenRings(const RingTable& rings) {
    uint32_t open = 0;
    for (uint32_t row = 0; row < rings.rings_used(); ++row) {
      if (rings.LookAtRing(row).has_value()) ++open;
    }
    return open;
  }

  // Who has which ring, for a failure.
  std::string DescribeRings() const {
    const auto member = Observer();
    RingTable& rings = member->rings();
    std::string text;
    for (uint32_t row = 0; row < rings.rings_used(); ++row) {
      const auto info = rings.LookAtRing(row);
      if (!info.has_value()) continue;
      const auto look = rings.Ring(row, info->entries).Look();
      uint64_t unread = 0;
      while (look.has_value() && unread < info->entries &&
             rings.Ring(row, info->entries).ReadPublished(look->head + unread).has_value()) {
        ++unread;
      }
      text += "ring " + std::to_string(row) + ": from " + std::to_string(info->ends.producer.slot) +
              (info->word.producer_gone() ? " (gone)" : "") + " to " +
              std::to_string(info->ends.consumer.slot) +
              (info->word.consumer_gone() ? " (gone)" : "") + ", unread " + std::to_string(unread) +
              "\n";
    }
    for (const std::string& line : AuditSession(*member)) text += line + "\n";
    return text;
  }

  void End() {
    ledger_->sink_ends.store(true);
    EXPECT_EQ(sender_->Wait(), ChildExit::Code(0));
    EXPECT_EQ(sink_->Wait(), ChildExit::Code(0));
  }

  uint64_t Lost(uint64_t* twice, uint64_t* of_the_living, uint64_t* of_one_worker) const {
    uint64_t lost = 0;
    std::map<uint16_t, uint64_t> by_worker;
    for (uint64_t i = 0; i < ledger_->sent.load(); ++i) {
      const uint8_t deliveries = ledger_->messages[i].deliveries.load();
      if (deliveries > 1) ++*twice;
      if (deliveries > 0) continue;
      ++lost;
      const uint16_t worker = ledger_->messages[i].worker.load();
      if (worker == 0) continue;  // killed between the accept and the entry in the ledger
      if (!killed_.contains(worker)) ++*of_the_living;
      *of_one_worker = std::max(*of_one_worker, ++by_worker[worker]);
    }
    std::cout << "sent " << ledger_->sent.load() << ", received " << ledger_->received.load()
              << ", in the hands of killed workers " << lost << ", kills " << killed_.size()
              << ", stops " << stops_ << "\n";
    return lost;
  }

  Ledger* ledger_;
  bool strict_ = true;
  std::set<uint16_t> killed_;
  uint64_t stops_ = 0;
  std::optional<ChildProcess> sender_;
  std::optional<ChildProcess> sink_;
};

TEST_F(FarmTest, AccountsForEveryMessageOnRings) {
  Storm("ring://work", "ring://done");
  uint64_t twice = 0;
  uint64_t of_the_living = 0;
  uint64_t of_one_worker = 0;
  // Each is delivered once, or was the one that a killed worker had in its hands.
  EXPECT_LE(Lost(&twice, &of_the_living, &of_one_worker), killed_.size());
  EXPECT_EQ(twice, 0u);
  EXPECT_EQ(of_the_living, 0u);
  EXPECT_LE(of_one_worker, 1u);
  EXPECT_GT(ledger_->received.load(), 1000u);
  End();
  ExpectSegmentWhole();
}

TEST_F(FarmTest, DeliversNoMessageTwiceOnZeroMq) {
  // What a killed worker's sockets and the system held for it goes with it; everything else is
  // delivered.
  strict_ = false;
  Storm(Address("work"), Address("done"));
  uint64_t twice = 0;
  uint64_t of_the_living = 0;
  uint64_t of_one_worker = 0;
  (void)Lost(&twice, &of_the_living, &of_one_worker);
  EXPECT_EQ(twice, 0u);
  EXPECT_GT(ledger_->received.load(), 1000u);
  End();
  ExpectSegmentWhole();
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "control_queue/event_log.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/cache_line.h"
#include "base/sync.h"
#include "control_queue/member_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Log = EventLog<RealSync>;
using Writer = EventWriter<RealSync>;
using Reader = EventReader<RealSync>;

constexpr uint64_t kRecords = Log::kRecords;

// An event that says everything by its time.
Event At(uint64_t time_ns) {
  return {.time_ns = time_ns,
          .kind = EventKind::kBlocksReclaimed,
          .member = {.slot = 5, .epoch = static_cast<uint32_t>(time_ns)},
          .arguments = {~time_ns, time_ns + 1}};
}

std::vector<uint64_t> TimesOf(Reader& reader, size_t limit = 10000) {
  std::vector<Event> events(limit);
  events.resize(reader.Read(events));
  std::vector<uint64_t> times;
  for (const Event& event : events) {
    EXPECT_EQ(event, At(event.time_ns));
    times.push_back(event.time_ns);
  }
  return times;
}

struct alignas(kCacheLineSize) Bytes {
  std::array<std::byte, Log::BytesNeeded()> bytes;
};

class EventLogTest : public ::testing::Test {
 protected:
  EventLogTest() : memory_(std::make_unique<Bytes>()), log_(memory_->bytes) {}

  EventRecord<RealSync>& RecordOf(uint32_t slot, uint64_t place) {
    auto* rings = reinterpret_cast<EventRing<RealSync>*>(memory_->bytes.data() +
                                                         sizeof(EventLogHeader<RealSync>));
    return rings[slot].records[place];
  }

  std::unique_ptr<Bytes> memory_;
  Log log_;
};

TEST_F(EventLogTest, BeginsEmpty) {
  Reader reader(log_, Reader::Start::kOldest);
  EXPECT_THAT(TimesOf(reader), IsEmpty());
}

TEST_F(EventLogTest, ShowsEachEventOnceToEveryReader) {
  Reader first(log_, Reader::Start::kOldest);
  Writer writer(log_, 3);
  writer.Append(At(1));
  writer.Append(At(2));
  EXPECT_THAT(TimesOf(first), ElementsAre(1, 2));
  EXPECT_THAT(TimesOf(first), IsEmpty());
  Reader second(log_, Reader::Start::kOldest);
  writer.Append(At(3));
  EXPECT_THAT(TimesOf(first), ElementsAre(3));
  EXPECT_THAT(TimesOf(second), ElementsAre(1, 2, 3));
  EXPECT_EQ(first.lost(), 0u);
}

TEST_F(EventLogTest, MergesTheEventsOfAllMembersByTheirTimes) {
  Writer a(log_, 1);
  Writer b(log_, kMaxMembers - 1);
  Writer c(log_, 7);
  for (const uint64_t time : {10, 40, 60}) a.Append(At(time));
  for (const uint64_t time : {20, 30}) b.Append(At(time));
  for (const uint64_t time : {5, 50}) c.Append(At(time));
  Reader reader(log_, Reader::Start::kOldest);
  EXPECT_THAT(TimesOf(reader), ElementsAre(5, 10, 20, 30, 40, 50, 60));
}

TEST_F(EventLogTest, GivesNoMoreThanThereIsRoomForAndTheRestLater) {
  Writer a(log_, 1);
  Writer b(log_, 2);
  for (const uint64_t time : {10, 30}) a.Append(At(time));
  for (const uint64_t time : {20, 40}) b.Append(At(time));
  Reader reader(log_, Reader::Start::kOldest);
  EXPECT_THAT(TimesOf(reader, 3), ElementsAre(10, 20, 30));
  EXPECT_THAT(TimesOf(reader, 0), IsEmpty());
  EXPECT_THAT(TimesOf(reader, 3), ElementsAre(40));
}

TEST_F(EventLogTest, BeginsWithWhatIsWrittenAfterwardsForThoseWhoWantThat) {
  Writer writer(log_, 3);
  writer.Append(At(1));
  Reader reader(log_, Reader::Start::kNow);
  EXPECT_THAT(TimesOf(reader), IsEmpty());
  writer.Append(At(2));
  Writer(log_, 9).Append(At(3));
  EXPECT_THAT(TimesOf(reader), ElementsAre(2, 3));
}

TEST_F(EventLogTest, CountsWhatAReaderHasMissed) {
  Reader reader(log_, Reader::Start::kOldest);
  Writer writer(log_, 3);
  for (uint64_t time = 0; time < kRecords + 3; ++time) writer.Append(At(time));
  const std::vector<uint64_t> times = TimesOf(reader);
  EXPECT_THAT(times, SizeIs(kRecords));
  EXPECT_EQ(times.front(), 3u);
  EXPECT_EQ(reader.lost(), 3u);
  writer.Append(At(100));
  EXPECT_THAT(TimesOf(reader), ElementsAre(100));
  EXPECT_EQ(reader.lost(), 3u);
}

TEST_F(EventLogTest, HasNothingLostForAReaderThatCameLater) {
  Writer writer(log_, 3);
  for (uint64_t time = 0; time < 100; ++time) writer.Append(At(time));
  Reader reader(log_, Reader::Start::kOldest);
  EXPECT_THAT(TimesOf(reader), SizeIs(kRecords));
  EXPECT_EQ(reader.lost(), 0u);
}

TEST_F(EventLogTest, GoesOnInTheRingOfAFormerMember) {
  Reader reader(log_, Reader::Start::kOldest);
  for (uint64_t time = 0; time < 3 * kRecords; ++time) {
    Writer next_tenant(log_, 3);
    next_tenant.Append(At(time));
    EXPECT_THAT(TimesOf(reader), ElementsAre(time));
  }
}

// What a writer leaves that is killed inside a record: its sequence odd, its fields half written.
TEST_F(EventLogTest, IsNotHeldUpByARecordThatWasNotCompleted) {
  Reader reader(log_, Reader::Start::kOldest);
  {
    Writer killed(log_, 3);
    for (uint64_t time = 0; time < kRecords; ++time) killed.Append(At(time));
  }
  RecordOf(3, 0).sequence = 2 * kRecords + 1;
  RecordOf(3, 0).time_ns = 99;
  Writer other(log_, 4);
  other.Append(At(50));
  EXPECT_THAT(TimesOf(reader), SizeIs(kRecords)) << "15 that are whole, and that of the other";
  EXPECT_EQ(reader.lost(), 1u);
  EXPECT_THAT(TimesOf(reader), IsEmpty());
  Reader late(log_, Reader::Start::kNow);
  Writer next_tenant(log_, 3);
  next_tenant.Append(At(60));
  EXPECT_THAT(TimesOf(reader), ElementsAre(60));
  EXPECT_THAT(TimesOf(late), ElementsAre(60));
  EXPECT_EQ(reader.lost(), 1u);
}

TEST_F(EventLogTest, IsWholeAgainAfterGarbage) {
  Reader reader(log_, Reader::Start::kOldest);
  Writer writer(log_, 3);
  for (uint64_t time = 0; time < 5; ++time) writer.Append(At(time));
  EXPECT_THAT(TimesOf(reader), SizeIs(5));
  std::mt19937_64 random(1);
  for (uint64_t place = 0; place < kRecords; ++place) RecordOf(3, place).sequence = random();
  std::vector<Event> events(1000);
  for (int look = 0; look < 3; ++look) (void)reader.Read(events);
  Writer next_tenant(log_, 3);
  for (uint64_t time = 1000; time < 1000 + 2 * kRecords; ++time) next_tenant.Append(At(time));
  events.resize(reader.Read(events));
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back(), At(1000 + 2 * kRecords - 1));
}

TEST_F(EventLogTest, StaysInsideWhateverAPeerWrites) {
  std::mt19937_64 random(1);
  std::array<Event, 8> events;
  for (int turn = 0; turn < 300; ++turn) {
    for (size_t i = 0; i < 200; ++i) {
      const uint64_t at = random() % (sizeof(EventLogHeader<RealSync>) + 8192);
      memory_->bytes[at] = static_cast<std::byte>(random());
    }
    Reader reader(log_, turn % 2 == 0 ? Reader::Start::kOldest : Reader::Start::kNow);
    Writer writer(log_, 1 + turn % 7);
    for (int step = 0; step < 3; ++step) {
      writer.Append(At(1));
      EXPECT_LE(reader.Read(events), events.size());
    }
  }
}

TEST(EventKindTest, HasANameForEveryKindAndForNone) {
  for (uint32_t kind = 1; kind <= static_cast<uint32_t>(EventKind::kObjectsRemoved); ++kind) {
    EXPECT_NE(EventKindName(static_cast<EventKind>(kind)), "unknown") << kind;
  }
  EXPECT_EQ(EventKindName(EventKind::kMemberDied), "member died");
  EXPECT_EQ(EventKindName(static_cast<EventKind>(0)), "unknown");
  EXPECT_EQ(EventKindName(static_cast<EventKind>(999)), "unknown");
}

// Two writers as fast as they can, two readers that are overtaken all the time: nothing torn,
// nothing twice, nothing out of order, and what is missing is counted.
TEST_F(EventLogTest, ShowsOnlyWholeEventsInOrderUnderWritersThatOvertake) {
  constexpr uint64_t kEvents = 10000;
  std::atomic<int> writing{2};
  std::array<Reader, 2> readers = {Reader(log_, Reader::Start::kOldest),
                                   Reader(log_, Reader::Start::kOldest)};
  std::vector<std::thread> threads;
  for (uint64_t slot = 1; slot <= 2; ++slot) {
    threads.emplace_back([&, slot] {
      Writer writer(log_, static_cast<uint32_t>(slot));
      for (uint64_t i = 0; i < kEvents; ++i) {
        writer.Append(At(2 * i + slot));
        if (i % 64 == 0) std::this_thread::yield();
      }
      --writing;
    });
  }
  for (Reader& reader : readers) {
    threads.emplace_back([&] {
      std::map<uint64_t, uint64_t> last;  // by slot
      uint64_t read = 0;
      for (bool done = false; !done;) {
        done = writing == 0;
        std::this_thread::yield();
        for (const uint64_t time : TimesOf(reader, 20)) {
          uint64_t& before = last[time % 2];
          EXPECT_GT(time, before);
          before = time;
          ++read;
          done = false;
        }
      }
      EXPECT_EQ(read + reader.lost(), 2 * kEvents);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/cache_line.h"
#include "control_queue/event_log.h"
#include "control_queue/member_id.h"
#include "control_queue/testing/interleaving.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using Log = EventLog<SteppedSync>;
using Writer = EventWriter<SteppedSync>;
using Reader = EventReader<SteppedSync>;

constexpr uint32_t kSlot = 1;

Event At(uint64_t time_ns) {
  return {.time_ns = time_ns,
          .kind = EventKind::kBlocksReclaimed,
          .member = {.slot = 5, .epoch = static_cast<uint32_t>(time_ns)},
          .arguments = {~time_ns, time_ns + 1}};
}

// A log, the writer of one ring in it, and a reader.
struct World {
  // Reads up to `count` events, each later than those before.
  void Read(size_t count) {
    std::array<Event, Log::kRecords> events;
    count = reader.Read({events.data(), count});
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(events[i], At(events[i].time_ns)) << "torn";
      EXPECT_GE(events[i].time_ns, next_time);
      next_time = events[i].time_ns + 1;
      ++read;
    }
  }

  alignas(kCacheLineSize) std::array<std::byte, Log::BytesNeeded()> bytes = {};
  Log log{bytes};
  Writer writer{log, kSlot};
  Reader reader{log, Reader::Start::kOldest};
  uint64_t next_time = 0;
  uint64_t read = 0;
};

// The writer's ring is full of the times 0, 1, ..., of which the reader has read none. One log for
// all runs, because it is a megabyte of which a run uses a page.
World& CleanWorld() {
  static const auto world = std::make_unique<World>();
  auto* rings = reinterpret_cast<EventRing<SteppedSync>*>(world->bytes.data() +
                                                          sizeof(EventLogHeader<SteppedSync>));
  std::destroy_at(&rings[kSlot]);
  std::construct_at(&rings[kSlot]);
  world->writer = Writer(world->log, kSlot);
  for (uint64_t time = 0; time < Log::kRecords; ++time) world->writer.Append(At(time));
  world->reader = Reader(world->log, Reader::Start::kOldest);
  world->next_time = world->read = 0;
  return *world;
}

TEST(EventLogInterleavingTest, ShowsWholeEventsInOrderWhileTheyAreOverwritten) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 3}, [] {
    World& world = CleanWorld();
    return Scenario{.actors = {[&] {
                                 world.writer.Append(At(Log::kRecords));
                                 world.writer.Append(At(Log::kRecords + 1));
                               },
                               [&] {
                                 for (int look = 0; look < 2; ++look) world.Read(1);
                               }},
                    .at_end = [&](const Scenario::Ends&) {
                      world.Read(Log::kRecords);
                      world.Read(Log::kRecords);
                      EXPECT_EQ(world.read + world.reader.lost(), Log::kRecords + 2);
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

TEST(EventLogInterleavingTest, GoesOnBehindAWriterThatWasKilledAnywhere) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 2, .kills = 1}, [] {
    World& world = CleanWorld();
    return Scenario{.actors = {[&] { world.writer.Append(At(Log::kRecords)); },
                               [&] {
                                 for (int look = 0; look < 2; ++look) world.Read(1);
                               }},
                    .at_end = [&](const Scenario::Ends& ends) {
                      world.reader = Reader(world.log, Reader::Start::kOldest);
                      world.next_time = 0;
                      world.Read(Log::kRecords);
                      EXPECT_GE(world.next_time, Log::kRecords);
                      Writer next_tenant(world.log, kSlot);
                      next_tenant.Append(At(100));
                      world.Read(Log::kRecords);
                      EXPECT_EQ(world.next_time, 101u) << "the next event is seen at once";
                      EXPECT_EQ(world.reader.lost(), 0u);
                      EXPECT_EQ(ends.size(), 2u);
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

}  // namespace
}  // namespace handoff

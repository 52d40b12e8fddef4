// SPDX-License-Identifier: Apache-2.0
#include "allocator/control_queue_end.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "allocator/member.h"
#include "allocator/session.h"
#include "allocator/testing/session_fixture.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "control_queue/control_queue_layout.h"
#include "control_queue/event_log.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class ControlQueueEndTest : public SessionFixture {
 protected:
  ObjectNames Names() const { return ObjectNames::Create(Options().names).value(); }

  // Through a mapping that cannot be written, as a monitor's.
  Mapping OpenToRead() const {
    OpenOptions read_only;
    read_only.read_only = true;
    auto mapping = Mapping::Open(Path("_control_queue"), read_only);
    EXPECT_TRUE(mapping.ok()) << mapping.status();
    return *std::move(mapping);
  }

  static std::vector<Event> EventsIn(Mapping& mapping) {
    const ControlQueue queue = ControlQueue::Attach(mapping.bytes()).value();
    EventReader<RealSync> reader(queue.events(), EventReader<RealSync>::Start::kOldest);
    std::vector<Event> events(1000);
    events.resize(reader.Read(events));
    return events;
  }

  // What was told: kinds and the first two arguments, in order.
  struct Told {
    EventKind kind;
    uint32_t slot;
    uint64_t first;
    uint64_t second;
    friend bool operator==(const Told&, const Told&) = default;
    friend void PrintTo(const Told& told, std::ostream* out) {
      *out << EventKindName(told.kind) << " " << told.slot << " " << told.first << " "
           << told.second;
    }
  };
  std::vector<Told> AllTold() const {
    Mapping mapping = OpenToRead();
    std::vector<Told> told;
    for (const Event& event : EventsIn(mapping)) {
      told.push_back({event.kind, event.member.slot, event.arguments[0], event.arguments[1]});
    }
    return told;
  }
  bool WaitUntilTold(const Told& told) const {
    return WaitFor([&] {
      const std::vector<Told> all = AllTold();
      return std::find(all.begin(), all.end(), told) != all.end();
    });
  }
  bool WaitUntilTold(EventKind kind) const {
    return WaitFor([&] {
      for (const Told& told : AllTold()) {
        if (told.kind == kind) return true;
      }
      return false;
    });
  }

  std::unique_ptr<Member> JoinAsMember() const {
    auto member = Member::Join(Options());
    EXPECT_TRUE(member.ok()) << member.status();
    return *std::move(member);
  }

  const uint64_t pid_ = static_cast<uint64_t>(getpid());
};

TEST_F(ControlQueueEndTest, NeedsNothingElseOfTheSession) {
  {
    absl::StatusOr<Mapping> made = OpenOrMakeControlQueue(Names(), {});
    ASSERT_TRUE(made.ok()) << made.status();
    ASSERT_TRUE(BackEvents(*made, 5).ok());
    ControlQueueEnd end(*std::move(made), {5, 1});
    end.Beat();
    end.Tell(EventKind::kMemoryLow, {5, 1}, 7, 8);
    EXPECT_EQ(Objects(), std::vector<std::string>{"_control_queue"});
  }
  // Others find what is there.
  Mapping mapping = OpenToRead();
  EXPECT_EQ(ControlQueue::Attach(mapping.bytes())->heartbeat(5).Beats(), 1u);
  const absl::StatusOr<Mapping> opened = OpenOrMakeControlQueue(Names(), {});
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->inode(), mapping.inode());
  EXPECT_EQ(AllTold(), (std::vector<Told>{{EventKind::kMemoryLow, 5, 7, 8}}));
  std::filesystem::remove(Path("_control_queue"));
}

TEST_F(ControlQueueEndTest, BacksOnlyWhatIsUsed) {
  absl::StatusOr<Mapping> made = OpenOrMakeControlQueue(Names(), {});
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_TRUE(BackEvents(*made, 1).ok());
  EXPECT_EQ(made->size_bytes(), ControlQueue::BytesNeeded());
  struct stat info = {};
  ASSERT_EQ(stat(Path("_control_queue").c_str(), &info), 0);
  EXPECT_LE(static_cast<uint64_t>(info.st_blocks) * 512, uint64_t{80} << 10);
  std::filesystem::remove(Path("_control_queue"));
}

TEST_F(ControlQueueEndTest, WhatIsHalfMadeOrSomethingElseIsMadeAgain) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{4096}, uint64_t{ControlQueue::BytesNeeded()}}) {
    std::ofstream(Path("_control_queue")) << std::string(size, 'x');
    absl::StatusOr<Mapping> made = OpenOrMakeControlQueue(Names(), {});
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_TRUE(ControlQueue::Attach(made->bytes()).ok()) << size;
  }
  std::filesystem::remove(Path("_control_queue"));
}

TEST_F(ControlQueueEndTest, LeavesNothingWhereThereIsNoRoom) {
  const SmallTmpfs tmpfs(kMiB);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  tmpfs.Fill("rest", 16 << 10);
  ObjectNamesOptions options = Options().names;
  options.shm_dir = tmpfs.directory();
  const ObjectNames names = ObjectNames::Create(options).value();
  const absl::Status status = OpenOrMakeControlQueue(names, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 MiB in all"));
  EXPECT_FALSE(std::filesystem::exists(names.ControlQueuePath()));
}

TEST_F(ControlQueueEndTest, MembersTellWhenTheyJoinAndLeave) {
  const std::unique_ptr<Session> first = Join();
  Join().reset();
  EXPECT_EQ(AllTold(), (std::vector<Told>{{EventKind::kMemberJoined, 1, pid_, 0},
                                          {EventKind::kSegmentCreated, 0, 0, kMiB},
                                          {EventKind::kMemberJoined, 2, pid_, 0},
                                          {EventKind::kMemberLeft, 2, pid_, 0}}));
}

TEST_F(ControlQueueEndTest, HeartsBeatAsLongAsTheirMembersRun) {
  const std::unique_ptr<Session> session = Join();
  ChildProcess child = StartMember();
  Mapping mapping = OpenToRead();
  const ControlQueue queue = ControlQueue::Attach(mapping.bytes()).value();
  const auto beats = [&](uint32_t slot) { return queue.heartbeat(slot).Beats(); };
  const uint64_t before = beats(2);
  ASSERT_TRUE(WaitFor([&] { return beats(2) > before + 2; }));
  ASSERT_TRUE(child.Stop());
  const uint64_t stopped = beats(2);
  const uint64_t own = beats(1);
  ASSERT_TRUE(WaitFor([&] { return beats(1) > own + 5; }));
  EXPECT_EQ(beats(2), stopped);
  KillAndReap(std::move(child));
}

TEST_F(ControlQueueEndTest, TellsOfDeathsAndOfWhatCameBack) {
  const std::unique_ptr<Member> survivor = JoinAsMember();
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    const std::unique_ptr<Member> member = JoinAsMember();
    Block block;
    EXPECT_EQ(member->main_segment().TryAllocate(8192, 64, &block), AllocateResult::kOk);
    ready.Signal();
    pause();
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  const auto pid = static_cast<uint64_t>(child.pid());
  KillAndReap(std::move(child));
  EXPECT_TRUE(WaitUntilTold({EventKind::kMemberDied, 2, pid, 0}));
  EXPECT_TRUE(WaitUntilTold({EventKind::kBlocksReclaimed, 2, 1, 8192}));
}

TEST_F(ControlQueueEndTest, TellsOfSegments) {
  const std::unique_ptr<Member> member = JoinAsMember();
  SegmentOptions options;
  options.id = 4;
  options.size_bytes = 8192;
  ASSERT_TRUE(member->CreateSegment(options).ok());
  ASSERT_TRUE(member->RemoveSegment(4).ok());
  EXPECT_TRUE(WaitUntilTold({EventKind::kSegmentCreated, 0, 4, 8192}));
  EXPECT_TRUE(WaitUntilTold({EventKind::kSegmentRemoved, 0, 4, 8192}));
}

TEST_F(ControlQueueEndTest, TellsOnceThatMemoryIsLow) {
  const std::unique_ptr<Member> member = JoinAsMember();
  Segment& segment = member->main_segment();
  Block most;
  ASSERT_EQ(segment.TryAllocate(768 << 10, 64, &most), AllocateResult::kOk);
  const auto fail = [&] {
    Block block;
    EXPECT_EQ(segment.TryAllocate(512 << 10, 64, &block), AllocateResult::kFull);
  };
  const auto times_told = [&] {
    int times = 0;
    for (const Told& told : AllTold()) times += told.kind == EventKind::kMemoryLow ? 1 : 0;
    return times;
  };
  fail();
  EXPECT_TRUE(WaitUntilTold({EventKind::kMemoryLow, 1, 0, 256 << 10}));
  // Every failure of the next ticks is the same shortage.
  Mapping mapping = OpenToRead();
  const ControlQueue queue = ControlQueue::Attach(mapping.bytes()).value();
  const uint64_t before = queue.heartbeat(1).Beats();
  ASSERT_TRUE(WaitFor([&] {
    fail();
    return queue.heartbeat(1).Beats() > before + 25;
  }));
  EXPECT_EQ(times_told(), 1);
  // Over, and again.
  segment.Release(most);
  ASSERT_TRUE(WaitFor([&] { return queue.heartbeat(1).Beats() > before + 75; }));
  ASSERT_EQ(segment.TryAllocate(768 << 10, 64, &most), AllocateResult::kOk);
  fail();
  EXPECT_TRUE(WaitFor([&] { return times_told() == 2; }));
  segment.Release(most);
}

TEST_F(ControlQueueEndTest, TellsOfStaleHandles) {
  const std::unique_ptr<Member> member = JoinAsMember();
  for (int i = 0; i < 3; ++i) member->CountStaleHandle();
  uint64_t stale = 0;
  EXPECT_TRUE(WaitFor([&] {
    stale = 0;
    for (const Told& told : AllTold()) {
      if (told.kind == EventKind::kStaleHandles) stale += told.first;
    }
    return stale == 3;
  })) << stale;
}

TEST_F(ControlQueueEndTest, IsMadeAgainWhenSomebodyRemovesIt) {
  const std::unique_ptr<Session> session = Join();
  const std::unique_ptr<Session> other = Join();
  std::filesystem::remove(Path("_control_queue"));
  ASSERT_TRUE(WaitFor([&] { return std::filesystem::exists(Path("_control_queue")); }));
  EXPECT_TRUE(WaitUntilTold({EventKind::kObjectsRemoved, 1, 0, 0}));
  EXPECT_TRUE(WaitUntilTold({EventKind::kObjectsRemoved, 2, 0, 0}));
  Mapping mapping = OpenToRead();
  const ControlQueue queue = ControlQueue::Attach(mapping.bytes()).value();
  for (const uint32_t slot : {1u, 2u}) {
    EXPECT_TRUE(WaitFor([&] { return queue.heartbeat(slot).Beats() > 0; })) << slot;
  }
}

TEST_F(ControlQueueEndTest, KeepsTheLastEventsOfEachSlot) {
  const std::unique_ptr<Session> first = Join();
  for (int i = 0; i < 200; ++i) Join().reset();
  const std::vector<Told> told = AllTold();
  // The last sixteen of one slot, besides those of the member that stays.
  EXPECT_EQ(told.size(), 2u + 16u);
  EXPECT_EQ(told.back(), (Told{EventKind::kMemberLeft, 2, pid_, 0}));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "monitor/snapshot.h"

#include <unistd.h>

#include <fstream>

#include "absl/time/time.h"
#include "allocator/management_layout.h"
#include "allocator/member.h"
#include "allocator/segment_layout.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "monitor/report.h"
#include "nlohmann/json.hpp"

namespace handoff {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ObjectNames NamesOf(const TestSession& session) {
  auto names = ObjectNames::Create(
      {.session = session.name(), .shm_dir = session.directory(), .main_segment = {}});
  EXPECT_TRUE(names.ok());
  return *names;
}

std::unique_ptr<Member> MustJoin(const TestSession& session, const std::string& name) {
  SessionOptions options;
  options.names.session = session.name();
  options.names.shm_dir = session.directory();
  options.main_segment_bytes = 4 << 20;
  options.member_name = name;
  auto member = Member::Join(options);
  EXPECT_TRUE(member.ok()) << member.status().ToString();
  return *std::move(member);
}

// A member "stopped one" in a process of its own, which is.
ChildProcess StoppedMember(const TestSession& session) {
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    auto other = MustJoin(session, "stopped one");
    ready.Signal();
    pause();
    return 0;
  });
  EXPECT_TRUE(ready.Wait());
  EXPECT_TRUE(child.Stop());
  return child;
}

TEST(SnapshotTest, ShowsWhatEachMemberHoldsAndHasSent) {
  TestSession session;
  auto first = MustJoin(session, "first");
  auto second = MustJoin(session, "sec\nond");
  Block block;
  ASSERT_EQ(first->main_segment().TryAllocate(100000, 64, &block), AllocateResult::kOk);
  Block small;
  ASSERT_EQ(second->main_segment().TryAllocate(1000, 64, &small), AllocateResult::kOk);
  const HoldWord sent = second->main_segment().Mark(small, first->self().slot);

  const auto snapshot = TakeSnapshot(NamesOf(session));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status().ToString();
  EXPECT_EQ(snapshot->state, SessionState::kUsable) << snapshot->problem;
  EXPECT_EQ(snapshot->LivingMembers(), 2u);
  ASSERT_EQ(snapshot->segments.size(), 1u);
  const SegmentUsage& usage = snapshot->segments[0].usage;
  EXPECT_EQ(usage.size_bytes, 4u << 20);
  EXPECT_EQ(usage.members[first->self().slot].held_bytes, 25u * 4096);
  EXPECT_EQ(usage.members[second->self().slot].sent_bytes, 1024u);
  EXPECT_EQ(usage.used_bytes, 25u * 4096 + 1024);
  EXPECT_EQ(snapshot->objects.size(), session.Objects().size());

  const std::string text = ReportText(*snapshot);
  EXPECT_THAT(text, HasSubstr("first"));
  EXPECT_THAT(text, HasSubstr("sec?ond"));
  EXPECT_THAT(text, HasSubstr("alive"));
  const auto json = nlohmann::json::parse(ReportJson(*snapshot));
  EXPECT_EQ(json["members"].size(), 2u);
  EXPECT_EQ(json["members"][0]["held_bytes"], 25 * 4096);
  EXPECT_EQ(json["segments"][0]["used_blocks"], 2);
  EXPECT_EQ(json["segments"][0]["size_bytes"], 4 << 20);

  auto taken = first->main_segment().Accept(small.id, sent.generation(), 0);
  ASSERT_TRUE(taken.has_value());
  first->main_segment().Release(*taken);
  first->main_segment().Release(block);
}

TEST(SnapshotTest, TellsTheStoppedFromTheDead) {
  TestSession session;
  auto member = MustJoin(session, "survivor");
  ChildProcess child = StoppedMember(session);
  auto snapshot = TakeSnapshot(NamesOf(session));
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->LivingMembers(), 2u);
  EXPECT_THAT(ReportText(*snapshot), HasSubstr("stopped  "));
  child.Kill();
  ASSERT_TRUE(WaitFor([&] {
    snapshot = TakeSnapshot(NamesOf(session));
    return snapshot.ok() && snapshot->members.size() == 1;
  }));
  EXPECT_THAT(ReportText(*snapshot), Not(HasSubstr("stopped one")));
}

TEST(SnapshotTest, ShowsWhoseHeartDoesNotBeatAndWhatHasHappened) {
  TestSession session;
  auto member = MustJoin(session, "survivor");
  ChildProcess child = StoppedMember(session);
  absl::StatusOr<SessionSnapshot> snapshot;
  // The heart of one that runs may pause on a busy machine, too, but not every time.
  ASSERT_TRUE(WaitFor([&] {
    snapshot = TakeSnapshot(NamesOf(session), absl::Milliseconds(300));
    return !snapshot.ok() || snapshot->members.size() != 2 || !snapshot->members[0].stalled;
  }));
  ASSERT_TRUE(snapshot.ok());
  ASSERT_EQ(snapshot->members.size(), 2u);
  EXPECT_GT(snapshot->members[0].heartbeats, 0u);
  EXPECT_TRUE(snapshot->members[1].stalled);
  EXPECT_GE(snapshot->members[1].silence_ms, 300u);
  EXPECT_EQ(snapshot->LivingMembers(), 2u);
  const auto json = nlohmann::json::parse(ReportJson(*snapshot));
  EXPECT_EQ(json["members"][1]["stalled"], true);
  EXPECT_EQ(json["events"][0]["kind"], "member joined");
  EXPECT_EQ(json["events"][0]["arguments"][0], getpid());
  EXPECT_EQ(json["events"].size(), 3u);
  EXPECT_THAT(ReportText(*snapshot), AllOf(HasSubstr("segment created"), HasSubstr("id 0, 4 MiB"),
                                           HasSubstr("pid " + std::to_string(child.pid()))));
  child.Kill();
  ASSERT_TRUE(child.Wait().has_value());
}

TEST(SnapshotTest, ItsFingerprintChangesWithEveryHeartbeat) {
  TestSession session;
  auto member = MustJoin(session, "alone");
  const auto first = LookForSession(NamesOf(session));
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(WaitFor([&] {
    const auto next = LookForSession(NamesOf(session));
    return next.ok() && next->fingerprint != first->fingerprint;
  }));
}

TEST(SnapshotTest, SaysWhatIsWrongWithASession) {
  TestSession session;
  const ObjectNames names = NamesOf(session);
  auto snapshot = TakeSnapshot(names);
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->state, SessionState::kAbsent);
  std::ofstream(names.ManagementPath()) << "half";
  snapshot = TakeSnapshot(names);
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->state, SessionState::kHalfMade);
  EXPECT_FALSE(snapshot->problem.empty());
  const auto presence = LookForSession(names);
  ASSERT_TRUE(presence.ok());
  EXPECT_TRUE(presence->any_object);
  EXPECT_EQ(presence->living_members, 0u);
  unlink(names.ManagementPath().c_str());
}

TEST(SnapshotTest, AHalfMadeSessionInAFullFileSystemIsLookedAtWithoutTakingMemory) {
  const SmallTmpfs tmpfs(1 << 20);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  const ObjectNames names =
      *ObjectNames::Create({.session = "half", .shm_dir = tmpfs.directory(), .main_segment = {}});
  // Its maker was killed before it was backed.
  std::ofstream(names.ManagementPath()).close();
  ASSERT_EQ(truncate(names.ManagementPath().c_str(), kManagementFixedBytes), 0);
  tmpfs.Fill("rest", 0);
  ChildProcess child = ChildProcess::Start([&] {
    const auto snapshot = TakeSnapshot(names);
    EXPECT_TRUE(snapshot.ok() && snapshot->state == SessionState::kHalfMade);
    const auto presence = LookForSession(names);
    EXPECT_TRUE(presence.ok() && presence->any_object);
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST(SnapshotTest, NonsenseInTheRowOfASegmentIsAProblemAndNoMore) {
  TestSession session;
  auto member = MustJoin(session, "alone");
  auto& row = const_cast<ManagementLayout&>(member->session().layout()).segments[1];
  row.id.store(5, std::memory_order_relaxed);
  row.size_bytes.store(4096, std::memory_order_relaxed);
  row.area_offset_bytes.store(12345, std::memory_order_relaxed);
  row.area_size_bytes.store(SegmentAreaBytes(4096), std::memory_order_relaxed);
  const uint64_t word = row.word.load(std::memory_order_relaxed);
  row.word.store(SegmentWord{.generation = 0, .state = SegmentState::kLive}.Packed(),
                 std::memory_order_release);
  ChildProcess child = ChildProcess::Start([&] {
    const auto snapshot = TakeSnapshot(NamesOf(session));
    EXPECT_TRUE(snapshot.ok() && snapshot->segments.size() == 1);
    EXPECT_THAT(snapshot->problem, HasSubstr("12345"));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  row.word.store(word, std::memory_order_release);
}

}  // namespace
}  // namespace handoff

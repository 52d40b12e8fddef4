// SPDX-License-Identifier: Apache-2.0
#include "allocator/session_objects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "allocator/session_lock.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/process_id.h"
#include "base/testing/test_session.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using State = FoundManagement::State;

class SessionObjectsTest : public ::testing::Test {
 protected:
  SessionObjectsTest()
      : lock_(EnterSession(names_, {.create = true}, Deadline::After(absl::Seconds(10))).value()) {}
  ~SessionObjectsTest() override {
    for (const auto& entry : std::filesystem::directory_iterator(session_.directory())) {
      std::filesystem::remove(entry);
    }
  }

  ObjectNames Names(const std::string& main_segment) const {
    return ObjectNames::Create({.session = session_.name(),
                                .shm_dir = session_.directory(),
                                .main_segment = main_segment})
        .value();
  }
  void Touch(const std::string& name) const { std::ofstream(names_.Path(name)) << "x"; }
  State Found() const { return FindManagement(names_).value().state; }

  static MemberIdentity Own() {
    const ProcessId process = CurrentProcessId().value();
    MemberIdentity identity;
    identity.pid = static_cast<uint32_t>(process.pid);
    identity.start_time = process.start_time;
    identity.pid_namespace = process.pid_namespace;
    return identity;
  }

  const TestSession session_{TestSessionOptions{.own_directory = true}};
  const ObjectNames names_ = Names("");
  const std::unique_ptr<LifeLock> lock_;
};

TEST_F(SessionObjectsTest, FindsWhatItHasMade) {
  EXPECT_EQ(Found(), State::kMissing);
  const Mapping made = MakeManagementObject(names_, {}).value();
  const FoundManagement found = FindManagement(names_).value();
  ASSERT_EQ(found.state, State::kUsable);
  EXPECT_EQ(found.mapping.inode(), made.inode());
  const ObjectHeader& header = found.layout().header.object;
  EXPECT_EQ(header.owner_uid, geteuid());
  EXPECT_EQ(header.creator_pid, static_cast<uint32_t>(getpid()));
  EXPECT_NE(header.nonce, 0u);
  ASSERT_TRUE(Mapping::Remove(names_.ManagementPath()).ok());
  const Mapping again = MakeManagementObject(names_, {}).value();
  EXPECT_NE(FindManagement(names_)->layout().header.object.nonce, header.nonce);
}

TEST_F(SessionObjectsTest, TellsHalfMadeFromForeignObjects) {
  std::ofstream(names_.ManagementPath()).close();
  EXPECT_EQ(Found(), State::kUnusable);
  Touch(names_.Management());
  EXPECT_EQ(Found(), State::kUnusable);
  std::filesystem::resize_file(names_.ManagementPath(), 1 << 20);
  EXPECT_EQ(Found(), State::kUnusable) << "a hole";
  std::filesystem::remove(names_.ManagementPath());
  std::filesystem::create_directory(names_.ManagementPath());
  EXPECT_EQ(Found(), State::kUnusable);
  std::filesystem::remove(names_.ManagementPath());

  Mapping made = MakeManagementObject(names_, {}).value();
  auto& layout = *reinterpret_cast<ManagementLayout*>(made.bytes().data());
  layout.header.object.layout_version = 99;
  const FoundManagement found = FindManagement(names_).value();
  EXPECT_EQ(found.state, State::kOtherBuild);
  EXPECT_THAT(found.mismatch, HasSubstr("session '" + session_.name() + "'"));
  EXPECT_THAT(found.mismatch, HasSubstr("layout version 99"));
}

TEST_F(SessionObjectsTest, KnowsAnObjectOfALockFileThatWasRemoved) {
  const Mapping made = MakeManagementObject(names_, {}).value();
  unlink(names_.LockFilePath().c_str());
  EXPECT_EQ(Found(), State::kOfAnotherLock);
  const auto next = EnterSession(names_, {.create = true}, Deadline::After(absl::Seconds(10)));
  EXPECT_EQ(Found(), State::kOfAnotherLock);
}

TEST_F(SessionObjectsTest, TakesTheMainSegmentsNameFromTheHeader) {
  const Mapping made = MakeManagementObject(Names("detector"), {}).value();
  const FoundManagement found = FindManagement(names_).value();
  EXPECT_EQ(NamesInUse(names_, found.layout())->Segment(0), "detector");
}

TEST_F(SessionObjectsTest, RemovesInOrderAndOnlyWhatItMay) {
  for (const std::string& name : {names_.Segment(0), names_.Segment(7), names_.Region(1),
                                  names_.ControlQueue(), names_.Management()}) {
    Touch(name);
  }
  const std::vector<std::string> removed = RemoveObjects(names_, {}).value();
  EXPECT_THAT(removed, ElementsAre(names_.Segment(0), names_.Segment(7), names_.Region(1),
                                   names_.ControlQueue(), names_.Management()));
  EXPECT_THAT(RemoveObjects(names_, {}).value(), IsEmpty());
  EXPECT_THAT(RemoveObjects(names_, {.lock_file = true}).value(), ElementsAre(names_.LockFile()));

  const ObjectNames renamed = Names("detector");
  Touch("detector");
  EXPECT_THAT(RemoveObjects(renamed, {}).value(), IsEmpty());
  EXPECT_THAT(RemoveObjects(renamed, {.renamed_main_segment = true}).value(),
              ElementsAre("detector"));
}

TEST_F(SessionObjectsTest, KeepsTheLockFileWhenAnObjectCannotBeRemoved) {
  std::filesystem::create_directory(names_.SegmentPath(3));  // cannot be unlinked
  Touch(names_.Segment(0));
  EXPECT_FALSE(RemoveObjects(names_, {.lock_file = true}).ok());
  EXPECT_FALSE(std::filesystem::exists(names_.SegmentPath(0)));
  EXPECT_TRUE(std::filesystem::exists(names_.LockFilePath()));
}

TEST_F(SessionObjectsTest, CountsAsLivingWhoHasRowAndByteOrRuns) {
  Mapping made = MakeManagementObject(names_, {}).value();
  auto& layout = *reinterpret_cast<ManagementLayout*>(made.bytes().data());
  MemberTable<RealSync> members(layout.members);
  EXPECT_THAT(LivingMembers(layout, made.inode(), *lock_), IsEmpty());

  MemberIdentity gone = Own();
  gone.pid = 4'000'000;
  ASSERT_TRUE(members.Publish(1, gone).has_value());
  ASSERT_TRUE(members.Publish(2, Own()).has_value());  // runs, without its lock
  ASSERT_TRUE(members.Publish(3, gone).has_value());
  const auto other = LifeLock::Open(names_.LockFilePath()).value();
  ASSERT_TRUE(other->TryLock(5).value());  // a byte without a row: about to leave
  std::vector<LivingMember> living = LivingMembers(layout, made.inode(), *lock_);
  ASSERT_EQ(living.size(), 1u);
  EXPECT_EQ(living[0].slot, 2u);
  EXPECT_EQ(living[0].pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(members.Word(1).state, MemberState::kDead);

  EXPECT_EQ(RunningMembers(layout).size(), 1u);
  living = HeldLifeBytes(*lock_);
  ASSERT_EQ(living.size(), 1u);
  EXPECT_EQ(living[0].slot, 5u);
}

TEST_F(SessionObjectsTest, LeavesNothingWhenThereIsNoRoomForTheManagementObject) {
  const SmallTmpfs tmpfs(1 << 20);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  tmpfs.Fill("rest", 64 << 10);
  const ObjectNames names =
      ObjectNames::Create({.session = session_.name(), .shm_dir = tmpfs.directory()}).value();
  EXPECT_EQ(MakeManagementObject(names, {}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(names.ManagementPath()));
}

}  // namespace
}  // namespace handoff

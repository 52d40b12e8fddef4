// SPDX-License-Identifier: Apache-2.0
#include "allocator/cleanup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "allocator/session.h"
#include "allocator/session_lock.h"
#include "allocator/testing/session_fixture.h"
#include "base/testing/child_process.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CleanupTest : public SessionFixture {
 protected:
  ObjectNames Names(const std::string& main_segment = "") const {
    ObjectNamesOptions options = Options().names;
    options.main_segment = main_segment;
    return ObjectNames::Create(options).value();
  }

  absl::StatusOr<CleanupResult> Remove() const { return Remove(Names()); }
  static absl::StatusOr<CleanupResult> Remove(const ObjectNames& names) {
    return RemoveSession(names, {}, Deadline::After(absl::Seconds(10)));
  }

  // The removed names without the session's.
  std::vector<std::string> Removed(const ObjectNames& names) const {
    const absl::StatusOr<CleanupResult> result = Remove(names);
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<std::string> removed;
    for (const std::string& name : result->removed) {
      removed.push_back(name.substr(test_session_.name().size()));
    }
    EXPECT_THAT(result->living, IsEmpty());
    return removed;
  }

  void Touch(const std::string& suffix) const { std::ofstream(Path(suffix)) << "x"; }
};

TEST_F(CleanupTest, FindsNothingWhereThereIsNothing) {
  EXPECT_THAT(Removed(Names()), IsEmpty());
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(CleanupTest, RemovesTheSessionOfTheKilledTheLockFileLast) {
  KillAndReap(StartMember([](Session& session) {
    EXPECT_TRUE(session.CreateSegment({.id = 3, .size_bytes = kMiB}).ok());
  }));
  Touch("_region_12");
  Touch("_control_queue");
  EXPECT_THAT(Removed(Names()), ElementsAre("_main", "_main_3", "_region_12", "_control_queue",
                                            "_management", "_mutex"));
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(CleanupTest, RemovesNothingWhileSomebodyLivesAndSaysWho) {
  ChildProcess member = StartMember();
  ASSERT_TRUE(member.Stop()) << "a stopped member lives";
  const std::vector<std::string> before = Objects();
  const absl::StatusOr<CleanupResult> result = Remove();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->removed, IsEmpty());
  ASSERT_EQ(result->living.size(), 1u);
  EXPECT_EQ(result->living[0].pid, static_cast<uint32_t>(member.pid()));
  EXPECT_EQ(result->living[0].slot, 1u);
  EXPECT_EQ(Objects(), before);
  KillAndReap(std::move(member));
  Removed(Names());
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(CleanupTest, RemovesARenamedMainSegmentByTheNameInTheManagementObject) {
  ProcessSignal joined;
  ChildProcess child = ChildProcess::Start([&] {
    SessionOptions options = Options();
    options.names.main_segment = test_session_.name() + "_renamed";
    const auto session = Join(options);
    joined.Signal();
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(joined.Wait());
  KillAndReap(std::move(child));
  EXPECT_THAT(Removed(Names()), ElementsAre("_renamed", "_control_queue", "_management", "_mutex"));
}

TEST_F(CleanupTest, RemovesTheMainSegmentOfTheGivenNameWhenTheManagementObjectIsGone) {
  Touch("_renamed");
  EXPECT_THAT(Removed(Names(test_session_.name() + "_renamed")), ElementsAre("_renamed", "_mutex"));
}

TEST_F(CleanupTest, RemovesWhatIsHalfMade) {
  Touch("_management");
  EXPECT_THAT(Removed(Names()), ElementsAre("_management", "_mutex"));
  Touch("_mutex");
  EXPECT_THAT(Removed(Names()), ElementsAre("_mutex"));
  Touch("_main");
  EXPECT_THAT(Removed(Names()), ElementsAre("_main", "_mutex"));
  std::ofstream(Path("_management")).close();
  Touch("_control_queue");
  EXPECT_THAT(Removed(Names()), ElementsAre("_control_queue", "_management", "_mutex"));
}

TEST_F(CleanupTest, SparesThoseWhoseManagementObjectOrLockFileWasRemoved) {
  for (const char* suffix : {"_management", "_mutex"}) {
    ChildProcess member = StartMember();
    std::filesystem::remove(Path(suffix));
    const std::vector<std::string> before = Objects();
    const absl::StatusOr<CleanupResult> result = Remove();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->living.size(), 1u) << suffix;
    EXPECT_EQ(Objects(), before) << suffix;
    KillAndReap(std::move(member));
    Removed(Names());
    EXPECT_THAT(Objects(), IsEmpty()) << suffix;
  }
}

TEST_F(CleanupTest, LeavesTheNextSessionAlone) {
  SessionOptions other = Options();
  other.names.session += "_main";
  KillAndReap(StartMember());
  const auto session = Join(other);
  Removed(Names());
  EXPECT_THAT(Objects(),
              ElementsAre("_main_control_queue", "_main_main", "_main_management", "_main_mutex"));
}

TEST_F(CleanupTest, NamesTheProcessThatItWaitsFor) {
  ProcessSignal entered;
  ChildProcess holder = ChildProcess::Start([&] {
    const auto lock =
        EnterSession(Names(), {.create = true}, Deadline::After(absl::Seconds(10))).value();
    entered.Signal();
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(entered.Wait());
  const absl::Status status =
      RemoveSession(Names(), {}, Deadline::After(absl::Milliseconds(20))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("process " + std::to_string(holder.pid())));
  KillAndReap(std::move(holder));
  Removed(Names());
}

TEST_F(CleanupTest, RefusesTheSessionOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  KillAndReap(StartMember());
  ASSERT_EQ(chmod(test_session_.directory().c_str(), 0777), 0);
  ChildProcess child = ChildProcess::Start([&] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
    const absl::Status status = Remove().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(status.message()), HasSubstr("root (uid 0)"));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  Removed(Names());
}

TEST_F(CleanupTest, NamesTheOwnerOfAFileThatItMayNotRemove) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  ASSERT_EQ(chmod(test_session_.directory().c_str(), 01777), 0);
  Touch("_main_4");
  ChildProcess child = ChildProcess::Start([&] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
    Touch("_main_5");
    const absl::Status status = Remove().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(status.message()), HasSubstr("_main_4 (it belongs to root"));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_THAT(Objects(), ElementsAre("_main_4", "_mutex")) << "the rest was removed";
  for (const std::string& suffix : Objects()) std::filesystem::remove(Path(suffix));
}

}  // namespace
}  // namespace handoff

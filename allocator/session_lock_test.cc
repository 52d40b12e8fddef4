// SPDX-License-Identifier: Apache-2.0
#include "allocator/session_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class SessionLockTest : public ::testing::Test {
 protected:
  ~SessionLockTest() override { unlink(names_.LockFilePath().c_str()); }

  absl::StatusOr<std::unique_ptr<LifeLock>> Enter(absl::Duration limit = absl::Seconds(10)) const {
    return EnterSession(names_, {.create = true}, Deadline::After(limit));
  }

  mode_t Mode() const {
    struct stat info = {};
    EXPECT_EQ(stat(names_.LockFilePath().c_str(), &info), 0);
    return info.st_mode & 07777;
  }

  const TestSession session_{TestSessionOptions{.own_directory = true}};
  const ObjectNames names_ =
      ObjectNames::Create({.session = session_.name(), .shm_dir = session_.directory()}).value();
};

TEST_F(SessionLockTest, LetsOneInAtATime) {
  auto first = Enter().value();
  const absl::Status status = Enter(absl::Milliseconds(20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("session '" + session_.name() + "'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("process " + std::to_string(getpid())));
  { const SessionEntered leave(*first); }
  EXPECT_TRUE(Enter().ok());
}

TEST_F(SessionLockTest, MakesNoFileUnlessAsked) {
  EXPECT_EQ(EnterSession(names_, {}, Deadline::After(absl::Seconds(1))).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(LockFileInode(names_), 0u);
  const auto lock = Enter().value();
  EXPECT_EQ(LockFileInode(names_), lock->inode());
}

TEST_F(SessionLockTest, StartsAgainWhenTheFileItWaitedForWasRemoved) {
  auto first = Enter().value();
  std::atomic<bool> entered{false};
  std::unique_ptr<LifeLock> second;
  std::thread waiting([&] {
    second = Enter().value();
    entered = true;
  });
  const uint64_t before = first->inode();
  unlink(names_.LockFilePath().c_str());
  { const SessionEntered leave(*first); }
  waiting.join();
  EXPECT_TRUE(entered);
  EXPECT_NE(second->inode(), before)
      << "the first one is still open, so the number is not used again";
  EXPECT_EQ(second->inode(), LockFileInode(names_));
  EXPECT_TRUE(*first->TryLock(kGuardByte)) << "whoever has the old file excludes nobody";
}

TEST_F(SessionLockTest, DoesNotEnterAgainThroughAFileThatLostItsName) {
  const auto lock = Enter().value();
  { const SessionEntered leave(*lock); }
  const Deadline soon = Deadline::After(absl::Seconds(1));
  ASSERT_TRUE(ReenterSession(names_, *lock, soon).ok());
  { const SessionEntered leave(*lock); }
  unlink(names_.LockFilePath().c_str());
  EXPECT_EQ(ReenterSession(names_, *lock, soon).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(*lock->TryLock(kGuardByte)) << "byte 0 was given back";
}

TEST_F(SessionLockTest, GivesTheFileItsModeAndGroup) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for a group of its own";
  const auto lock = Enter().value();
  EXPECT_EQ(Mode(), 0600u);
  ASSERT_TRUE(SetLockFileAccess(names_, {.group = 4242}).ok());
  EXPECT_EQ(Mode(), 0660u);
  struct stat info = {};
  ASSERT_EQ(stat(names_.LockFilePath().c_str(), &info), 0);
  EXPECT_EQ(info.st_gid, 4242u);
  ASSERT_TRUE(SetLockFileAccess(names_, {}).ok());
  EXPECT_EQ(Mode(), 0600u);
}

TEST_F(SessionLockTest, MendsItsOwnFileThatNobodyCanOpen) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become a user whom modes concern";
  ASSERT_EQ(chmod(session_.directory().c_str(), 0777), 0);
  ChildProcess child = ChildProcess::Start([&] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
    // Left by a process with umask 0777 that was killed before it could set the mode.
    close(open(names_.LockFilePath().c_str(), O_CREAT | O_EXCL | O_RDWR, 0000));
    EXPECT_TRUE(Enter().ok());
    EXPECT_EQ(Mode(), 0600u);
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(SessionLockTest, KnowsWhoseTheSessionIs) {
  EXPECT_EQ(CheckSessionOwner(names_, {}).code(), absl::StatusCode::kNotFound);
  const auto lock = Enter().value();
  EXPECT_TRUE(CheckSessionOwner(names_, {}).ok());
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to give a file away";
  const std::string path = names_.LockFilePath();
  ASSERT_EQ(chown(path.c_str(), 65534, 4242), 0);
  const absl::Status status = CheckSessionOwner(names_, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(uid 65534), this process runs as root"));
  EXPECT_FALSE(CheckSessionOwner(names_, {.group = 4242}).ok()) << "the mode does not open it";
  ASSERT_EQ(chmod(path.c_str(), 0660), 0);
  EXPECT_TRUE(CheckSessionOwner(names_, {.group = 4242}).ok());
  EXPECT_FALSE(CheckSessionOwner(names_, {.group = 4243}).ok());
  EXPECT_FALSE(CheckSessionOwner(names_, {}).ok());
}

}  // namespace
}  // namespace handoff

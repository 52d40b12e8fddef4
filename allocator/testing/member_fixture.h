// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_MEMBER_FIXTURE_H_
#define HANDOFF_ALLOCATOR_TESTING_MEMBER_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "allocator/death_probe.h"
#include "base/process_id.h"
#include "base/sync.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/unique_fd.h"
#include "control_queue/life_lock.h"
#include "control_queue/member_table.h"

namespace handoff {

// A member table in memory that children share, and a lock file. The file of the table stands for
// the management object.
class MemberFixture : public ::testing::Test {
 protected:
  MemberFixture() {
    lock_ = Open();
    file_.reset(open(table_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(file_.get(), static_cast<off_t>(kBytes)), 0);
    bytes_ = static_cast<std::byte*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0));
    struct stat info = {};
    EXPECT_EQ(fstat(file_.get(), &info), 0);
    inode_ = info.st_ino;
    members_ = std::make_unique<MemberTable<RealSync>>(std::span(bytes_, kBytes));
  }
  ~MemberFixture() override {
    munmap(bytes_, kBytes);
    unlink(table_path_.c_str());
    unlink(lock_path_.c_str());
  }

  std::shared_ptr<LifeLock> Open() const {
    return std::shared_ptr<LifeLock>(LifeLock::Open(lock_path_, {.create = true}).value());
  }

  static MemberIdentity Own() {
    MemberIdentity identity;
    const ProcessId process = CurrentProcessId().value();
    identity.pid = static_cast<uint32_t>(process.pid);
    identity.start_time = process.start_time;
    identity.pid_namespace = process.pid_namespace;
    return identity;
  }

  // A process that is the member in `slot`: with its byte and its row. `body` runs then.
  ChildProcess StartMember(uint32_t slot, const std::function<void(LifeLock&)>& body) {
    ProcessSignal joined;
    ChildProcess child = ChildProcess::Start([&] {
      const std::shared_ptr<LifeLock> lock = Open();
      EXPECT_TRUE(lock->TryLock(slot).value());
      EXPECT_TRUE(members_->Publish(slot, Own()).has_value());
      body(*lock);
      joined.Signal();
      for (;;) pause();
      return 0;
    });
    EXPECT_TRUE(joined.Wait());
    return child;
  }

  DeathProbe Prober(uint32_t self = 0) {
    return DeathProbe(
        *members_, [this] { return lock_; }, inode_, self);
  }

  static constexpr size_t kBytes = MemberTable<RealSync>::BytesNeeded();
  TestSession session_{TestSessionOptions{.own_directory = true}};
  const std::string lock_path_ = session_.directory() + "/mutex";
  const std::string table_path_ = session_.directory() + "/table";
  std::shared_ptr<LifeLock> lock_;
  UniqueFd file_;
  std::byte* bytes_ = nullptr;
  uint64_t inode_ = 0;
  std::unique_ptr<MemberTable<RealSync>> members_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_MEMBER_FIXTURE_H_

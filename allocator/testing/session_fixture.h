// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_SESSION_FIXTURE_H_
#define HANDOFF_ALLOCATOR_TESTING_SESSION_FIXTURE_H_

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "allocator/member_hooks.h"
#include "allocator/session.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "control_queue/member_id.h"

namespace handoff {

// Remembers what it was asked for. Must outlive the session that has it.
class RecordingHooks : public MemberHooks {
 public:
  bool ReclaimMember(MemberId member) override {
    const std::lock_guard lock(mutex_);
    reclaimed_.push_back(member);
    return answer;
  }
  void Tick() override { ticks.fetch_add(1, std::memory_order_relaxed); }
  void StopMoves() override { stops.fetch_add(1, std::memory_order_relaxed); }

  std::vector<MemberId> reclaimed() const {
    const std::lock_guard lock(mutex_);
    return reclaimed_;
  }

  std::atomic<bool> answer{true};  // of ReclaimMember()
  std::atomic<int> ticks{0};
  std::atomic<int> stops{0};

 private:
  mutable std::mutex mutex_;
  std::vector<MemberId> reclaimed_;
};

// A session of the test's own, in a directory of its own, with a main segment of 1 MiB. The test
// fails if it leaves a file there.
class SessionFixture : public ::testing::Test {
 protected:
  static constexpr uint64_t kMiB = uint64_t{1} << 20;

  SessionOptions Options() const {
    SessionOptions options;
    options.names.session = test_session_.name();
    options.names.shm_dir = test_session_.directory();
    options.main_segment_bytes = kMiB;
    options.watch_period = absl::Milliseconds(5);
    return options;
  }

  std::unique_ptr<Session> Join() const { return Join(Options()); }
  // Null, and a failed test, if it cannot be joined.
  static std::unique_ptr<Session> Join(const SessionOptions& options) {
    absl::StatusOr<std::unique_ptr<Session>> session = Session::Join(options);
    EXPECT_TRUE(session.ok()) << session.status();
    return session.ok() ? *std::move(session) : nullptr;
  }

  // A process that joins, runs `body` and waits to be killed.
  ChildProcess StartMember(const std::function<void(Session&)>& body = [](Session&) {}) const {
    ProcessSignal joined;
    ChildProcess child = ChildProcess::Start([&] {
      const std::unique_ptr<Session> session = Join();
      if (session == nullptr) return 1;
      body(*session);
      joined.Signal();
      for (;;) pause();
      return 0;
    });
    EXPECT_TRUE(joined.Wait());
    return child;
  }

  // Killed, and all its locks given back.
  static void KillAndReap(ChildProcess child) {
    child.Kill();
    EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
  }

  // What is behind the session's name in the names of its files, sorted.
  std::vector<std::string> Objects() const {
    std::vector<std::string> objects;
    for (const std::string& name : test_session_.Objects()) {
      objects.push_back(name.substr(test_session_.name().size()));
    }
    return objects;
  }

  std::string Path(const std::string& suffix) const {
    return test_session_.directory() + "/" + test_session_.name() + suffix;
  }

  const TestSession test_session_{TestSessionOptions{.own_directory = true}};
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_SESSION_FIXTURE_H_

// SPDX-License-Identifier: Apache-2.0
// Runs the monitor as a user does.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "allocator/member.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "monitor/snapshot.h"
#include "nlohmann/json.hpp"

namespace handoff {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string program;

class MonitorTest : public testing::Test {
 protected:
  void SetUp() override {
    output_ = std::filesystem::path(testing::TempDir()) / ("monitor_test_" + session_.name());
  }
  void TearDown() override { std::filesystem::remove(output_); }

  ChildProcess Start(std::vector<std::string> flags) {
    flags.insert(flags.begin(),
                 {program, "--session=" + session_.name(), "--shm_dir=" + session_.directory()});
    return ChildProcess::Start([flags, output = output_.string()] {
      const int fd = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(fd, STDOUT_FILENO);
      dup2(fd, STDERR_FILENO);
      std::vector<char*> arguments;
      for (const std::string& flag : flags) arguments.push_back(const_cast<char*>(flag.c_str()));
      arguments.push_back(nullptr);
      execv(arguments[0], arguments.data());
      return 127;
    });
  }

  std::string Output() const {
    std::ostringstream text;
    text << std::ifstream(output_).rdbuf();
    return text.str();
  }

  // Members that are killed and leave everything behind.
  void LeaveEverythingBehind() {
    std::vector<ChildProcess> members;
    ProcessSignal ready;
    for (int i = 0; i < 3; ++i) members.push_back(StartMember(ready));
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(ready.Wait());
    for (ChildProcess& member : members) ASSERT_TRUE(member.Stop());
    // A monitor that watches may remove them as soon as the last one is dead.
    ASSERT_FALSE(session_.Objects().empty());
    for (ChildProcess& member : members) member.Kill();
    for (ChildProcess& member : members) ASSERT_TRUE(member.Wait().has_value());
  }

  std::unique_ptr<Member> Join() const {
    SessionOptions options;
    options.names.session = session_.name();
    options.names.shm_dir = session_.directory();
    options.main_segment_bytes = 4 << 20;
    auto member = Member::Join(options);
    EXPECT_TRUE(member.ok()) << member.status().ToString();
    return *std::move(member);
  }

  ChildProcess StartMember(ProcessSignal& ready) {
    return ChildProcess::Start([this, &ready] {
      const auto member = Join();
      Block block;
      EXPECT_EQ(member->main_segment().TryAllocate(100000, 64, &block), AllocateResult::kOk);
      ready.Signal();
      pause();
      return 0;
    });
  }

  TestSession session_;
  std::filesystem::path output_;
};

TEST_F(MonitorTest, CleanupRemovesWhatTheDeadHaveLeft) {
  LeaveEverythingBehind();
  ASSERT_FALSE(session_.Objects().empty());
  ChildProcess monitor = Start({"--cleanup"});
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(0)) << Output();
  EXPECT_THAT(session_.Objects(), IsEmpty());
  EXPECT_EQ(Output(), "");
  ChildProcess again = Start({"--cleanup"});
  EXPECT_EQ(again.Wait(), ChildExit::Code(0));
}

TEST_F(MonitorTest, CleanupLeavesTheLivingAlone) {
  ProcessSignal ready;
  ChildProcess member = StartMember(ready);
  ASSERT_TRUE(ready.Wait());
  const std::vector<std::string> before = session_.Objects();
  ChildProcess monitor = Start({"--cleanup"});
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(1));
  EXPECT_THAT(Output(), HasSubstr("in use"));
  EXPECT_THAT(Output(), HasSubstr(std::to_string(member.pid())));
  EXPECT_EQ(session_.Objects(), before);
  member.Kill();
  ASSERT_TRUE(member.Wait().has_value());
  EXPECT_EQ(Start({"--cleanup"}).Wait(), ChildExit::Code(0));
}

TEST_F(MonitorTest, WithoutFlagsCleansUpAfterTheTimeoutAndPrintsNothing) {
  ChildProcess monitor = Start({"--timeout=200"});
  LeaveEverythingBehind();
  EXPECT_TRUE(WaitFor([&] { return session_.Objects().empty(); }));
  // The next session of that name is watched, too.
  LeaveEverythingBehind();
  EXPECT_TRUE(WaitFor([&] { return session_.Objects().empty(); }));
  monitor.Kill(SIGTERM);
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(0));
  EXPECT_EQ(Output(), "");
}

TEST_F(MonitorTest, ASilentButLivingMemberKeepsItsSession) {
  ProcessSignal ready;
  ChildProcess member = StartMember(ready);
  ASSERT_TRUE(ready.Wait());
  ASSERT_TRUE(member.Stop());
  ChildProcess monitor = Start({"--timeout=0", "--self_destruct"});
  // Many rounds of the monitor later everything is still there.
  EXPECT_FALSE(monitor.Wait(absl::Milliseconds(500)).has_value());
  EXPECT_FALSE(session_.Objects().empty());
  member.Kill();
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(0));
  EXPECT_THAT(session_.Objects(), IsEmpty());
}

TEST_F(MonitorTest, ReclaimsTheDeadWhileThoseWhoLiveStandStill) {
  ProcessSignal ready;
  ChildProcess living = StartMember(ready);
  ASSERT_TRUE(ready.Wait());
  ChildProcess victim = StartMember(ready);
  ASSERT_TRUE(ready.Wait());
  ASSERT_TRUE(living.Stop());
  victim.Kill();
  ASSERT_TRUE(victim.Wait().has_value());
  const absl::StatusOr<ObjectNames> names =
      ObjectNames::Create({.session = session_.name(), .shm_dir = session_.directory()});
  ASSERT_TRUE(names.ok());
  EXPECT_EQ(TakeSnapshot(*names)->segments[0].usage.used_blocks, 2u);
  ChildProcess monitor = Start({"--timeout=100"});
  EXPECT_TRUE(WaitFor([&] {
    const absl::StatusOr<SessionSnapshot> snapshot = TakeSnapshot(*names);
    return snapshot.ok() && snapshot->members.size() == 1;
  }));
  const absl::StatusOr<SessionSnapshot> snapshot = TakeSnapshot(*names);
  ASSERT_TRUE(snapshot.ok());
  ASSERT_EQ(snapshot->segments.size(), 1u);
  EXPECT_EQ(snapshot->segments[0].usage.used_blocks, 1u) << "that of the one that stands still";
  monitor.Kill(SIGTERM);
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(0));
  EXPECT_EQ(Output(), "");
  living.Kill();
  ASSERT_TRUE(living.Wait().has_value());
  EXPECT_EQ(Start({"--cleanup"}).Wait(), ChildExit::Code(0));
}

TEST_F(MonitorTest, AStoppedMemberIsShownAsStalledKeepsItsMemoryAndGoesOn) {
  ProcessSignal ready;
  ProcessSignal go_on;
  ChildProcess member = ChildProcess::Start([&] {
    auto own = Join();
    Block block;
    EXPECT_EQ(own->main_segment().TryAllocate(100000, 64, &block), AllocateResult::kOk);
    std::memset(block.data, 42, block.size_bytes);
    ready.Signal();
    EXPECT_TRUE(go_on.Wait());
    EXPECT_EQ(std::count(block.data, block.data + block.size_bytes, std::byte{42}),
              static_cast<ptrdiff_t>(block.size_bytes));
    own->main_segment().Release(block);
    ready.Signal();
    EXPECT_TRUE(go_on.Wait());
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  ASSERT_TRUE(member.Stop());
  // Another one of the session dies, and the monitor reclaims that one.
  ProcessSignal other_ready;
  ChildProcess monitor = Start({"--timeout=0"});
  ChildProcess other = StartMember(other_ready);
  ASSERT_TRUE(other_ready.Wait());
  other.Kill();
  ASSERT_TRUE(other.Wait().has_value());
  EXPECT_TRUE(WaitFor([&] {
    EXPECT_EQ(Start({"--list", "--json"}).Wait(), ChildExit::Code(0));
    return nlohmann::json::parse(Output())["members"].size() == 1;
  })) << Output();
  const auto json = nlohmann::json::parse(Output());
  EXPECT_EQ(json["members"][0]["pid"], member.pid());
  EXPECT_EQ(json["members"][0]["stalled"], true);
  EXPECT_EQ(json["members"][0]["state"], "stopped");
  EXPECT_EQ(json["members"][0]["held_bytes"], 102400);
  EXPECT_EQ(Start({"--list"}).Wait(), ChildExit::Code(0));
  EXPECT_THAT(Output(), HasSubstr("stopped, silent for"));
  // It goes on with what it had.
  member.Kill(SIGCONT);
  go_on.Signal();
  ASSERT_TRUE(ready.Wait());
  EXPECT_TRUE(WaitFor([&] {
    EXPECT_EQ(Start({"--list", "--json"}).Wait(), ChildExit::Code(0));
    return nlohmann::json::parse(Output())["members"][0]["stalled"] == false;
  })) << Output();
  EXPECT_EQ(nlohmann::json::parse(Output())["members"][0]["held_bytes"], 0);
  go_on.Signal();
  EXPECT_EQ(member.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(WaitFor([&] { return session_.Objects().empty(); }));
  monitor.Kill(SIGTERM);
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(0));
}

TEST_F(MonitorTest, SelfDestructEndsWhenTheMembersHaveRemovedTheSession) {
  ChildProcess monitor = Start({"--self_destruct", "--timeout=100"});
  SessionOptions options;
  options.names.session = session_.name();
  options.names.shm_dir = session_.directory();
  options.main_segment_bytes = 1 << 20;
  auto member = Member::Join(options);
  ASSERT_TRUE(member.ok());
  EXPECT_FALSE(monitor.Wait(absl::Milliseconds(300)).has_value());
  member->reset();
  EXPECT_EQ(monitor.Wait(), ChildExit::Code(0));
}

TEST_F(MonitorTest, ListShowsTheSession) {
  ProcessSignal ready;
  ChildProcess member = StartMember(ready);
  ASSERT_TRUE(ready.Wait());
  EXPECT_EQ(Start({"--list"}).Wait(), ChildExit::Code(0));
  EXPECT_THAT(Output(), HasSubstr(session_.name() + "_main"));
  EXPECT_THAT(Output(), HasSubstr("100 KiB"));
  EXPECT_EQ(Start({"--list", "--json"}).Wait(), ChildExit::Code(0));
  EXPECT_THAT(Output(), HasSubstr("\"held_bytes\": 102400"));
  member.Kill();
  ASSERT_TRUE(member.Wait().has_value());
  EXPECT_EQ(Start({"--cleanup", "--list"}).Wait(), ChildExit::Code(0));
}

TEST_F(MonitorTest, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(Start({"--timeout=-1"}).Wait(), ChildExit::Code(1));
  EXPECT_THAT(Output(), HasSubstr("--timeout -1"));
  EXPECT_EQ(Start({"stray"}).Wait(), ChildExit::Code(1));
  EXPECT_THAT(Output(), HasSubstr("stray"));
  EXPECT_EQ(Start({"--no_such_flag"}).Wait(), ChildExit::Code(1));
  EXPECT_THAT(Output(), HasSubstr("no_such_flag"));
}

}  // namespace
}  // namespace handoff

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  handoff::program = std::filesystem::absolute(argc > 1 ? argv[1] : "monitor").string();
  return RUN_ALL_TESTS();
}

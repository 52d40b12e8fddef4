// SPDX-License-Identifier: Apache-2.0
#include "allocator/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "allocator/session_lock.h"
#include "allocator/testing/session_fixture.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// How a session is made, joined, left and removed, and who may.
class SessionTest : public SessionFixture {};

TEST_F(SessionTest, MakesItsObjectsAndRemovesThemWhenTheLastMemberLeaves) {
  std::unique_ptr<Session> first = Join();
  EXPECT_THAT(Objects(), ElementsAre("_control_queue", "_main", "_management", "_mutex"));
  std::unique_ptr<Session> second = Join();
  EXPECT_NE(first->slot(), second->slot());
  EXPECT_EQ(first->nonce(), second->nonce());
  EXPECT_TRUE(first->members().Alive(second->id()));
  EXPECT_TRUE(first->Leave().ok());
  EXPECT_FALSE(second->members().Alive(first->id()));
  EXPECT_THAT(Objects(), Not(IsEmpty()));
  EXPECT_TRUE(second->Leave().ok());
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionTest, LeavesOnceAndInTheDestructorAtTheLatest) {
  std::unique_ptr<Session> session = Join();
  EXPECT_TRUE(session->CheckUsable().ok());
  EXPECT_TRUE(session->Leave().ok());
  EXPECT_TRUE(session->Leave().ok());
  EXPECT_EQ(session->CheckUsable().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(session->CreateSegment({.id = 1, .size_bytes = kMiB}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(session->OpenSegment(0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(session->ReclaimDead());
  Join();
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionTest, SaysWhoItsMembersAre) {
  SessionOptions options = Options();
  options.member_name = "sampler";
  const std::unique_ptr<Session> session = Join(options);
  const MemberTable<RealSync>::Member member = session->members().Load(session->slot());
  EXPECT_EQ(member.identity.NameView(), "sampler");
  EXPECT_EQ(member.identity.pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(member.identity.uid, geteuid());
  EXPECT_EQ(member.identity.build_hash, kBuildHash);
  EXPECT_NE(member.identity.start_time, 0u);
  const std::unique_ptr<Session> unnamed = Join();
  EXPECT_EQ(session->members().Load(unnamed->slot()).identity.NameView(),
            std::string_view(program_invocation_short_name).substr(0, 32));
}

TEST_F(SessionTest, LetsTheFirstMemberDecideAboutTheMainSegment) {
  SessionOptions options = Options();
  options.names.main_segment = test_session_.name() + "_renamed";
  const std::unique_ptr<Session> first = Join(options);
  const std::unique_ptr<Session> second = Join();
  EXPECT_EQ(second->names().Segment(0), options.names.main_segment);
  EXPECT_THAT(Objects(), Contains("_renamed"));
  EXPECT_THAT(Objects(), Not(Contains("_main")));
  options.main_segment_bytes = 7 * kMiB;
  const std::unique_ptr<Session> third = Join(options);
  EXPECT_EQ(third->OpenSegment(0)->size_bytes, kMiB);
}

TEST_F(SessionTest, MakesNoMainSegmentIfNotAsked) {
  SessionOptions options = Options();
  options.main_segment_bytes = 0;
  const std::unique_ptr<Session> session = Join(options);
  EXPECT_THAT(session->Segments(), IsEmpty());
  EXPECT_EQ(session->OpenSegment(0).status().code(), absl::StatusCode::kNotFound);
  Join();
  EXPECT_EQ(session->OpenSegment(0)->size_bytes, kMiB);
}

TEST_F(SessionTest, MakesOpensAndRemovesSegmentsAcrossProcesses) {
  std::unique_ptr<Session> session = Join();
  ChildProcess child = ChildProcess::Start([&] {
    const std::unique_ptr<Session> other = Join();
    SegmentObjects objects = other->CreateSegment({.id = 4, .size_bytes = 2 * kMiB}).value();
    EXPECT_TRUE(objects.payload.Reserve(0, 1).ok());
    objects.payload.bytes()[0] = std::byte{77};
    return 0;
  });
  ASSERT_EQ(child.Wait(), ChildExit::Code(0));
  const absl::StatusOr<SegmentObjects> objects = session->OpenSegment(4);
  ASSERT_TRUE(objects.ok()) << objects.status();
  EXPECT_EQ(objects->payload.bytes()[0], std::byte{77}) << "segments outlive who made them";
  EXPECT_EQ(session->Segments().size(), 2u);
  EXPECT_TRUE(session->RemoveSegment(4).ok());
  EXPECT_EQ(session->OpenSegment(4).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(session->RemoveSegment(4).code(), absl::StatusCode::kNotFound);
}

TEST_F(SessionTest, PreparesEverySegmentThatItMakes) {
  SessionOptions options = Options();
  options.prepare_segment = [](SegmentObjects& objects) {
    if (absl::Status status = objects.area.Reserve(0, 4096); !status.ok()) return status;
    objects.area.bytes()[7] = std::byte{1};
    return absl::OkStatus();
  };
  const std::unique_ptr<Session> first = Join(options);
  EXPECT_EQ(first->OpenSegment(0)->area.bytes()[7], std::byte{1});
  EXPECT_EQ(first->CreateSegment({.id = 2, .size_bytes = kMiB})->area.bytes()[7], std::byte{1});
}

TEST_F(SessionTest, LeavesNothingWhenItCannotBeJoined) {
  SessionOptions options = Options();
  options.prepare_segment = [](SegmentObjects&) { return absl::ResourceExhaustedError("full"); };
  EXPECT_EQ(Session::Join(options).status(), absl::ResourceExhaustedError("full"));
  EXPECT_THAT(Objects(), IsEmpty());
  options.prepare_segment = nullptr;
  options.main_segment_bytes = uint64_t{60} << 30;
  if (std::filesystem::space("/dev/shm").capacity < options.main_segment_bytes) {
    const absl::Status status = Session::Join(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("needs 60 GiB; file system of"));
    EXPECT_THAT(Objects(), IsEmpty());
  }
}

TEST_F(SessionTest, RefusesOptionsThatMakeNoSense) {
  const auto code = [&](const std::function<void(SessionOptions&)>& change) {
    SessionOptions options = Options();
    change(options);
    return Session::Join(options).status().code();
  };
  using enum absl::StatusCode;
  EXPECT_EQ(code([](SessionOptions& o) { o.names.session = "a/b"; }), kInvalidArgument);
  EXPECT_EQ(code([](SessionOptions& o) { o.join_deadline = absl::ZeroDuration(); }),
            kInvalidArgument);
  EXPECT_EQ(code([](SessionOptions& o) { o.watch_period = absl::ZeroDuration(); }),
            kInvalidArgument);
  EXPECT_EQ(code([](SessionOptions& o) { o.shm_group = "no-such-group"; }), kNotFound);
  EXPECT_EQ(code([](SessionOptions& o) { o.names.shm_dir += "/missing"; }), kNotFound);
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionTest, NamesTheProcessThatKeepsItFromJoining) {
  const std::unique_ptr<Session> session = Join();
  ProcessSignal entered;
  ChildProcess holder = ChildProcess::Start([&] {
    const auto lock =
        EnterSession(session->names(), {}, Deadline::After(absl::Seconds(10))).value();
    entered.Signal();
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(entered.Wait());
  SessionOptions options = Options();
  options.join_deadline = absl::Milliseconds(30);
  const absl::Status status = Session::Join(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("process " + std::to_string(holder.pid())));
  holder.Kill();
  EXPECT_NE(Join(), nullptr) << "the kernel gives byte 0 back";
}

TEST_F(SessionTest, BeginsAnewWhenAllMembersAreDead) {
  uint64_t nonce = 0;
  std::unique_ptr<Session> session = Join();
  ChildProcess last = StartMember(
      [](Session& other) { EXPECT_TRUE(other.CreateSegment({.id = 9, .size_bytes = kMiB}).ok()); });
  nonce = session->nonce();
  session.reset();
  KillAndReap(std::move(last));
  EXPECT_THAT(Objects(),
              ElementsAre("_control_queue", "_main", "_main_9", "_management", "_mutex"));
  session = Join();
  EXPECT_NE(session->nonce(), nonce);
  EXPECT_THAT(Objects(), ElementsAre("_control_queue", "_main", "_management", "_mutex"));
}

TEST_F(SessionTest, GoesOnWhenSomeMembersAreDead) {
  ChildProcess living = StartMember();
  KillAndReap(StartMember());
  const std::unique_ptr<Session> session = Join();
  EXPECT_EQ(session->slot(), 3u) << "the dead one's slot is not free before it is reclaimed";
  session->set_hooks(nullptr);
  EXPECT_TRUE(WaitFor([&] { return session->members().Word(2).epoch == 1; }));
  EXPECT_EQ(session->members().Word(1).state, MemberState::kLive);
  KillAndReap(std::move(living));
}

TEST_F(SessionTest, JoinsOnlyWhoLivesWhenAskedTo) {
  SessionOptions options = Options();
  options.only_if_alive = true;
  EXPECT_EQ(Session::Join(options).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Objects(), IsEmpty());
  ChildProcess living = StartMember();
  const std::vector<std::string> objects = Objects();
  EXPECT_NE(Join(options), nullptr);
  EXPECT_EQ(Objects(), objects);
  KillAndReap(std::move(living));
  EXPECT_EQ(Session::Join(options).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Objects(), objects) << "what the dead have left is not ours to remove";
  Join();
}

TEST_F(SessionTest, MakesAHalfMadeSessionAgain) {
  std::ofstream(Path("_management")).close();
  Join();
  EXPECT_THAT(Objects(), IsEmpty());
  std::ofstream(Path("_management")) << std::string(1 << 20, 'x');
  std::ofstream(Path("_main")) << "left over";
  std::ofstream(Path("_main_3")) << "left over";
  std::unique_ptr<Session> session = Join();
  EXPECT_THAT(Objects(), ElementsAre("_control_queue", "_main", "_management", "_mutex"));
  session.reset();
  EXPECT_THAT(Objects(), IsEmpty());
}

TEST_F(SessionTest, RefusesASessionOfAnotherBuildAsLongAsItLives) {
  std::unique_ptr<Session> session = Join();
  const_cast<ManagementHeader&>(session->header()).object.build_hash ^= 1;
  const absl::Status status = Session::Join(Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("this program has layout version 1"));
  EXPECT_THAT(Objects(), Not(IsEmpty()));
  session.reset();
  EXPECT_THAT(Objects(), IsEmpty());

  KillAndReap(StartMember([](Session& other) {
    const_cast<ManagementHeader&>(other.header()).object.build_hash ^= 1;
  }));
  EXPECT_NE(Join(), nullptr) << "nobody of the other build is left";
}

TEST_F(SessionTest, RefusesASessionOfAnotherUserAndNamesTheFlag) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  const std::unique_ptr<Session> session = Join();
  ASSERT_EQ(chmod(test_session_.directory().c_str(), 0777), 0);
  ChildProcess child = ChildProcess::Start([&] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
    const absl::Status status = Session::Join(Options()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(status.message()), HasSubstr("belongs to root (uid 0)"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("--session"));
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(SessionTest, RefusesAnotherUsersSessionAlsoToRoot) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  std::ofstream(Path("_mutex")).close();
  ASSERT_EQ(chown(Path("_mutex").c_str(), 65534, 65534), 0);
  const absl::Status status = Session::Join(Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(uid 65534)"));
  EXPECT_THAT(Objects(), ElementsAre("_mutex"));
  std::filesystem::remove(Path("_mutex"));
}

TEST_F(SessionTest, IsOpenToAGroupOnRequest) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  ASSERT_EQ(chmod(test_session_.directory().c_str(), 0777), 0);
  SessionOptions options = Options();
  options.shm_group = "4242";
  std::unique_ptr<Session> session = Join(options);
  for (const char* suffix : {"_main", "_management", "_mutex"}) {
    struct stat info = {};
    ASSERT_EQ(stat(Path(suffix).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0660u) << suffix;
    EXPECT_EQ(info.st_gid, 4242u) << suffix;
  }
  ChildProcess child = ChildProcess::Start([&] {
    if (setgid(4242) != 0 || setuid(65534) != 0) return 1;
    EXPECT_EQ(Session::Join(Options()).status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_NE(Join(options), nullptr);
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(session->CheckUsable().ok());
}

TEST_F(SessionTest, MakesFilesOfMode0600WhateverTheUmask) {
  for (const mode_t mask : {mode_t{0}, mode_t{0777}}) {
    const mode_t before = umask(mask);
    const std::unique_ptr<Session> session = Join();
    umask(before);
    for (const auto& entry : std::filesystem::directory_iterator(test_session_.directory())) {
      EXPECT_EQ(static_cast<mode_t>(entry.status().permissions()), 0600u) << entry.path();
    }
  }
}

TEST_F(SessionTest, ReplacesNothingWhenTwoSessionsLiveSideBySide) {
  SessionOptions longer = Options();
  longer.names.session += "_main";
  std::unique_ptr<Session> one = Join();
  std::unique_ptr<Session> other = Join(longer);
  EXPECT_NE(one->nonce(), other->nonce());
  one.reset();
  EXPECT_THAT(Objects(),
              ElementsAre("_main_control_queue", "_main_main", "_main_management", "_main_mutex"));
  one = Join();
  other.reset();
  EXPECT_THAT(Objects(), ElementsAre("_control_queue", "_main", "_management", "_mutex"));
}

TEST_F(SessionTest, BeginsAnewWhenOnlyTheLockFileOrTheManagementObjectWasRemoved) {
  for (const char* suffix : {"_mutex", "_management"}) {
    std::unique_ptr<Session> session = Join();
    std::filesystem::remove(Path(suffix));
    std::unique_ptr<Session> next = Join();
    EXPECT_NE(next->nonce(), session->nonce()) << suffix;
    session.reset();
    EXPECT_TRUE(std::filesystem::exists(Path("_management"))) << suffix;
    EXPECT_NE(Join(), nullptr) << suffix;
    next.reset();
    EXPECT_THAT(Objects(), IsEmpty()) << suffix;
  }
}

TEST_F(SessionTest, SaysThatTheFileSystemIsFull) {
  const SmallTmpfs tmpfs(kMiB);
  if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
  SessionOptions options = Options();
  options.names.shm_dir = tmpfs.directory();
  EXPECT_NE(Join(options), nullptr);
  tmpfs.Fill("rest", 64 << 10);
  const absl::Status status = Session::Join(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 MiB in all, 60 KiB free"));
  EXPECT_THAT(std::distance(std::filesystem::directory_iterator(tmpfs.directory()), {}), 1);
}

TEST_F(SessionTest, DoesNotRemoveAForeignFileThatHasTheNameOfItsMainSegment) {
  SessionOptions options = Options();
  options.names.main_segment = test_session_.name() + "_precious";
  std::ofstream(Path("_precious")) << "x";
  EXPECT_EQ(Session::Join(options).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Objects(), ElementsAre("_precious"));
  std::filesystem::remove(Path("_precious"));
}

}  // namespace
}  // namespace handoff

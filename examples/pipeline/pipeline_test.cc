// SPDX-License-Identifier: Apache-2.0
// Runs the program as a user does, and does to it what must not hurt.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff::pipeline {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string program;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class PipelineTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("pipeline_test_" + std::to_string(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override {
    EXPECT_THAT(session_.Objects(), IsEmpty());
    fs::remove_all(folder_);
  }

  // The program in a process group of its own, its output in files.
  ChildProcess Start(std::vector<std::string> flags) {
    flags.insert(flags.begin(),
                 {program, "--session=" + session_.name(), "--shm_dir=" + session_.directory()});
    const std::string out = (folder_ / "out").string();
    const std::string err = (folder_ / "err").string();
    return ChildProcess::Start([flags, out, err] {
      setpgid(0, 0);
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
      std::vector<char*> arguments;
      for (const std::string& flag : flags) arguments.push_back(const_cast<char*>(flag.c_str()));
      arguments.push_back(nullptr);
      execv(arguments[0], arguments.data());
      return 127;
    });
  }

  std::string Out() const { return ReadFile(folder_ / "out"); }
  std::string Err() const { return ReadFile(folder_ / "err"); }

  std::string MakeInput(size_t bytes) {
    std::string text(bytes, '\0');
    uint64_t word = 1;
    for (size_t i = 0; i < bytes; ++i) {
      word = word * 6364136223846793005 + 1442695040888963407;
      text[i] = static_cast<char>(word >> 56);
    }
    std::ofstream(folder_ / "input", std::ios::binary) << text;
    return (folder_ / "input").string();
  }

  // The processes that the program has started, in the order of their start.
  static std::vector<pid_t> ChildrenOf(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) +
                       "/children");
    std::vector<pid_t> children;
    for (pid_t child; file >> child;) children.push_back(child);
    return children;
  }

  fs::path folder_;
  TestSession session_;
};

TEST_F(PipelineTest, WritesExactlyWhatItReads) {
  const std::string input = MakeInput(30'000'001);
  const std::string output = (folder_ / "output").string();
  ChildProcess run = Start({"--input=" + input, "--output=" + output, "--message-size=100kB",
                            "--segment-size=8MiB", "--workers=3"});
  EXPECT_EQ(run.Wait(absl::Seconds(120)), ChildExit::Code(0)) << Err();
  EXPECT_TRUE(ReadFile(input) == ReadFile(output));
  EXPECT_THAT(Out(), HasSubstr("30000001"));
  EXPECT_THAT(Out(), HasSubstr("(as read)"));
  EXPECT_THAT(Out(), HasSubstr("1 in, 1 out, none between"));
}

TEST_F(PipelineTest, StreamsGeneratedFramesOfMixedSizes) {
  ChildProcess run = Start({"--bytes=40MiB", "--segment-size=8MiB", "--message-size=256KiB"});
  EXPECT_EQ(run.Wait(absl::Seconds(120)), ChildExit::Code(0)) << Err();
  EXPECT_THAT(Out(), HasSubstr("41943040"));
}

TEST_F(PipelineTest, StreamsAnEmptyFile) {
  const std::string input = MakeInput(0);
  ChildProcess run = Start({"--input=" + input, "--segment-size=8MiB"});
  EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(0)) << Err();
  EXPECT_THAT(Out(), HasSubstr("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
}

TEST_F(PipelineTest, RefusesWhatItDoesNotKnow) {
  for (const std::vector<std::string>& flags : {std::vector<std::string>{"--message-size=1parsec"},
                                                {"--workers=0"},
                                                {"--input=/does/not/exist"},
                                                {"stray"},
                                                {"--segment-size=1MiB", "--message-size=1MiB"}}) {
    ChildProcess run = Start(flags);
    EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(1)) << flags[0];
    EXPECT_THAT(Err(), HasSubstr(flags[0].substr(flags[0].find('=') + 1))) << flags[0];
  }
}

TEST_F(PipelineTest, EndsInOrderWhenInterrupted) {
  ChildProcess run = Start({"--bytes=100GiB", "--segment-size=8MiB", "--message-size=64KiB"});
  ASSERT_TRUE(WaitFor([&] { return Err().find("messages/s") != std::string::npos; }));
  run.Kill(SIGINT);
  EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(1));
  EXPECT_THAT(Err(), HasSubstr("interrupted"));
  EXPECT_THAT(Out(), HasSubstr("objects left          0"));
}

TEST_F(PipelineTest, GoesOnWhenAWorkerIsKilled) {
  const std::string input = MakeInput(30'000'000);
  ChildProcess run = Start({"--input=" + input, "--segment-size=8MiB", "--message-size=16KiB"});
  // Writer, worker, worker, reader.
  ASSERT_TRUE(WaitFor([&] { return ChildrenOf(run.pid()).size() == 4; }));
  const std::vector<pid_t> children = ChildrenOf(run.pid());
  kill(children[1], SIGKILL);
  const std::optional<ChildExit> exit = run.Wait(absl::Seconds(120));
  ASSERT_TRUE(exit.has_value()) << "hangs: " << Err();
  EXPECT_THAT(Err(), HasSubstr("was killed by signal 9"));
  // It goes on without the worker: what that had is lost and named, and the rest arrives.
  EXPECT_THAT(Out(), HasSubstr(*exit == ChildExit::Code(0) ? "(as read)" : "messages lost"));
  EXPECT_THAT(Out(), HasSubstr("objects left          0"));
}

TEST_F(PipelineTest, SaysSoWhenTheReaderIsKilled) {
  ChildProcess run = Start({"--bytes=100GiB", "--segment-size=8MiB", "--message-size=64KiB"});
  ASSERT_TRUE(WaitFor([&] { return ChildrenOf(run.pid()).size() == 4; }));
  kill(ChildrenOf(run.pid())[3], SIGKILL);
  EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(1));
  EXPECT_THAT(Err(), HasSubstr("reader: "));
  EXPECT_THAT(Out(), HasSubstr("objects left          0"));
}

}  // namespace
}  // namespace handoff::pipeline

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  handoff::pipeline::program = std::filesystem::absolute(argc > 1 ? argv[1] : "pipeline").string();
  return RUN_ALL_TESTS();
}

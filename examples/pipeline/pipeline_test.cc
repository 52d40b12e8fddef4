// SPDX-License-Identifier: Apache-2.0
// Runs the program as a user does, and does to it what must not hurt.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff::pipeline {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string program;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Where a run writes to, if the test is to say how far it gets: what nobody has read here holds up
// the writer, and in the end everybody.
class OutputPipe {
 public:
  explicit OutputPipe(std::string path) : path_(std::move(path)) {
    EXPECT_EQ(mkfifo(path_.c_str(), 0600), 0);
    fd_ = UniqueFd(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  }

  const std::string& path() const { return path_; }

  // The first bytes have come: all processes are at work.
  bool AwaitFirstBytes() {
    pollfd wait = {fd_.get(), POLLIN, 0};
    return poll(&wait, 1, 60'000) == 1;
  }

  // Reads until the writer has closed its end, or `enough`.
  void Drain(const std::function<bool()>& enough = [] { return false; }) {
    std::vector<char> buffer(1 << 16);
    const Deadline deadline = Deadline::After(absl::Seconds(120));
    while (!enough() && !deadline.expired()) {
      pollfd wait = {fd_.get(), POLLIN, 0};
      if (poll(&wait, 1, 20) == 0) continue;
      const ssize_t got = read(fd_.get(), buffer.data(), buffer.size());
      if (got == 0) return;
      if (got > 0) text_.append(buffer.data(), static_cast<size_t>(got));
    }
  }
  const std::string& text() const { return text_; }

 private:
  const std::string path_;
  UniqueFd fd_;
  std::string text_;
};

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

  // The processes of a run whose output nobody reads for now, so that it cannot end.
  struct Processes {
    pid_t writer = 0;
    std::vector<pid_t> workers;
    pid_t reader = 0;
  };
  static Processes AwaitProcesses(const ChildProcess& run, OutputPipe& output, size_t workers) {
    EXPECT_TRUE(output.AwaitFirstBytes());
    const std::vector<pid_t> children = ChildrenOf(run.pid());
    EXPECT_EQ(children.size(), workers + 2);
    if (children.size() != workers + 2) return {};
    return {children.front(), {children.begin() + 1, children.end() - 1}, children.back()};
  }
  // Until nothing moves: each worker has a message in its hands and no room to send it.
  void AwaitStandstill() {
    EXPECT_TRUE(WaitFor([&] {
      std::istringstream lines(Err());
      std::pair<uint64_t, uint64_t> last, last_but_one;  // messages a second, in flight
      for (std::string line; std::getline(lines, line);) {
        unsigned long rate = 0, in_flight = 0;
        if (std::sscanf(line.c_str(), "%lu messages/s %*f GB/s %lu in flight", &rate, &in_flight) ==
            2) {
          last_but_one = std::exchange(last, {rate, in_flight});
        }
      }
      return last.first == 0 && last.second != 0 && last.second == last_but_one.second;
    }));
  }

  uint64_t NumberInRow(const std::string& name) const {
    const std::string out = Out();
    const size_t at = out.find("\n" + name + " ");
    return at == std::string::npos ? 0 : std::stoull(out.substr(at + 1 + name.size()));
  }

  // The run came to its end without what `killed` workers had in their hands: at most one message
  // each, and exactly what the summary names is missing in the output.
  void ExpectOnlyWhatIsNamedIsMissing(ChildProcess& run, const std::string& input,
                                      OutputPipe& output, uint64_t killed) {
    output.Drain();
    const std::optional<ChildExit> exit = run.Wait(absl::Seconds(120));
    ASSERT_TRUE(exit.has_value()) << "hangs: " << Err();
    const uint64_t lost = NumberInRow("messages lost");
    EXPECT_LE(lost, killed) << Out();
    EXPECT_EQ(NumberInRow("workers killed"), killed) << Out() << Err();
    EXPECT_EQ(*exit, ChildExit::Code(lost == 0 ? 0 : 2)) << Out() << Err();
    EXPECT_THAT(Out(), HasSubstr("blocks still held     0"));
    EXPECT_THAT(Out(), HasSubstr("objects left          0"));
    EXPECT_THAT(
        Out(), HasSubstr(lost == 0 ? "(as read)"
                                   : "(NOT as read: without " + std::to_string(lost) + " message"));
    std::string expected = ReadFile(input);
    std::vector<std::pair<size_t, size_t>> losses;  // offset and bytes
    std::istringstream lines(Out());
    for (std::string line; std::getline(lines, line);) {
      unsigned long bytes = 0, offset = 0;
      if (std::sscanf(line.c_str(), "  lost number %*u, %lu bytes from offset %lu", &bytes,
                      &offset) == 2 ||
          std::sscanf(line.c_str(), "  lost numbers %*u to %*u, %lu bytes from offset %lu", &bytes,
                      &offset) == 2) {
        losses.emplace_back(offset, bytes);
      }
    }
    for (size_t i = losses.size(); i-- > 0;) expected.erase(losses[i].first, losses[i].second);
    EXPECT_TRUE(output.text() == expected) << Out();
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
                                                {"--carrier=pigeon"},
                                                {"--channel-depth=1001"},
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

TEST_F(PipelineTest, LosesAtMostWhatAKilledWorkerHadInItsHands) {
  const std::string input = MakeInput(30'000'000);
  OutputPipe output((folder_ / "output").string());
  ChildProcess run = Start({"--input=" + input, "--output=" + output.path(), "--segment-size=8MiB",
                            "--message-size=16KiB", "--channel-depth=4"});
  const Processes processes = AwaitProcesses(run, output, 2);
  kill(processes.workers[0], SIGKILL);
  ExpectOnlyWhatIsNamedIsMissing(run, input, output, 1);
  EXPECT_THAT(Err(), HasSubstr("was killed by signal 9"));
}

TEST_F(PipelineTest, StartsNewWorkersForAllThatWereKilled) {
  const std::string input = MakeInput(30'000'000);
  OutputPipe output((folder_ / "output").string());
  ChildProcess run =
      Start({"--input=" + input, "--output=" + output.path(), "--segment-size=8MiB",
             "--message-size=16KiB", "--channel-depth=4", "--workers=3", "--restart-workers"});
  const Processes processes = AwaitProcesses(run, output, 3);
  AwaitStandstill();
  for (pid_t worker : processes.workers) kill(worker, SIGKILL);
  ExpectOnlyWhatIsNamedIsMissing(run, input, output, 3);
  // Each had one in its hands, and each is named with its worker.
  EXPECT_EQ(NumberInRow("messages lost"), 3u) << Out();
  for (pid_t worker : processes.workers) {
    EXPECT_THAT(Out(), HasSubstr("(pid " + std::to_string(worker) + ")"));
  }
}

TEST_F(PipelineTest, GoesOnWhenSeveralWorkersAreKilledOneOfThemStopped) {
  const std::string input = MakeInput(30'000'000);
  OutputPipe output((folder_ / "output").string());
  ChildProcess run = Start({"--input=" + input, "--output=" + output.path(), "--segment-size=8MiB",
                            "--message-size=16KiB", "--channel-depth=4", "--workers=4"});
  const Processes processes = AwaitProcesses(run, output, 4);
  kill(processes.workers[1], SIGSTOP);
  kill(processes.workers[1], SIGKILL);
  kill(processes.workers[3], SIGKILL);
  ExpectOnlyWhatIsNamedIsMissing(run, input, output, 2);
}

TEST_F(PipelineTest, WaitsForWhatAStoppedWorkerHasWhenAnotherWasKilled) {
  const std::string input = MakeInput(30'000'000);
  OutputPipe output((folder_ / "output").string());
  ChildProcess run = Start({"--input=" + input, "--output=" + output.path(), "--segment-size=8MiB",
                            "--message-size=16KiB", "--channel-depth=4"});
  const Processes processes = AwaitProcesses(run, output, 2);
  AwaitStandstill();
  kill(processes.workers[0], SIGSTOP);
  kill(processes.workers[1], SIGKILL);
  // All that can come has come.
  const size_t before = Err().size();
  output.Drain([&] { return Err().find(" 0 messages/s", before) != std::string::npos; });
  kill(processes.workers[0], SIGCONT);
  ExpectOnlyWhatIsNamedIsMissing(run, input, output, 1);
  EXPECT_EQ(NumberInRow("messages lost"), 1u) << Out();
}

TEST_F(PipelineTest, EndsAndSaysSoWhenAllWorkersAreKilled) {
  OutputPipe output((folder_ / "output").string());
  ChildProcess run = Start({"--bytes=100GiB", "--output=" + output.path(), "--segment-size=8MiB",
                            "--message-size=64KiB"});
  const Processes processes = AwaitProcesses(run, output, 2);
  for (pid_t worker : processes.workers) kill(worker, SIGKILL);
  EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(1));
  EXPECT_THAT(Err(), HasSubstr("all workers were killed"));
  EXPECT_THAT(Out(), HasSubstr("objects left          0"));
}

TEST_F(PipelineTest, SaysSoWhenTheReaderOrTheWriterIsKilled) {
  for (const std::string victim : {"reader", "writer"}) {
    OutputPipe output((folder_ / victim).string());
    ChildProcess run = Start({"--bytes=100GiB", "--output=" + output.path(), "--segment-size=8MiB",
                              "--message-size=64KiB"});
    const Processes processes = AwaitProcesses(run, output, 2);
    kill(victim == "reader" ? processes.reader : processes.writer, SIGKILL);
    EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(1));
    EXPECT_THAT(Err(), HasSubstr(victim + ": "));
    EXPECT_THAT(Err(), HasSubstr("was killed by signal 9"));
    EXPECT_THAT(Out(), HasSubstr("objects left          0"));
  }
}

TEST_F(PipelineTest, EndsInOrderWhenTheProcessThatStartedAllIsKilled) {
  OutputPipe output((folder_ / "output").string());
  ChildProcess run = Start({"--bytes=100GiB", "--output=" + output.path(), "--segment-size=8MiB",
                            "--message-size=64KiB"});
  const Processes processes = AwaitProcesses(run, output, 2);
  EXPECT_THAT(session_.Objects(), Not(IsEmpty()));
  run.Kill(SIGKILL);
  EXPECT_TRUE(WaitFor([&] { return session_.Objects().empty(); }));
}

TEST_F(PipelineTest, CarriesHandlesThroughZeroMqAsWell) {
  const std::string input = MakeInput(5'000'000);
  const std::string output = (folder_ / "output").string();
  ChildProcess run = Start({"--input=" + input, "--output=" + output, "--segment-size=8MiB",
                            "--message-size=64KiB", "--carrier=ipc"});
  EXPECT_EQ(run.Wait(absl::Seconds(60)), ChildExit::Code(0)) << Err();
  EXPECT_TRUE(ReadFile(input) == ReadFile(output));
}

}  // namespace
}  // namespace handoff::pipeline

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  handoff::pipeline::program = std::filesystem::absolute(argc > 1 ? argv[1] : "pipeline").string();
  return RUN_ALL_TESTS();
}

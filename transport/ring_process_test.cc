// SPDX-License-Identifier: Apache-2.0
// Sockets of ring:// addresses whose processes are killed.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

// HANDOFF_STORM_SECONDS lengthens the storm.
absl::Duration StormLength() {
  const char* const seconds = std::getenv("HANDOFF_STORM_SECONDS");
  return seconds == nullptr ? absl::Milliseconds(1500) : absl::Seconds(std::atoi(seconds));
}

class RingProcessTest : public SessionFixture {
 protected:
  static SocketResult SendNumber(Transport& transport, Socket& socket, uint64_t number,
                                 size_t size_bytes = sizeof(number)) {
    AllocateOptions options;
    options.deadline = Soon();
    auto message = transport.Allocate(size_bytes, options);
    if (!message.ok()) return SocketResult::kUnusable;
    std::memcpy(message->mutable_bytes().data(), &number, sizeof(number));
    return socket.Send(*std::move(message), Soon());
  }
  static uint64_t NumberIn(const Message& message) {
    uint64_t number = ~uint64_t{0};
    if (message.size() >= sizeof(number)) std::memcpy(&number, message.data(), sizeof(number));
    return number;
  }
  static std::string DescribeUsage(Transport& transport) {
    const SegmentUsage usage = transport.Usage();
    std::string text = std::to_string(usage.used_blocks) + " blocks used, sent by the dead " +
                       std::to_string(usage.nobodys_blocks);
    for (const uint32_t member : usage.TopHolders(4)) {
      text += "; member " + std::to_string(member) + ": held " +
              std::to_string(usage.members[member].held_blocks) + ", sent " +
              std::to_string(usage.members[member].sent_blocks);
    }
    return text;
  }
  static bool AllFree(Transport& transport) { return transport.Usage().used_blocks == 0; }
};

TEST_F(RingProcessTest, ReceivesEverythingThatAKilledSenderHasSent) {
  std::mt19937 random(17);
  for (int round = 0; round < 8; ++round) {
    ProcessSignal ready;
    ChildProcess child = ChildProcess::Start([&] {
      auto transport = OpenTransport();
      auto push = Connect(*transport, Pattern::kPush, "ring://data");
      ready.Signal();
      for (uint64_t i = 0;; ++i) {
        if (SendNumber(*transport, *push, i) != SocketResult::kOk) return 1;
      }
    });
    auto transport = OpenTransport();
    auto pull = Bind(*transport, Pattern::kPull, "ring://data");
    ASSERT_TRUE(ready.Wait());
    absl::SleepFor(absl::Microseconds(random() % 20'000));
    child.Kill();
    ASSERT_TRUE(child.Wait().has_value());
    uint64_t next = 0;
    Message message;
    ASSERT_TRUE(WaitFor([&] {
      while (pull->TryReceive(&message) == SocketResult::kOk) {
        EXPECT_EQ(NumberIn(message), next);
        ++next;
      }
      return pull->Statistics().connected_peers == 0 && AllFree(*transport);
    }));
  }
}

TEST_F(RingProcessTest, SendsWhatAKilledReceiverHasNotTakenToAnother) {
  std::mt19937 random(18);
  for (int round = 0; round < 8; ++round) {
    ProcessSignal ready;
    ChildProcess child = ChildProcess::Start([&] {
      auto transport = OpenTransport();
      auto pull = Connect(*transport, Pattern::kPull, "ring://data");
      ready.Signal();
      Message message;
      for (;;) {
        if (pull->Receive(&message, Soon()) != SocketResult::kOk) return 1;
      }
    });
    auto transport = OpenTransport();
    auto push = Bind(*transport, Pattern::kPush, "ring://data");
    ASSERT_TRUE(ready.Wait());
    uint64_t sent = 0;
    const Deadline until = Deadline::After(absl::Microseconds(random() % 10'000));
    while (!until.expired()) {
      ASSERT_EQ(SendNumber(*transport, *push, sent++), SocketResult::kOk);
    }
    child.Kill();
    ASSERT_TRUE(child.Wait().has_value());
    // The sender does nothing any more: what is left comes from its regular work.
    auto pull = Connect(*transport, Pattern::kPull, "ring://data");
    // One more, which has no room as long as a whole ring comes back and nobody receives.
    Message last;
    ASSERT_EQ(transport->TryAllocate(sizeof(sent), &last), AllocateResult::kOk);
    std::memcpy(last.mutable_bytes().data(), &sent, sizeof(sent));
    ++sent;
    bool all_sent = false;
    // Everything but what the killed one has taken arrives, each once. The last one may be faster
    // than those that have to come back first.
    std::set<uint64_t> seen;
    Message message;
    EXPECT_TRUE(WaitFor([&] {
      all_sent = all_sent || push->TrySend(std::move(last)) == SocketResult::kOk;
      while (pull->TryReceive(&message) == SocketResult::kOk) {
        EXPECT_TRUE(seen.insert(NumberIn(message)).second) << NumberIn(message);
      }
      return AllFree(*transport);
    })) << DescribeUsage(*transport);
    EXPECT_EQ(seen.count(sent - 1), 1u);
    if (!seen.empty()) {
      EXPECT_EQ(*seen.rbegin() - *seen.begin() + 1, seen.size()) << "a gap";
    }
  }
}

TEST_F(RingProcessTest, LosesNothingWhileASubscriberOfEachPolicyIsKilled) {
  for (const SlowPolicy policy :
       {SlowPolicy::kBlock, SlowPolicy::kDropNewest, SlowPolicy::kDropOldest}) {
    ProcessSignal ready;
    SocketOptions options;
    options.slow_policy = policy;
    options.receive_high_water_mark = 16;
    ChildProcess child = ChildProcess::Start([&] {
      auto transport = OpenTransport();
      auto slow = Connect(*transport, Pattern::kSubscribe, "ring://data", options);
      ready.Signal();
      pause();
      return 0;
    });
    auto transport = OpenTransport();
    auto publish = Bind(*transport, Pattern::kPublish, "ring://data");
    options.slow_policy = SlowPolicy::kBlock;
    options.receive_high_water_mark = 1000;
    auto good = Connect(*transport, Pattern::kSubscribe, "ring://data", options);
    ASSERT_TRUE(ready.Wait());
    ASSERT_TRUE(WaitFor([&] { return publish->Statistics().connected_peers >= 1; }));
    std::thread killer([&] {
      absl::SleepFor(absl::Milliseconds(20));
      child.Kill();
    });
    for (uint64_t i = 0; i < 200; ++i) {
      ASSERT_EQ(SendNumber(*transport, *publish, i), SocketResult::kOk);
    }
    killer.join();
    ASSERT_TRUE(child.Wait().has_value());
    Message message;
    for (uint64_t i = 0; i < 200; ++i) {
      ASSERT_EQ(good->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_EQ(NumberIn(message), i);
    }
    message.Release();
    EXPECT_TRUE(WaitFor([&] { return AllFree(*transport); }));
  }
}

// What a process does with sockets; in a child, which dies on the way.
void UseSockets(
    Transport& transport,
    const std::function<std::unique_ptr<Socket>(Pattern, const std::string&)>& connect) {
  const auto send = [&](Socket& socket, size_t size_bytes) {
    Message message;
    HANDOFF_CHECK(transport.TryAllocate(size_bytes, &message) == AllocateResult::kOk);
    (void)socket.TrySend(std::move(message));
  };
  auto push = connect(Pattern::kPush, "ring://in");
  auto pull = connect(Pattern::kPull, "ring://out");
  auto publish = connect(Pattern::kPublish, "ring://pub");
  for (int i = 0; i < 3; ++i) {
    send(*push, 100);
    send(*publish, 100);
    Message message;
    if (pull->Receive(&message, Deadline::After(absl::Seconds(10))) != SocketResult::kOk) return;
  }
  send(*push, 1 << 20);
}

TEST_F(RingProcessTest, IsWholeAfterAKillAtEveryPoint) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  // The points are found in a child, which tells them by a pipe.
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const auto run = [&] {
    auto transport = OpenTransport();
    UseSockets(*transport, [&](Pattern pattern, const std::string& address) {
      return Connect(*transport, pattern, address);
    });
  };
  size_t kills = 0;
  // The other side of all that: it answers until the child has gone.
  const auto serve = [&](ChildProcess& child, const std::string& point) {
    SCOPED_TRACE(point);
    auto transport = OpenTransport();
    auto pull = Bind(*transport, Pattern::kPull, "ring://in");
    auto push = Bind(*transport, Pattern::kPush, "ring://out");
    SocketOptions options;
    options.receive_high_water_mark = 2;
    options.slow_policy = SlowPolicy::kDropOldest;
    auto a = Bind(*transport, Pattern::kSubscribe, "ring://pub", options);
    Message message;
    std::optional<ChildExit> exit;
    ASSERT_TRUE(WaitFor([&] {
      while (pull->TryReceive(&message) == SocketResult::kOk) {
      }
      while (a->TryReceive(&message) == SocketResult::kOk) {
      }
      if (transport->TryAllocate(50, &message) == AllocateResult::kOk) {
        (void)push->TrySend(std::move(message));
      }
      exit = child.Wait(absl::ZeroDuration());
      return exit.has_value();
    }));
    message.Release();
    // What is passed only if the other side is quick is not passed every time.
    const bool killed = !point.empty() && *exit == ChildExit::Signal(SIGKILL);
    if (!killed) {
      EXPECT_EQ(*exit, ChildExit::Code(0));
    }
    kills += killed ? 1 : 0;
    push.reset();
    ASSERT_TRUE(WaitFor([&] {
      while (pull->TryReceive(&message) == SocketResult::kOk) {
      }
      while (a->TryReceive(&message) == SocketResult::kOk) {
      }
      message.Release();
      return AllFree(*transport) && pull->Statistics().connected_peers == 0 &&
             a->Statistics().connected_peers == 0;
    }));
  };
  {
    ChildProcess child = ChildProcess::Start([&] {
      CountCrashPoints();
      run();
      for (const auto& [name, times] : CrashPointsPassed()) {
        const std::string line = std::string(name) + "\n";
        if (write(pipe_ends[1], line.data(), line.size()) < 0) return 1;
      }
      return 0;
    });
    serve(child, "");
  }
  close(pipe_ends[1]);
  std::string text(65536, '\0');
  text.resize(
      static_cast<size_t>(std::max<ssize_t>(read(pipe_ends[0], text.data(), text.size()), 0)));
  close(pipe_ends[0]);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const std::string point = text.substr(begin, end - begin);
    begin = end + 1;
    const bool ours = point.rfind("ring", 0) == 0 || point.rfind("share", 0) == 0 ||
                      point.rfind("reference", 0) == 0;
    if (!ours) continue;
    const size_t before = kills;
    for (int tries = 0; tries < 10 && kills == before; ++tries) {
      ChildProcess child = ChildProcess::Start([&] {
        ArmCrashPoint(point);
        run();
        return 0;
      });
      serve(child, point);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GE(kills, 10u);
}

// A farm: one sender, workers that are killed all the time, one sink.
class Farm {
 public:
  static constexpr int kWorkers = 4;
  static constexpr uint64_t kFewKills = 5;

  // Runs in a process of one thread: starts workers, kills and replaces them for `length`, and
  // then until `enough` was signalled and some were killed; then tells how many it has killed. With
  // `end`, kills the last ones.
  static int Run(const std::function<void()>& work, absl::Duration length, ProcessSignal& enough,
                 ProcessSignal& end, int report) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const pid_t nursery = getpid();
    std::mt19937 random(static_cast<uint32_t>(nursery));
    std::vector<pid_t> workers(kWorkers, -1);
    const Deadline until = Deadline::After(length);
    const Deadline given_up = Deadline::After(length + absl::Seconds(20));
    uint64_t kills = 0;
    for (bool is_enough = false;;) {
      for (pid_t& worker : workers) {
        if (worker != -1) continue;
        worker = fork();
        if (worker == 0) {
          prctl(PR_SET_PDEATHSIG, SIGKILL);
          if (getppid() == nursery) work();
          _exit(0);
        }
      }
      is_enough = is_enough || enough.Wait(absl::ZeroDuration());
      if (until.expired() && ((is_enough && kills > kFewKills) || given_up.expired())) break;
      absl::SleepFor(absl::Microseconds(2'000 + random() % 20'000));
      pid_t& victim = workers[random() % workers.size()];
      kill(victim, SIGKILL);
      waitpid(victim, nullptr, 0);
      victim = -1;
      ++kills;
    }
    if (write(report, &kills, sizeof(kills)) != sizeof(kills)) return 1;
    const bool told = end.Wait(absl::Seconds(60));
    for (const pid_t worker : workers) {
      kill(worker, SIGKILL);
      waitpid(worker, nullptr, 0);
    }
    return told ? 0 : 1;
  }
};

TEST_F(RingProcessTest, AccountsForEveryMessageOfAFarmWhoseWorkersAreKilled) {
  constexpr uint64_t kFewMessages = 1000;
  int report[2];
  ASSERT_EQ(pipe(report), 0);
  ProcessSignal enough;
  ProcessSignal end;
  ChildProcess nursery = ChildProcess::Start([&] {
    return Farm::Run(
        [&] {
          auto transport = OpenTransport();
          auto pull = Connect(*transport, Pattern::kPull, "ring://work");
          auto push = Connect(*transport, Pattern::kPush, "ring://done");
          Message message;
          while (pull->Receive(&message, Deadline::Infinite()) == SocketResult::kOk) {
            if (push->Send(std::move(message), Deadline::Infinite()) != SocketResult::kOk) return;
          }
        },
        StormLength(), enough, end, report[1]);
  });
  close(report[1]);
  auto source = OpenTransport();
  auto sink = OpenTransport();
  auto push = Bind(*source, Pattern::kPush, "ring://work");
  auto pull = Bind(*sink, Pattern::kPull, "ring://done");
  std::atomic<bool> storm{true};
  std::atomic<uint64_t> sent{0};
  std::thread sender([&] {
    std::mt19937 random(1);
    while (storm.load()) {
      const size_t size_bytes = random() % 16 == 0 ? 100'000 : 64;
      if (SendNumber(*source, *push, sent.load(), size_bytes) != SocketResult::kOk) {
        ADD_FAILURE() << "sending failed";
        return;
      }
      sent.fetch_add(1);
    }
  });
  std::atomic<bool> done{false};
  std::vector<uint8_t> seen;
  uint64_t received = 0;
  uint64_t twice = 0;
  std::thread receiver([&] {
    Message message;
    bool is_enough = false;
    while (!done.load()) {
      if (pull->Receive(&message, Deadline::After(absl::Milliseconds(20))) != SocketResult::kOk) {
        continue;
      }
      const uint64_t number = NumberIn(message);
      if (number >= seen.size()) seen.resize(number + 1'000'000);
      if (seen[number]++ != 0) ++twice;
      if (++received > kFewMessages && !is_enough) {
        is_enough = true;
        enough.Signal();
      }
    }
  });
  uint64_t kills = 0;
  EXPECT_EQ(read(report[0], &kills, sizeof(kills)), static_cast<ssize_t>(sizeof(kills)));
  close(report[0]);
  storm = false;
  sender.join();
  // Everything is at the sink, or was in the hands of a killed worker.
  EXPECT_TRUE(WaitFor([&] {
    return push->Statistics().messages_sent == sent.load() && AllFree(*source);
  })) << source->Usage().used_blocks;
  done = true;
  receiver.join();
  end.Signal();
  EXPECT_EQ(nursery.Wait(), ChildExit::Code(0));
  // We are alone, also without those that had joined and not yet connected, and leave nothing
  // behind.
  Message message;
  EXPECT_TRUE(WaitFor([&] {
    return pull->TryReceive(&message) == SocketResult::kWouldBlock &&
           pull->Statistics().connected_peers == 0 && push->Statistics().connected_peers == 0;
  }));
  EXPECT_EQ(twice, 0u);
  EXPECT_LE(sent.load() - received, kills);
  EXPECT_GT(kills, Farm::kFewKills);
  EXPECT_GT(received, kFewMessages);
  std::cout << "sent " << sent.load() << ", received " << received << ", kills " << kills << "\n";
}

}  // namespace
}  // namespace handoff

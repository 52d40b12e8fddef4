// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "allocator/member.h"
#include "allocator/session_audit.h"
#include "allocator/testing/kill_harness.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "transport/message.h"
#include "transport/socket.h"
#include "transport/transport.h"

// What sockets do, killed and stopped everywhere: by default at some of the instructions, at every
// one in the target that says so. On ZeroMQ addresses only the calling thread is stepped.

namespace handoff {
namespace {

constexpr uint64_t kSamples = 4;
constexpr uint64_t kSegmentBytes = uint64_t{4} << 20;

Deadline Soon() { return Deadline::After(absl::Seconds(20)); }

class SocketStage;

struct SocketScript {
  std::string name;
  bool zeromq = false;
  // Blocks that may be under way nowhere for ever when the victim dies: what it had posted on a
  // ZeroMQ address.
  uint64_t may_lose = 0;

  std::function<void(SocketStage&)> prepare = [](SocketStage&) {};
  // In the victim.
  std::function<void(SocketStage&)> set_up = [](SocketStage&) {};
  std::function<void(SocketStage&)> operate;

  friend void PrintTo(const SocketScript& script, std::ostream* out) { *out << script.name; }
};

// A session with a transport that survives, in the test's process, and a process with another that
// is killed.
class SocketStage : public KillStage {
 public:
  explicit SocketStage(const SocketScript& script)
      : script_(script),
        survivor(Open()),
        own_pull(Bind(*survivor, Pattern::kPull, "ring://own")),
        own_push(Connect(*survivor, Pattern::kPush, "ring://own")) {
    script_.prepare(*this);
  }
  ~SocketStage() override { Finish(); }

  void SetUpVictim() override {
    victim_has_started_.Signal();
    victim = Open();
    script_.set_up(*this);
  }
  void Operate() override { script_.operate(*this); }

  void UseWhileStopped() override {
    Message message;
    for (const auto& inlet : inlets) {
      while (inlet->TryReceive(&message) == SocketResult::kOk) {
      }
    }
    message.Release();
    // Over a channel that is there: whoever stands still while it changes the session's objects
    // holds up others who want that, as to join or to bind.
    EXPECT_EQ(own_push->Send(Filled(*survivor, 5000), Soon()), SocketResult::kOk);
    EXPECT_EQ(own_pull->Receive(&message, Soon()), SocketResult::kOk);
    std::vector<Message> parts(3);
    for (Message& part : parts) part = Filled(*survivor, 100);
    EXPECT_EQ(own_push->SendParts(parts, Soon()), SocketResult::kOk);
    EXPECT_EQ(own_pull->ReceiveParts(&parts, Soon()), SocketResult::kOk);
  }
  // What passes in other threads of ZeroMQ is not the same every time.
  bool OthersMayBeFaster() const override { return script_.zeromq; }

  void ExpectWhole() override {
    Finish();
    if (::testing::Test::HasFailure()) return;
    ExpectAllFree();
    survivor.reset();
    EXPECT_TRUE(session_.Objects().empty());
  }

  std::unique_ptr<Transport> Open() const {
    TransportOptions options;
    options.session = session_.name();
    options.shm_dir = session_.directory();
    options.segment_size_bytes = kSegmentBytes;
    auto transport = Transport::Open(options);
    HANDOFF_CHECK(transport.ok()) << transport.status().ToString();
    return *std::move(transport);
  }
  std::string Address() const {
    return script_.zeromq ? "ipc://@" + session_.name() : "ring://data";
  }
  static std::unique_ptr<Socket> Make(Transport& transport, Pattern pattern) {
    auto socket = transport.CreateSocket(pattern);
    HANDOFF_CHECK(socket.ok()) << socket.status().ToString();
    return *std::move(socket);
  }
  static std::unique_ptr<Socket> Bind(Transport& transport, Pattern pattern,
                                      const std::string& address) {
    auto socket = Make(transport, pattern);
    const absl::Status status = socket->Bind(address);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return socket;
  }
  static std::unique_ptr<Socket> Connect(Transport& transport, Pattern pattern,
                                         const std::string& address) {
    auto socket = Make(transport, pattern);
    const absl::Status status = socket->Connect(address);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return socket;
  }
  static Message Filled(Transport& transport, size_t size_bytes) {
    auto message = transport.Allocate(size_bytes, {.deadline = Soon()});
    HANDOFF_CHECK(message.ok()) << message.status().ToString();
    return *std::move(message);
  }

  // For `prepare`: the survivor receives, or sends `count` messages of `parts` parts as soon as
  // there is somebody to send to.
  void Listen(Pattern pattern) { inlets.push_back(Bind(*survivor, pattern, Address())); }
  void SendOnceVictimListens(Pattern pattern, int count, size_t parts) {
    sender_socket_ = Bind(*survivor, pattern, Address());
    sender_ = std::thread([this, count, parts] {
      // A child that is forked while this thread has a lock would wait for it for ever.
      while (!victim_has_started_.Wait(absl::Milliseconds(5))) {
        if (end_sending_.load(std::memory_order_acquire)) return;
      }
      for (int i = 0; i < count && !end_sending_.load(std::memory_order_acquire); ++i) {
        std::vector<Message> all;
        for (size_t part = 0; part < parts; ++part) all.push_back(Filled(*survivor, 1000));
        while (!end_sending_.load(std::memory_order_acquire)) {
          const Deadline deadline = Deadline::After(absl::Milliseconds(5));
          const SocketResult result = parts == 1 ? sender_socket_->Send(std::move(all[0]), deadline)
                                                 : sender_socket_->SendParts(all, deadline);
          if (result == SocketResult::kOk) break;
        }
      }
    });
  }

  const SocketScript script_;
  const TestSession session_{TestSessionOptions{.own_directory = true}};
  std::unique_ptr<Transport> survivor;
  std::unique_ptr<Socket> own_pull;
  std::unique_ptr<Socket> own_push;
  std::vector<std::unique_ptr<Socket>> inlets;  // of the survivor

  // In the victim.
  std::unique_ptr<Transport> victim;
  std::unique_ptr<Socket> socket;
  std::vector<Message> messages;

 private:
  // The survivor takes what there is and closes its sockets.
  void Finish() {
    end_sending_.store(true, std::memory_order_release);
    if (sender_.joinable()) sender_.join();
    Message message;
    for (const auto& inlet : inlets) {
      while (inlet->Receive(&message, Deadline::After(absl::Milliseconds(
                                          script_.zeromq ? 5 : 0))) == SocketResult::kOk) {
      }
    }
    message.Release();
    sender_socket_.reset();
    inlets.clear();
    own_pull.reset();
    own_push.reset();
  }

  // Each kind of send and receive from `other` to `one`.
  static void UseEverything(Transport& one, Transport& other, const std::string& name) {
    const auto pull = Bind(one, Pattern::kPull, "ring://" + name);
    const auto push = Connect(other, Pattern::kPush, "ring://" + name);
    Message message;
    EXPECT_EQ(push->Send(Filled(other, 5000), Soon()), SocketResult::kOk);
    EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    std::vector<Message> parts(3);
    for (Message& part : parts) part = Filled(other, 100);
    EXPECT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
    EXPECT_EQ(pull->ReceiveParts(&parts, Soon()), SocketResult::kOk);
    EXPECT_EQ(parts.size(), 3u);
    parts.clear();
    const auto publish = Bind(other, Pattern::kPublish, "ring://" + name + "p");
    const auto first = Connect(one, Pattern::kSubscribe, "ring://" + name + "p");
    const auto second = Connect(one, Pattern::kSubscribe, "ring://" + name + "p");
    EXPECT_EQ(publish->Send(Filled(other, 100), Soon()), SocketResult::kOk);
    EXPECT_EQ(first->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_EQ(second->Receive(&message, Soon()), SocketResult::kOk);
    // Stays unread.
    EXPECT_EQ(push->Send(Filled(other, 5000), Soon()), SocketResult::kOk);
  }

  void ExpectAllFree() {
    SessionOptions options;
    options.names.session = session_.name();
    options.names.shm_dir = session_.directory();
    options.main_segment_bytes = kSegmentBytes;
    options.watch_period = absl::Seconds(1);
    auto observer = Member::Join(std::move(options));
    ASSERT_TRUE(observer.ok()) << observer.status().ToString();
    for (const bool used_again : {false, true}) {
      if (used_again) UseEverything(*survivor, *Open(), "after");
      std::vector<std::string> problems;
      const bool well = WaitFor(
          [&] {
            (*observer)->ReclaimDead();
            problems = AuditSession(**observer);
            const SegmentUsage usage = (*observer)->main_segment().Usage();
            if (usage.used_blocks > script_.may_lose) {
              problems.push_back(DescribeShortage(usage, 0));
            }
            for (uint32_t row = 0; row < (*observer)->rings().rings_used(); ++row) {
              if ((*observer)->rings().LookAtRing(row).has_value()) {
                problems.push_back("a ring is open");
              }
            }
            return problems.empty();
          },
          absl::Seconds(10));
      if (well) continue;
      for (const std::string& line : problems) ADD_FAILURE() << line;
      return;
    }
    Message all;
    if (script_.may_lose > 0) return;
    EXPECT_TRUE(WaitFor([&] {
      return survivor->TryAllocate(kSegmentBytes, &all) == AllocateResult::kOk;
    })) << "not everything can be allocated";
  }

  ProcessSignal victim_has_started_;
  std::atomic<bool> end_sending_{false};
  std::unique_ptr<Socket> sender_socket_;  // used by sender_
  std::thread sender_;
};

// The victim sends `parts` messages of `size_bytes`, as one.
SocketScript Sends(std::string name, size_t parts, size_t size_bytes) {
  return {.name = std::move(name),
          .prepare = [=](SocketStage& stage) { stage.Listen(Pattern::kPull); },
          .set_up =
              [=](SocketStage& stage) {
                stage.socket = SocketStage::Connect(*stage.victim, Pattern::kPush, stage.Address());
                // The first one finds the receivers.
                EXPECT_EQ(stage.socket->Send(SocketStage::Filled(*stage.victim, 10), Soon()),
                          SocketResult::kOk);
                for (size_t i = 0; i < parts; ++i) {
                  stage.messages.push_back(SocketStage::Filled(*stage.victim, size_bytes));
                }
              },
          .operate =
              [](SocketStage& stage) {
                const SocketResult result =
                    stage.messages.size() == 1
                        ? stage.socket->Send(std::move(stage.messages[0]), Soon())
                        : stage.socket->SendParts(stage.messages, Soon());
                EXPECT_EQ(result, SocketResult::kOk);
              }};
}

// The victim receives a message of `parts` parts.
SocketScript Receives(std::string name, size_t parts) {
  return {
      .name = std::move(name),
      .prepare = [=](SocketStage& stage) { stage.SendOnceVictimListens(Pattern::kPush, 2, parts); },
      .set_up =
          [=](SocketStage& stage) {
            stage.socket = SocketStage::Connect(*stage.victim, Pattern::kPull, stage.Address());
            // After the first the second is there, or comes.
            EXPECT_EQ(stage.socket->ReceiveParts(&stage.messages, Soon()), SocketResult::kOk);
          },
      .operate =
          [](SocketStage& stage) {
            EXPECT_EQ(stage.socket->ReceiveParts(&stage.messages, Soon()), SocketResult::kOk);
            stage.messages.clear();
          }};
}

SocketScript Attaches(std::string name, bool binds) {
  return {.name = std::move(name),
          .prepare =
              [=](SocketStage& stage) {
                if (!binds) stage.Listen(Pattern::kPull);
              },
          .set_up =
              [](SocketStage& stage) {
                stage.socket = SocketStage::Make(*stage.victim, Pattern::kPush);
              },
          .operate =
              [=](SocketStage& stage) {
                const std::string address = stage.Address();
                EXPECT_TRUE(
                    (binds ? stage.socket->Bind(address) : stage.socket->Connect(address)).ok());
                // Which opens the ring.
                if (!binds) (void)stage.socket->TrySend(SocketStage::Filled(*stage.victim, 10));
              }};
}

// The victim closes its end with something unread in it.
SocketScript Closes(std::string name, bool sends) {
  SocketScript script = sends ? Sends(std::move(name), 1, 100) : Receives(std::move(name), 1);
  if (sends) {
    script.set_up = [set_up = script.set_up](SocketStage& stage) {
      set_up(stage);
      EXPECT_EQ(stage.socket->Send(std::move(stage.messages[0]), Soon()), SocketResult::kOk);
    };
  }
  script.operate = [](SocketStage& stage) { stage.socket->Close(); };
  return script;
}

std::vector<SocketScript> Scripts() {
  std::vector<SocketScript> scripts;
  scripts.push_back(Sends("Send", 1, 100));
  scripts.push_back(Sends("SendLarge", 1, 1 << 20));
  scripts.push_back(Sends("SendParts", 5, 1000));
  scripts.push_back(Receives("Receive", 1));
  scripts.push_back(Receives("ReceiveParts", 5));
  scripts.push_back(Attaches("Bind", true));
  scripts.push_back(Attaches("Connect", false));
  scripts.push_back(Closes("CloseASender", true));
  scripts.push_back(Closes("CloseAReceiver", false));
  // Several subscribers, which connect to the victim.
  scripts.push_back(
      {.name = "PublishToThree",
       .prepare =
           [](SocketStage& stage) {
             for (int i = 0; i < 3; ++i) {
               stage.inlets.push_back(
                   SocketStage::Connect(*stage.survivor, Pattern::kSubscribe, stage.Address()));
             }
           },
       .set_up =
           [](SocketStage& stage) {
             stage.socket = SocketStage::Bind(*stage.victim, Pattern::kPublish, stage.Address());
             EXPECT_TRUE(WaitFor([&] {
               (void)stage.socket->TrySend(SocketStage::Filled(*stage.victim, 10));
               return stage.socket->Statistics().connected_peers == 3;
             }));
             stage.messages.push_back(SocketStage::Filled(*stage.victim, 1000));
           },
       .operate =
           [](SocketStage& stage) {
             EXPECT_EQ(stage.socket->Send(std::move(stage.messages[0]), Soon()), SocketResult::kOk);
           }});
  const size_t rings = scripts.size();
  for (size_t i = 0; i < rings; ++i) {
    const std::string& name = scripts[i].name;
    if (name == "PublishToThree" || name == "SendParts" || name == "ReceiveParts") continue;
    SocketScript script = scripts[i];
    script.name = "ZeroMq" + name;
    script.zeromq = true;
    script.may_lose = 4;
    scripts.push_back(std::move(script));
  }
  return scripts;
}

class SocketKillTest : public ::testing::TestWithParam<SocketScript> {
 protected:
  static KillStageFactory Make() {
    return [] { return std::make_unique<SocketStage>(GetParam()); };
  }
  // Stepping through an operation takes long: once for all tests of it.
  static InstructionTrace* Trace() {
    static std::map<std::string, InstructionTrace> traces;
    return &traces[GetParam().name];
  }
};

TEST_P(SocketKillTest, LeavesNothingBehindAfterARealKill) {
  Report(GetParam().name, "instructions to be killed after",
         ExpectWholeAfterKills(Make(), kSamples, Trace()));
}

TEST_P(SocketKillTest, LeavesNothingBehindAfterAKillAtACrashPoint) {
  Report(GetParam().name, "passes of crash points", ExpectWholeAfterCrashPoints(Make(), 1));
}

TEST_P(SocketKillTest, DelaysNobodyWhileItStandsStill) {
  Report(GetParam().name, "instructions to stand still after",
         ExpectWholeAfterStops(Make(), kSamples / 2, Trace()));
}

INSTANTIATE_TEST_SUITE_P(Socket, SocketKillTest, ::testing::ValuesIn(Scripts()),
                         [](const auto& script) { return script.param.name; });

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "allocator/testing/kill_harness.h"
#include "base/crash_point.h"
#include "base/mutation.h"
#include "base/testing/wait_for.h"
#include "transport/message.h"
#include "transport/socket.h"
#include "transport/socket_options.h"
#include "transport/testing/socket_stage.h"

// What sockets do, killed and stopped everywhere: by default at some of the instructions, at every
// one in the target that says so. On ZeroMQ addresses only the calling thread is stepped.

namespace handoff {
namespace {

constexpr uint64_t kSamples = 4;

// In the victim, for set_up: the socket, connected to what the survivor has bound.
void ConnectVictim(SocketStage& stage, Pattern pattern) {
  stage.socket = SocketStage::Connect(*stage.victim, pattern, stage.Address());
}
void Send(SocketStage& stage, size_t size_bytes = 10) {
  EXPECT_EQ(stage.socket->Send(SocketStage::Filled(*stage.victim, size_bytes), SocketStage::Soon()),
            SocketResult::kOk);
}
void Receive(SocketStage& stage) {
  EXPECT_EQ(stage.socket->ReceiveParts(&stage.messages, SocketStage::Soon()), SocketResult::kOk);
}
void ReceiveAndRelease(SocketStage& stage) {
  Receive(stage);
  stage.messages.clear();
}
void SendMessages(SocketStage& stage) {
  const SocketResult result =
      stage.messages.size() == 1
          ? stage.socket->Send(std::move(stage.messages[0]), SocketStage::Soon())
          : stage.socket->SendParts(stage.messages, SocketStage::Soon());
  EXPECT_EQ(result, SocketResult::kOk);
}
void Close(SocketStage& stage) { stage.socket->Close(); }

// The victim sends `parts` messages of `size_bytes`, as one.
SocketScript Sends(std::string name, Pattern from, Pattern to, size_t parts, size_t size_bytes) {
  return {.name = std::move(name),
          .prepare = [=](SocketStage& stage) { stage.Listen(to); },
          .set_up =
              [=](SocketStage& stage) {
                ConnectVictim(stage, from);
                Send(stage);  // the first one finds the receivers
                stage.messages = SocketStage::FilledParts(*stage.victim, parts, size_bytes);
              },
          .operate = SendMessages};
}

// The victim receives a message of `parts` parts.
SocketScript Receives(std::string name, Pattern from, Pattern to, size_t parts) {
  return {.name = std::move(name),
          .prepare = [=](SocketStage& stage) { stage.SendOnceVictimListens(from, 2, parts); },
          .set_up =
              [=](SocketStage& stage) {
                ConnectVictim(stage, to);
                Receive(stage);  // after the first the second is there, or comes
              },
          .operate = ReceiveAndRelease};
}

SocketScript Attaches(std::string name, Pattern pattern, bool binds) {
  const Pattern other = pattern == Pattern::kPush ? Pattern::kPull : Pattern::kPush;
  return {.name = std::move(name),
          .prepare =
              [=](SocketStage& stage) {
                if (!binds) stage.Listen(other);
              },
          .set_up =
              [=](SocketStage& stage) { stage.socket = SocketStage::Make(*stage.victim, pattern); },
          .operate =
              [=](SocketStage& stage) {
                const std::string address = stage.Address();
                EXPECT_TRUE(
                    (binds ? stage.socket->Bind(address) : stage.socket->Connect(address)).ok());
                // Which opens the ring.
                if (!binds && pattern == Pattern::kPush) {
                  (void)stage.socket->TrySend(SocketStage::Filled(*stage.victim, 10));
                }
              }};
}

// Instead of the script's operation the victim closes its socket.
SocketScript Closes(std::string name, SocketScript script) {
  script.name = std::move(name);
  script.operate = Close;
  return script;
}

std::vector<SocketScript> OneToOne() {
  constexpr Pattern kPush = Pattern::kPush;
  constexpr Pattern kPull = Pattern::kPull;
  constexpr Pattern kPair = Pattern::kPair;
  std::vector<SocketScript> scripts;
  scripts.push_back(Sends("Send", kPush, kPull, 1, 100));
  scripts.push_back(Sends("SendLarge", kPush, kPull, 1, 1 << 20));
  scripts.push_back(Sends("SendParts", kPush, kPull, 5, 1000));
  scripts.push_back(Receives("Receive", kPush, kPull, 1));
  scripts.push_back(Receives("ReceiveParts", kPush, kPull, 5));
  scripts.push_back(Attaches("Bind", kPush, true));
  scripts.push_back(Attaches("BindAReceiver", kPull, true));
  scripts.push_back(Attaches("Connect", kPush, false));
  // With something unread in the ring.
  SocketScript sent = Sends("", kPush, kPull, 1, 100);
  sent.set_up = [set_up = sent.set_up](SocketStage& stage) {
    set_up(stage);
    SendMessages(stage);
  };
  scripts.push_back(Closes("CloseASender", std::move(sent)));
  scripts.push_back(Closes("CloseAReceiver", Receives("", kPush, kPull, 1)));
  scripts.push_back(Sends("SendToAPair", kPair, kPair, 1, 100));
  scripts.push_back(Sends("SendPartsToAPair", kPair, kPair, 5, 1000));
  scripts.push_back(Receives("ReceiveFromAPair", kPair, kPair, 1));
  scripts.push_back(Closes("CloseAPair", Receives("", kPair, kPair, 1)));
  return scripts;
}

std::vector<SocketScript> RequestsAndReplies() {
  const auto answer = [](SocketStage& stage) { stage.AnswerRequests(); };
  const auto ask = [](SocketStage& stage) { stage.AskOnceVictimListens(2); };
  // The first round finds the other side.
  const auto have_asked = [](SocketStage& stage) {
    ConnectVictim(stage, Pattern::kRequest);
    Send(stage);
    Receive(stage);
    stage.messages = SocketStage::FilledParts(*stage.victim, 1, 1000);
  };
  const auto have_answered = [](SocketStage& stage) {
    ConnectVictim(stage, Pattern::kReply);
    Receive(stage);
    SendMessages(stage);
  };
  std::vector<SocketScript> scripts;
  scripts.push_back(
      {.name = "SendARequest", .prepare = answer, .set_up = have_asked, .operate = SendMessages});
  scripts.push_back({.name = "ReceiveAReply",
                     .prepare = answer,
                     .set_up =
                         [=](SocketStage& stage) {
                           have_asked(stage);
                           SendMessages(stage);
                         },
                     .operate = ReceiveAndRelease});
  scripts.push_back(Closes("CloseAnAsker", scripts.back()));
  scripts.push_back({.name = "ReceiveARequest",
                     .prepare = ask,
                     .set_up = have_answered,
                     .operate = ReceiveAndRelease});
  scripts.push_back({.name = "SendAReply",
                     .prepare = ask,
                     .set_up =
                         [=](SocketStage& stage) {
                           have_answered(stage);
                           Receive(stage);
                         },
                     .operate = SendMessages});
  scripts.push_back(Closes("CloseOneThatOwesAReply", scripts.back()));
  return scripts;
}

// Several subscribers, which connect to the victim.
SocketScript Publishes(std::string name, size_t parts, const SocketOptions& options) {
  return {.name = std::move(name),
          .prepare =
              [=](SocketStage& stage) {
                for (int i = 0; i < 3; ++i) {
                  stage.inlets.push_back(SocketStage::Connect(*stage.survivor, Pattern::kSubscribe,
                                                              stage.Address(), options));
                }
              },
          .set_up =
              [=](SocketStage& stage) {
                stage.socket = SocketStage::Bind(*stage.victim, Pattern::kPublish, stage.Address());
                EXPECT_TRUE(WaitFor([&] {
                  (void)stage.socket->TrySend(SocketStage::Filled(*stage.victim, 10));
                  return stage.socket->Statistics().connected_peers == 3;
                }));
                stage.messages = SocketStage::FilledParts(*stage.victim, parts, 1000);
              },
          .operate = SendMessages};
}

SocketScript Subscribes(std::string name, size_t parts) {
  return {.name = std::move(name),
          .prepare = [=](SocketStage& stage) { stage.PublishUntilVictimEnds(parts); },
          .set_up =
              [](SocketStage& stage) {
                ConnectVictim(stage, Pattern::kSubscribe);
                Receive(stage);
              },
          .operate = ReceiveAndRelease};
}

std::vector<SocketScript> OneToMany() {
  std::vector<SocketScript> scripts;
  scripts.push_back(Publishes("PublishToThree", 1, {}));
  scripts.push_back(Publishes("PublishPartsToThree", 5, {}));
  scripts.push_back(Closes("CloseAPublisher", Publishes("", 1, {})));
  // Each has room for one, which it does not take.
  SocketOptions options;
  options.receive_high_water_mark = 1;
  options.slow_policy = SlowPolicy::kDropOldest;
  scripts.push_back(Publishes("PublishInsteadOfTheOldest", 1, options));
  scripts.back().takes_back = true;
  scripts.push_back(Subscribes("ReceiveWhatIsPublished", 1));
  scripts.push_back(Subscribes("ReceivePublishedParts", 5));
  scripts.push_back(Closes("CloseASubscriber", Subscribes("", 1)));
  return scripts;
}

std::vector<SocketScript> Scripts() {
  std::vector<SocketScript> scripts = OneToOne();
  for (SocketScript& script : RequestsAndReplies()) scripts.push_back(std::move(script));
  // One to many needs rings.
  const size_t on_both = scripts.size();
  for (SocketScript& script : OneToMany()) scripts.push_back(std::move(script));
  for (size_t i = 0; i < on_both; ++i) {
    SocketScript script = scripts[i];
    script.may_lose = script.name.find("Parts") == std::string::npos ? 4 : 12;
    script.name = "ZeroMq" + script.name;
    script.zeromq = true;
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

// The tests above can fail: they do where a step is wrong.
class SocketKillTestItself : public ::testing::TestWithParam<WrongStep> {};

TEST_P(SocketKillTestItself, FailsIfAStepIsWrong) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "no wrong steps in this build";
  for (const SocketScript& script : Scripts()) {
    if (script.name != GetParam().script) continue;
    ExpectSeen(GetParam(), [&script] { return std::make_unique<SocketStage>(script); });
    return;
  }
  FAIL() << "no operation " << GetParam().script;
}

INSTANTIATE_TEST_SUITE_P(
    Socket, SocketKillTestItself,
    ::testing::Values(WrongStep{"NoRelabel", Mutation::kNoRelabel, "Send", false, "is lost"},
                      WrongStep{"BundleWordOnly", Mutation::kBundleWordOnly, "ReceiveParts", true,
                                "which does not know of it"},
                      WrongStep{"ShareBeforeLive", Mutation::kShareBeforeLive, "PublishToThree",
                                false, "which does not know of it"}),
    [](const auto& step) { return step.param.name; });

}  // namespace
}  // namespace handoff

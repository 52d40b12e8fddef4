// SPDX-License-Identifier: Apache-2.0
#include "transport/socket.h"

#include <signal.h>
#include <sys/time.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class SocketTest : public SessionFixture {
 protected:
  std::unique_ptr<Transport> transport_ = OpenTransport();
};

TEST_F(SocketTest, CarriesTheBlockItselfFromOneMemberToAnother) {
  auto other = OpenTransport();
  auto push = Bind(*transport_, Pattern::kPush, Address());
  auto pull = Connect(*other, Pattern::kPull, Address());
  for (const size_t size : {size_t{1}, size_t{64}, size_t{5000}, size_t{3} << 20}) {
    Message sent = Filled(*transport_, size, size);
    std::byte* const sender_data = sent.mutable_bytes().data();
    ASSERT_EQ(push->Send(std::move(sent), Soon()), SocketResult::kOk);
    EXPECT_TRUE(sent.empty());  // NOLINT(bugprone-use-after-move): documented
    Message received;
    ASSERT_EQ(pull->Receive(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(received, size, size));
    // Two mappings of the same byte.
    sender_data[0] = std::byte{0x5A};
    EXPECT_EQ(received.bytes()[0], std::byte{0x5A});
  }
  EXPECT_EQ(transport_->Usage().used_blocks, 0u);
}

TEST_F(SocketTest, CarriesEmptyMessages) {
  auto push = Bind(*transport_, Pattern::kPush, "inproc://empty");
  auto pull = Connect(*transport_, Pattern::kPull, "inproc://empty");
  ASSERT_EQ(push->Send(Message(), Soon()), SocketResult::kOk);
  ASSERT_EQ(push->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  Message message = Filled(*transport_, 20, 2);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(message.empty());
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 10, 1));
}

TEST_F(SocketTest, ReleasesWhatWasInTheMessageThatItReceivesInto) {
  auto push = Bind(*transport_, Pattern::kPush, "inproc://twice");
  auto pull = Connect(*transport_, Pattern::kPull, "inproc://twice");
  Message message;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(push->Send(Filled(*transport_, 100, 7), Soon()), SocketResult::kOk);
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  }
  EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
  EXPECT_TRUE(message.empty());
  EXPECT_EQ(transport_->Usage().used_blocks, 0u);
}

TEST_F(SocketTest, SendsBothWaysInAPair) {
  auto left = Bind(*transport_, Pattern::kPair, Address());
  auto right = Connect(*transport_, Pattern::kPair, Address());
  Message message;
  ASSERT_EQ(left->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  ASSERT_EQ(right->Receive(&message, Soon()), SocketResult::kOk);
  ASSERT_EQ(right->Send(std::move(message), Soon()), SocketResult::kOk);
  ASSERT_EQ(left->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 10, 1));
}

TEST_F(SocketTest, DealsToEveryReceiverInTurn) {
  auto push = Bind(*transport_, Pattern::kPush, Address());
  auto first = Connect(*transport_, Pattern::kPull, Address());
  auto second = Connect(*transport_, Pattern::kPull, Address());
  ASSERT_TRUE(WaitFor([&] { return push->Statistics().connected_peers == 2; }));
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(push->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  }
  Message message;
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(first->Receive(&message, Soon()), SocketResult::kOk);
    ASSERT_EQ(second->Receive(&message, Soon()), SocketResult::kOk);
  }
  EXPECT_EQ(first->TryReceive(&message), SocketResult::kWouldBlock);
  EXPECT_EQ(second->TryReceive(&message), SocketResult::kWouldBlock);
}

TEST_F(SocketTest, BindsAndConnectsSeveralAddresses) {
  auto pull = Bind(*transport_, Pattern::kPull, Address("a"));
  ASSERT_TRUE(pull->Bind("inproc://b").ok());
  auto push = Connect(*transport_, Pattern::kPush, "inproc://b");
  auto other = Connect(*transport_, Pattern::kPush, Address("a"));
  ASSERT_TRUE(other->Connect("inproc://b").ok());
  ASSERT_EQ(push->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  ASSERT_EQ(other->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  ASSERT_EQ(other->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  Message message;
  for (int i = 0; i < 3; ++i) ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
}

TEST_F(SocketTest, PicksAFreePortAndTellsWhich) {
  auto pull = Bind(*transport_, Pattern::kPull, "tcp://127.0.0.1:*");
  const std::string endpoint = pull->LastEndpoint();
  EXPECT_THAT(endpoint, ::testing::MatchesRegex("tcp://127\\.0\\.0\\.1:[0-9]+"));
  auto push = Connect(*transport_, Pattern::kPush, endpoint);
  ASSERT_EQ(push->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_EQ(push->Statistics().connected_peers, 1u);

  auto any = Bind(*transport_, Pattern::kPull, "tcp://*:*");
  EXPECT_THAT(any->LastEndpoint(), ::testing::MatchesRegex("tcp://0\\.0\\.0\\.0:[0-9]+"));
  const absl::Status taken = any->Bind(endpoint);
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists) << taken.ToString();
}

TEST_F(SocketTest, LeavesTheMessageWithTheCallerWhenNobodyIsThere) {
  auto push = Bind(*transport_, Pattern::kPush, Address());
  Message message = Filled(*transport_, 100, 3);
  EXPECT_EQ(push->TrySend(std::move(message)), SocketResult::kWouldBlock);
  EXPECT_EQ(push->Send(std::move(message), Deadline::Passed()), SocketResult::kTimedOut);
  EXPECT_EQ(push->Send(std::move(message), Deadline::After(absl::Milliseconds(20))),
            SocketResult::kTimedOut);
  EXPECT_TRUE(IsFilled(message, 100, 3));  // NOLINT(bugprone-use-after-move): documented
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
  EXPECT_GE(push->Statistics().send_blocked, absl::Milliseconds(20));
  // And it can still be sent.
  auto pull = Connect(*transport_, Pattern::kPull, Address());
  ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 100, 3));
}

TEST_F(SocketTest, WaitsWhereTheHighWaterMarkIsReachedAndGoesOnWhenThereIsRoom) {
  const SocketOptions few{.send_high_water_mark = 4, .receive_high_water_mark = 4};
  auto push = Bind(*transport_, Pattern::kPush, "inproc://few", few);
  auto pull = Connect(*transport_, Pattern::kPull, "inproc://few", few);
  int sent = 0;
  while (push->TrySend(Filled(*transport_, 10, static_cast<uint64_t>(sent))) == SocketResult::kOk) {
    ASSERT_LE(++sent, 8);
  }
  EXPECT_EQ(sent, 8);
  EXPECT_EQ(transport_->Usage().used_blocks, 8u);
  std::thread receiver([&] {
    Message message;
    for (int i = 0; i <= sent; ++i) {
      ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_TRUE(IsFilled(message, 10, static_cast<uint64_t>(i)));
    }
  });
  EXPECT_EQ(push->Send(Filled(*transport_, 10, 8), Soon()), SocketResult::kOk);
  receiver.join();
}

TEST_F(SocketTest, GivesUpAtTheDeadline) {
  auto pull = Bind(*transport_, Pattern::kPull, Address());
  Message message;
  EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
  EXPECT_EQ(pull->Receive(&message, Deadline::Passed()), SocketResult::kTimedOut);
  const Deadline deadline = Deadline::After(absl::Milliseconds(30));
  EXPECT_EQ(pull->Receive(&message, deadline), SocketResult::kTimedOut);
  EXPECT_TRUE(deadline.expired());
  EXPECT_GE(pull->Statistics().receive_blocked, absl::Milliseconds(30));
}

TEST_F(SocketTest, ReturnsFromTheWaitWhenInterruptedAndOnlyOnce) {
  auto pull = Bind(*transport_, Pattern::kPull, Address());
  Message message;
  std::thread interrupter([&] { pull->Interrupt(); });
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  interrupter.join();
  EXPECT_EQ(pull->Receive(&message, Deadline::Passed()), SocketResult::kTimedOut);
}

TEST_F(SocketTest, ReportsAnInterruptionThatCameBeforeTheCallAlsoIfItNeedNotWait) {
  auto push = Bind(*transport_, Pattern::kPush, "inproc://early");
  auto pull = Connect(*transport_, Pattern::kPull, "inproc://early");
  push->Interrupt();
  push->Interrupt();
  Message message = Filled(*transport_, 10, 1);
  EXPECT_EQ(push->Send(std::move(message), Soon()), SocketResult::kInterrupted);
  EXPECT_TRUE(IsFilled(message, 10, 1));  // NOLINT(bugprone-use-after-move): documented
  pull->Interrupt();
  EXPECT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kInterrupted);
  EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
}

TEST_F(SocketTest, IsInterruptedWithItsTransportUntilThatResumes) {
  auto pull = Bind(*transport_, Pattern::kPull, Address());
  Message message;
  std::thread interrupter([&] { transport_->Interrupt(); });
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  interrupter.join();
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  transport_->Resume();
  EXPECT_EQ(pull->Receive(&message, Deadline::Passed()), SocketResult::kTimedOut);
}

Socket* interrupted_by_signal = nullptr;

TEST_F(SocketTest, IsInterruptedByASignalHandlerOfItsOwnThread) {
  auto pull = Bind(*transport_, Pattern::kPull, Address());
  interrupted_by_signal = pull.get();
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { interrupted_by_signal->Interrupt(); };
  ASSERT_EQ(sigaction(SIGALRM, &action, &before), 0);
  const itimerval soon{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 10'000}};
  ASSERT_EQ(setitimer(ITIMER_REAL, &soon, nullptr), 0);
  Message message;
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  sigaction(SIGALRM, &before, nullptr);
}

TEST_F(SocketTest, LosesNoWakeUpWhateverTheMomentOfAMessage) {
  auto push = Bind(*transport_, Pattern::kPair, Address());
  auto pull = Connect(*transport_, Pattern::kPair, Address());
  std::thread echo([&] {
    Message message;
    while (pull->Receive(&message, Soon()) == SocketResult::kOk && !message.empty()) {
      ASSERT_EQ(pull->Send(std::move(message), Soon()), SocketResult::kOk);
    }
  });
  Message message = Filled(*transport_, 10, 1);
  for (int i = 0; i < 3000; ++i) {
    ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
    ASSERT_EQ(push->Receive(&message, Soon()), SocketResult::kOk);
  }
  ASSERT_EQ(push->Send(Message(), Soon()), SocketResult::kOk);
  echo.join();
}

TEST_F(SocketTest, RefusesWhatItsPatternOrStateDoesNotAllow) {
  auto push = transport_->CreateSocket(Pattern::kPush);
  auto pull = transport_->CreateSocket(Pattern::kPull);
  ASSERT_TRUE(push.ok() && pull.ok());
  Message message;
  EXPECT_EQ((*push)->Send(Message(), Soon()), SocketResult::kNoAddress);
  EXPECT_EQ((*pull)->Receive(&message, Soon()), SocketResult::kNoAddress);
  EXPECT_EQ((*pull)->LastEndpoint(), "");
  ASSERT_TRUE((*push)->Bind(Address()).ok());
  ASSERT_TRUE((*pull)->Connect(Address()).ok());
  EXPECT_EQ((*push)->Receive(&message, Soon()), SocketResult::kWrongPattern);
  EXPECT_EQ((*push)->TryReceive(&message), SocketResult::kWrongPattern);
  EXPECT_EQ((*pull)->Send(Message(), Soon()), SocketResult::kWrongPattern);
  (*push)->Close();
  (*push)->Close();
  message = Filled(*transport_, 10, 1);
  EXPECT_EQ((*push)->TrySend(std::move(message)), SocketResult::kClosed);
  EXPECT_TRUE(IsFilled(message, 10, 1));  // NOLINT(bugprone-use-after-move): documented
  EXPECT_EQ((*push)->Bind(Address()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(SocketTest, RefusesAMessageOfAnotherTransport) {
  auto other = OpenTransport();
  auto push = Bind(*transport_, Pattern::kPush, "inproc://x");
  auto pull = Connect(*transport_, Pattern::kPull, "inproc://x");
  Message message = Filled(*other, 10, 1);
  EXPECT_EQ(push->Send(std::move(message), Soon()), SocketResult::kForeignMessage);
  EXPECT_TRUE(IsFilled(message, 10, 1));  // NOLINT(bugprone-use-after-move): documented
}

TEST_F(SocketTest, NamesWhatIsWrongWithAnAddress) {
  const auto expect = [&](Pattern pattern, const std::string& address, absl::StatusCode code,
                          const std::string& text) {
    auto socket = transport_->CreateSocket(pattern);
    ASSERT_TRUE(socket.ok());
    const absl::Status status = (*socket)->Bind(address);
    EXPECT_EQ(status.code(), code) << status.ToString();
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect(Pattern::kPush, "udp://x", absl::StatusCode::kInvalidArgument, "ring://name, ipc://path");
  expect(Pattern::kPublish, Address(), absl::StatusCode::kInvalidArgument, "ring://");
  expect(Pattern::kReply, Address(), absl::StatusCode::kInvalidArgument, "ring://");
  expect(Pattern::kPush, "tcp://256.1.1.1:5", absl::StatusCode::kNotFound, "tcp://256.1.1.1:5");
  expect(Pattern::kPush, "ipc:///no/such/folder/socket", absl::StatusCode::kNotFound,
         "/no/such/folder");
}

TEST_F(SocketTest, KeepsNothingOfAnAddressThatWasRefused) {
  auto socket = transport_->CreateSocket(Pattern::kPull);
  ASSERT_TRUE(socket.ok());
  EXPECT_FALSE((*socket)->Bind("ipc:///no/such/folder/socket").ok());
  Message message;
  EXPECT_EQ((*socket)->Receive(&message, Soon()), SocketResult::kNoAddress);
  EXPECT_TRUE((*socket)->Bind(Address()).ok());
}

TEST_F(SocketTest, DoesNotStealAPathThatIsBound) {
  auto first = Bind(*transport_, Pattern::kPull, FileAddress("taken"));
  auto second = transport_->CreateSocket(Pattern::kPull);
  ASSERT_TRUE(second.ok());
  const absl::Status status = (*second)->Bind(FileAddress("taken"));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status.ToString();
  // The first one has heard nothing of it.
  auto push = Connect(*transport_, Pattern::kPush, FileAddress("taken"));
  ASSERT_EQ(push->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  Message message;
  ASSERT_EQ(first->Receive(&message, Soon()), SocketResult::kOk);
  // And leaves no file behind.
  first->Close();
  EXPECT_TRUE((*second)->Bind(FileAddress("taken")).ok());
}

TEST_F(SocketTest, CountsWhatGoesThrough) {
  auto push = Bind(*transport_, Pattern::kPush, Address());
  EXPECT_EQ(push->Statistics().connected_peers, 0u);
  auto pull = Connect(*transport_, Pattern::kPull, Address());
  Message message;
  for (const size_t size : {10, 0, 300}) {
    ASSERT_EQ(push->Send(Filled(*transport_, size, 1), Soon()), SocketResult::kOk);
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  }
  EXPECT_EQ(push->Statistics().messages_sent, 3u);
  EXPECT_EQ(push->Statistics().bytes_sent, 310u);
  EXPECT_EQ(push->Statistics().connected_peers, 1u);
  EXPECT_EQ(pull->Statistics().messages_received, 3u);
  EXPECT_EQ(pull->Statistics().bytes_received, 310u);
  EXPECT_EQ(pull->Statistics().connected_peers, 1u);
  push->Close();
  EXPECT_TRUE(WaitFor([&] { return pull->Statistics().connected_peers == 0; }));
  EXPECT_EQ(push->Statistics().messages_sent, 3u);
  EXPECT_EQ(push->Statistics().connected_peers, 0u);
}

TEST_F(SocketTest, RefusesOptionsOutOfRange) {
  EXPECT_EQ(transport_->CreateSocket(Pattern::kPush, {.send_high_water_mark = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SocketTest, IsOfNoUseInAForkedChildAndTheParentIsNotAffected) {
  auto push = Bind(*transport_, Pattern::kPush, FileAddress("fork"));
  auto pull = Connect(*transport_, Pattern::kPull, FileAddress("fork"));
  Message message = Filled(*transport_, 10, 1);
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(push->Send(std::move(message), Soon()), SocketResult::kUnusable);
    Message received;
    EXPECT_EQ(pull->Receive(&received, Soon()), SocketResult::kUnusable);
    EXPECT_EQ(pull->TryReceive(&received), SocketResult::kUnusable);
    EXPECT_EQ(pull->Bind(Address()).code(), absl::StatusCode::kFailedPrecondition);
    pull->Interrupt();
    push->Close();
    push.reset();
    pull.reset();
    transport_.reset();
    return 0;
  });
  ASSERT_EQ(child.Wait(), ChildExit::Code(0));
  ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 10, 1));
}

}  // namespace
}  // namespace handoff

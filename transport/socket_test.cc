// SPDX-License-Identifier: Apache-2.0
#include "transport/socket.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
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

TEST_F(SocketTest, HasAddressesOfIpv6OnlyIfAskedFor) {
  SocketOptions options = PatientOptions();
  auto refused = *transport_->CreateSocket(Pattern::kPull, options);
  EXPECT_FALSE(refused->Bind("tcp://[::1]:*").ok());
  options.ipv6 = true;
  auto pull = *transport_->CreateSocket(Pattern::kPull, options);
  const absl::Status bound = pull->Bind("tcp://[::1]:*");
  if (!bound.ok()) GTEST_SKIP() << "no IPv6 here: " << bound.ToString();
  auto push = Connect(*transport_, Pattern::kPush, pull->LastEndpoint(), options);
  ASSERT_EQ(push->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
  Message message;
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 10, 1));
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
  expect(Pattern::kSubscribe, Address(), absl::StatusCode::kInvalidArgument, "ring://");
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

TEST_F(SocketTest, RefusesOptionsOutOfRange) {
  EXPECT_EQ(transport_->CreateSocket(Pattern::kPush, {.send_high_water_mark = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace handoff

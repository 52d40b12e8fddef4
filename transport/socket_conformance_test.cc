// SPDX-License-Identifier: Apache-2.0
// What every carrier promises, whatever the scheme of the address. A new carrier adds a line to
// kCarriers; what one of them does not have is said there and nowhere else.
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "allocator/bundle.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

struct CarrierCase {
  const char* scheme;
  bool between_members = true;  // else within one transport
  bool has_publish = true;      // PUBLISH and SUBSCRIBE
  bool exact_capacity = true;   // the high-water marks are all the room there is
};
std::ostream& operator<<(std::ostream& out, const CarrierCase& carrier) {
  return out << carrier.scheme;
}

constexpr CarrierCase kRing{.scheme = "ring"};
constexpr CarrierCase kIpc{.scheme = "ipc", .has_publish = false, .exact_capacity = false};
constexpr CarrierCase kTcp{.scheme = "tcp", .has_publish = false, .exact_capacity = false};
constexpr CarrierCase kInproc{
    .scheme = "inproc", .between_members = false, .has_publish = false, .exact_capacity = false};
constexpr CarrierCase kCarriers[] = {kRing, kIpc, kTcp, kInproc};

// A port of TCP that is free now.
uint16_t FreePort() {
  const UniqueFd probe(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(probe.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  return ntohs(address.sin_port);
}

// Those of them that have something.
std::vector<CarrierCase> With(bool CarrierCase::*feature) {
  std::vector<CarrierCase> chosen;
  std::copy_if(std::begin(kCarriers), std::end(kCarriers), std::back_inserter(chosen),
               [&](const CarrierCase& carrier) { return carrier.*feature; });
  return chosen;
}
std::vector<CarrierCase> Without(bool CarrierCase::*feature) {
  std::vector<CarrierCase> chosen;
  std::copy_if(std::begin(kCarriers), std::end(kCarriers), std::back_inserter(chosen),
               [&](const CarrierCase& carrier) { return !(carrier.*feature); });
  return chosen;
}
std::string NameOf(const ::testing::TestParamInfo<CarrierCase>& info) { return info.param.scheme; }

class SocketConformanceTest : public SessionFixture,
                              public ::testing::WithParamInterface<CarrierCase> {
 protected:
  SocketConformanceTest() {
    if (GetParam().between_members) owned_two_ = OpenTransport();
    two_ = owned_two_ == nullptr ? one_.get() : owned_two_.get();
  }

  // An address of the carrier that nobody else uses; the same for the same name.
  std::string At(const std::string& name = "a") {
    const std::string scheme = GetParam().scheme;
    if (scheme == "ipc") return Address(name);
    if (scheme != "tcp") return scheme + "://" + session_.name() + "." + name;
    for (const auto& [known, address] : ports_) {
      if (known == name) return address;
    }
    ports_.emplace_back(name, "tcp://127.0.0.1:" + std::to_string(FreePort()));
    return ports_.back().second;
  }

  static SocketOptions Capacity(uint32_t messages) {
    SocketOptions options = PatientOptions();
    options.send_high_water_mark = messages;
    options.receive_high_water_mark = messages;
    options.kernel_send_buffer_bytes = 4096;
    options.kernel_receive_buffer_bytes = 4096;
    return options;
  }

  // A small message that is a number.
  static Message Number(Transport& transport, uint64_t number) {
    Message message = *transport.Allocate(sizeof(number), {.deadline = Soon()});
    std::memcpy(message.mutable_bytes().data(), &number, sizeof(number));
    return message;
  }
  static uint64_t NumberIn(const Message& message) {
    uint64_t number = ~uint64_t{0};
    if (message.size() == sizeof(number)) std::memcpy(&number, message.data(), sizeof(number));
    return number;
  }
  static SocketResult SendNumber(Transport& transport, Socket& socket, uint64_t number) {
    return socket.Send(Number(transport, number), Soon());
  }
  static uint64_t ReceiveNumber(Socket& socket) {
    Message message;
    EXPECT_EQ(socket.Receive(&message, Soon()), SocketResult::kOk);
    return NumberIn(message);
  }
  static bool NothingComes(Socket& socket) {
    Message message;
    return socket.TryReceive(&message) == SocketResult::kWouldBlock;
  }
  // ZeroMQ does not tell of peers within one transport.
  static bool HasPeers(const Socket& socket, uint32_t count) {
    if (!GetParam().between_members) return true;
    return WaitFor([&] { return socket.Statistics().connected_peers == count; });
  }
  static bool NothingInUse(Transport& transport) {
    return WaitFor([&] { return transport.Usage().used_blocks == 0; });
  }

  // Parts that are numbers, every third one empty.
  static std::vector<Message> Parts(Transport& transport, size_t count) {
    std::vector<Message> parts;
    for (size_t i = 0; i < count; ++i) {
      parts.push_back(i % 3 == 2 ? Message() : Number(transport, i));
    }
    return parts;
  }
  static bool AreParts(const std::vector<Message>& parts, size_t count) {
    if (parts.size() != count) return false;
    for (size_t i = 0; i < count; ++i) {
      if (i % 3 == 2 ? !parts[i].empty() : NumberIn(parts[i]) != i) return false;
    }
    return true;
  }

  std::unique_ptr<Transport> one_ = OpenTransport();
  std::unique_ptr<Transport> owned_two_;
  Transport* two_;
  std::vector<std::pair<std::string, std::string>> ports_;
};
INSTANTIATE_TEST_SUITE_P(All, SocketConformanceTest, ::testing::ValuesIn(kCarriers), NameOf);

TEST_P(SocketConformanceTest, CarriesTheBlockItself) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  for (const size_t size : {size_t{1}, size_t{64}, size_t{5000}, size_t{3} << 20}) {
    Message sent = Filled(*one_, size, size);
    std::byte* const sender_data = sent.mutable_bytes().data();
    ASSERT_EQ(push->Send(std::move(sent), Soon()), SocketResult::kOk);
    EXPECT_TRUE(sent.empty());  // NOLINT(bugprone-use-after-move): documented
    Message received;
    ASSERT_EQ(pull->Receive(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(received, size, size));
    // The same byte, in whichever mapping.
    sender_data[0] = std::byte{0x5A};
    EXPECT_EQ(received.bytes()[0], std::byte{0x5A});
  }
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_P(SocketConformanceTest, CarriesEmptyMessagesInTheirPlace) {
  auto pull = Bind(*two_, Pattern::kPull, At());
  auto push = Connect(*one_, Pattern::kPush, At());
  ASSERT_EQ(push->Send(Message(), Soon()), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*one_, *push, 7), SocketResult::kOk);
  Message message = Filled(*two_, 20, 2);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(message.empty());
  EXPECT_EQ(ReceiveNumber(*pull), 7u);
}

TEST_P(SocketConformanceTest, BindsAndConnectsInEitherOrder) {
  for (const bool bind_first : {true, false}) {
    const std::string address = At(bind_first ? "first" : "later");
    auto push =
        bind_first ? Bind(*one_, Pattern::kPush, address) : Connect(*one_, Pattern::kPush, address);
    auto pull =
        bind_first ? Connect(*two_, Pattern::kPull, address) : Bind(*two_, Pattern::kPull, address);
    for (uint64_t i = 0; i < 10; ++i) {
      ASSERT_EQ(SendNumber(*one_, *push, i), SocketResult::kOk);
      EXPECT_EQ(ReceiveNumber(*pull), i);
    }
  }
}

TEST_P(SocketConformanceTest, HasSeveralAddresses) {
  auto pull = Bind(*one_, Pattern::kPull, At("a"));
  ASSERT_TRUE(pull->Bind(At("b")).ok());
  auto a = Connect(*two_, Pattern::kPush, At("a"));
  auto both = Connect(*two_, Pattern::kPush, At("a"));
  ASSERT_TRUE(both->Connect(At("b")).ok());
  ASSERT_TRUE(HasPeers(*a, 1));
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_EQ(SendNumber(*two_, *a, i), SocketResult::kOk);
    ASSERT_EQ(SendNumber(*two_, *both, 100 + i), SocketResult::kOk);
  }
  uint64_t sum = 0;
  for (int i = 0; i < 10; ++i) sum += ReceiveNumber(*pull);
  EXPECT_EQ(sum, 520u);
}

TEST_P(SocketConformanceTest, DealsInTurnToReceiversWithRoom) {
  auto push = Bind(*one_, Pattern::kPush, At(), Capacity(50));
  auto a = Connect(*two_, Pattern::kPull, At(), Capacity(50));
  auto b = Connect(*two_, Pattern::kPull, At(), Capacity(50));
  ASSERT_TRUE(HasPeers(*push, 2));
  for (uint64_t i = 0; i < 10; ++i) ASSERT_EQ(SendNumber(*one_, *push, i), SocketResult::kOk);
  for (uint64_t i = 0; i < 5; ++i) {
    const uint64_t from_a = ReceiveNumber(*a);
    const uint64_t from_b = ReceiveNumber(*b);
    EXPECT_EQ(std::min(from_a, from_b), 2 * i);
    EXPECT_EQ(std::max(from_a, from_b), 2 * i + 1);
  }
  // One that takes nothing does not hold up the other.
  uint64_t taken = 0;
  ASSERT_TRUE(WaitFor([&] {
    (void)push->TrySend(Number(*one_, 1));
    Message message;
    while (b->TryReceive(&message) == SocketResult::kOk) ++taken;
    return taken > 1000;
  }));
}

TEST_P(SocketConformanceTest, TakesFromAllSendersInTurn) {
  auto pull = Bind(*two_, Pattern::kPull, At());
  auto a = Connect(*one_, Pattern::kPush, At());
  auto b = Connect(*one_, Pattern::kPush, At());
  constexpr uint64_t kCount = 200;
  for (uint64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(SendNumber(*one_, *a, i), SocketResult::kOk);
    ASSERT_EQ(SendNumber(*one_, *b, 1000 + i), SocketResult::kOk);
  }
  // All of it is at the receiver, however it came there, once the last of each is.
  uint64_t next_a = 0;
  uint64_t next_b = 1000;
  for (uint64_t i = 0; i < 2 * kCount; ++i) {
    const uint64_t number = ReceiveNumber(*pull);
    EXPECT_EQ(number, number < 1000 ? next_a++ : next_b++);
    if (std::string(GetParam().scheme) == "ring") {
      EXPECT_LE(std::max(next_a, next_b - 1000) - std::min(next_a, next_b - 1000), 1u);
    }
  }
  EXPECT_EQ(next_a, kCount);
  EXPECT_EQ(next_b, 1000 + kCount);
}

TEST_P(SocketConformanceTest, SendsBothWaysInAPairAndForwardsWhatItReceived) {
  auto left = Bind(*one_, Pattern::kPair, At());
  auto right = Connect(*two_, Pattern::kPair, At());
  Message message = Filled(*one_, 5000, 1);
  const uint64_t offset = message.segment_offset();
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(left->Send(std::move(message), Soon()), SocketResult::kOk);
    ASSERT_EQ(right->Receive(&message, Soon()), SocketResult::kOk);
    ASSERT_EQ(right->Send(std::move(message), Soon()), SocketResult::kOk);
    ASSERT_EQ(left->Receive(&message, Soon()), SocketResult::kOk);
  }
  EXPECT_TRUE(IsFilled(message, 5000, 1));
  EXPECT_EQ(message.segment_offset(), offset);
}

TEST_P(SocketConformanceTest, LeavesTheMessageWithTheCallerOnEveryFailure) {
  Message message = Filled(*one_, 100, 3);
  const auto keeps = [&](Socket& socket, const Deadline& deadline, SocketResult expected) {
    EXPECT_EQ(socket.Send(std::move(message), deadline), expected);
    EXPECT_TRUE(IsFilled(message, 100, 3));  // NOLINT(bugprone-use-after-move): documented
    EXPECT_FALSE(message.shared());
    std::vector<Message> one;
    one.push_back(std::move(message));
    EXPECT_EQ(socket.SendParts(one, deadline), expected);
    message = std::move(one[0]);
    EXPECT_TRUE(IsFilled(message, 100, 3));
  };
  auto push = *one_->CreateSocket(Pattern::kPush);
  keeps(*push, Soon(), SocketResult::kNoAddress);
  ASSERT_TRUE(push->Bind(At()).ok());
  EXPECT_EQ(push->TrySend(std::move(message)), SocketResult::kWouldBlock);
  keeps(*push, Deadline::Passed(), SocketResult::kTimedOut);
  keeps(*push, Deadline::After(absl::Milliseconds(5)), SocketResult::kTimedOut);
  one_->Interrupt();
  keeps(*push, Soon(), SocketResult::kInterrupted);
  one_->Resume();
  auto other = OpenTransport();
  auto foreign = Bind(*other, Pattern::kPush, At("foreign"));
  auto taker = Connect(*other, Pattern::kPull, At("foreign"));
  keeps(*foreign, Soon(), SocketResult::kForeignMessage);
  auto pull = Connect(*two_, Pattern::kPull, At());
  keeps(*pull, Soon(), SocketResult::kWrongPattern);
  // And it can still be sent.
  ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 100, 3));
  message = Filled(*one_, 100, 3);
  push->Close();
  push->Close();
  keeps(*push, Soon(), SocketResult::kClosed);
  EXPECT_EQ(one_->Usage().used_blocks, 1u);
}

TEST_P(SocketConformanceTest, NeverWaitsInATry) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Bind(*two_, Pattern::kPull, At("other"));
  std::vector<Message> parts = Parts(*one_, 1);
  // A wait without an end would end the test.
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(push->TrySend(Message()), SocketResult::kWouldBlock);
    EXPECT_EQ(push->TrySendParts(parts), SocketResult::kWouldBlock);
    Message message;
    EXPECT_EQ(pull->TryReceive(&message), SocketResult::kWouldBlock);
    std::vector<Message> received;
    EXPECT_EQ(pull->TryReceiveParts(&received), SocketResult::kWouldBlock);
  }
  EXPECT_EQ(push->Statistics().send_blocked, absl::ZeroDuration());
  EXPECT_EQ(pull->Statistics().receive_blocked, absl::ZeroDuration());
}

TEST_P(SocketConformanceTest, GivesUpAtTheDeadline) {
  auto pull = Bind(*one_, Pattern::kPull, At());
  Message message;
  EXPECT_EQ(pull->Receive(&message, Deadline::Passed()), SocketResult::kTimedOut);
  // What a busy machine takes from the making of a deadline to the wait is not counted: then again.
  constexpr absl::Duration kTime = absl::Milliseconds(30);
  EXPECT_TRUE(WaitFor([&] {
    const absl::Duration before = pull->Statistics().receive_blocked;
    const Deadline deadline = Deadline::After(kTime);
    EXPECT_EQ(pull->Receive(&message, deadline), SocketResult::kTimedOut);
    EXPECT_TRUE(deadline.expired());
    return pull->Statistics().receive_blocked - before >= kTime;
  }));
  auto push = Bind(*two_, Pattern::kPush, At("other"));
  EXPECT_TRUE(WaitFor([&] {
    const absl::Duration before = push->Statistics().send_blocked;
    const Deadline deadline = Deadline::After(kTime);
    EXPECT_EQ(push->Send(Message(), deadline), SocketResult::kTimedOut);
    EXPECT_TRUE(deadline.expired());
    return push->Statistics().send_blocked - before >= kTime;
  }));
}

TEST_P(SocketConformanceTest, IsInterruptedByAnotherThreadOnce) {
  auto pull = Bind(*one_, Pattern::kPull, At());
  Message message;
  for (int i = 0; i < 10; ++i) {
    std::thread interrupter([&] { pull->Interrupt(); });
    EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
    interrupter.join();
    EXPECT_EQ(pull->Receive(&message, Deadline::Passed()), SocketResult::kTimedOut);
  }
  auto push = Connect(*two_, Pattern::kPush, At());
  ASSERT_EQ(SendNumber(*two_, *push, 1), SocketResult::kOk);
  // Before the call, also if that need not wait.
  pull->Interrupt();
  EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kInterrupted);
  EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
}

TEST_P(SocketConformanceTest, IsInterruptedWithItsTransportUntilThatResumes) {
  auto pull = Bind(*one_, Pattern::kPull, At());
  Message message;
  std::thread interrupter([&] { one_->Interrupt(); });
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  interrupter.join();
  EXPECT_EQ(pull->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
  one_->Resume();
  EXPECT_EQ(pull->Receive(&message, Deadline::Passed()), SocketResult::kTimedOut);
}

Socket* interrupted_by_signal = nullptr;

TEST_P(SocketConformanceTest, IsInterruptedByASignalHandlerOfItsOwnThread) {
  auto pull = Bind(*one_, Pattern::kPull, At());
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

TEST_P(SocketConformanceTest, WaitsForRoomAndGoesOnWhenThereIsSome) {
  constexpr uint32_t kCapacity = 8;
  auto push = Bind(*one_, Pattern::kPush, At(), Capacity(kCapacity));
  auto pull = Connect(*two_, Pattern::kPull, At(), Capacity(kCapacity));
  ASSERT_EQ(SendNumber(*one_, *push, 0), SocketResult::kOk);
  uint64_t sent = 1;
  // Full when nothing goes for a while: ZeroMQ moves messages on by and by.
  while (push->Send(Number(*one_, sent), Deadline::After(absl::Milliseconds(20))) ==
         SocketResult::kOk) {
    ASSERT_LE(++sent, 10'000u);
  }
  EXPECT_GE(sent, kCapacity);
  if (GetParam().exact_capacity) {
    EXPECT_EQ(sent, kCapacity);
  }
  const uint64_t total = sent + 100;
  std::thread receiver([&] {
    for (uint64_t i = 0; i < total; ++i) EXPECT_EQ(ReceiveNumber(*pull), i);
  });
  for (; sent < total; ++sent) ASSERT_EQ(SendNumber(*one_, *push, sent), SocketResult::kOk);
  receiver.join();
  EXPECT_TRUE(NothingInUse(*one_));
}

TEST_P(SocketConformanceTest, LosesNoWakeUpWhateverTheMomentOfAMessage) {
  auto left = Bind(*one_, Pattern::kPair, At());
  auto right = Connect(*two_, Pattern::kPair, At());
  std::thread echo([&] {
    Message message;
    while (right->Receive(&message, Soon()) == SocketResult::kOk && !message.empty()) {
      ASSERT_EQ(right->Send(std::move(message), Soon()), SocketResult::kOk);
    }
  });
  Message message = Filled(*one_, 10, 1);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(left->Send(std::move(message), Soon()), SocketResult::kOk);
    ASSERT_EQ(left->Receive(&message, Soon()), SocketResult::kOk);
  }
  ASSERT_EQ(left->Send(Message(), Soon()), SocketResult::kOk);
  echo.join();
}

TEST_P(SocketConformanceTest, RefusesWhatItsPatternOrStateDoesNotAllow) {
  auto push = *one_->CreateSocket(Pattern::kPush);
  auto pull = *two_->CreateSocket(Pattern::kPull);
  Message message;
  EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kNoAddress);
  EXPECT_EQ(pull->LastEndpoint(), "");
  ASSERT_TRUE(push->Bind(At()).ok());
  ASSERT_TRUE(pull->Connect(At()).ok());
  EXPECT_EQ(push->LastEndpoint(), At());
  EXPECT_EQ(pull->LastEndpoint(), At());
  EXPECT_EQ(push->Receive(&message, Soon()), SocketResult::kWrongPattern);
  EXPECT_EQ(push->TryReceive(&message), SocketResult::kWrongPattern);
  std::vector<Message> parts;
  EXPECT_EQ(push->TrySendParts(parts), SocketResult::kPartCount);
  parts.resize(kMaxParts + 1);
  EXPECT_EQ(push->TrySendParts(parts), SocketResult::kPartCount);
  auto second = *two_->CreateSocket(Pattern::kPush);
  const absl::Status taken = second->Bind(At());
  EXPECT_TRUE(absl::IsAlreadyExists(taken)) << taken;
  pull->Close();
  EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kClosed);
  EXPECT_TRUE(absl::IsFailedPrecondition(pull->Bind(At("b"))));
}

TEST_P(SocketConformanceTest, CountsMessagesBytesAndPeers) {
  auto push = Bind(*one_, Pattern::kPush, At());
  EXPECT_EQ(push->Statistics().connected_peers, 0u);
  auto pull = Connect(*two_, Pattern::kPull, At());
  Message message;
  for (const size_t size : {10, 0, 300}) {
    ASSERT_EQ(push->Send(Filled(*one_, size, 1), Soon()), SocketResult::kOk);
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  }
  EXPECT_EQ(push->Statistics().messages_sent, 3u);
  EXPECT_EQ(push->Statistics().bytes_sent, 310u);
  EXPECT_EQ(pull->Statistics().messages_received, 3u);
  EXPECT_EQ(pull->Statistics().bytes_received, 310u);
  EXPECT_EQ(pull->Statistics().stale_handles, 0u);
  EXPECT_TRUE(HasPeers(*push, 1));
  EXPECT_TRUE(HasPeers(*pull, 1));
  push->Close();
  EXPECT_TRUE(HasPeers(*pull, 0));
  EXPECT_EQ(push->Statistics().messages_sent, 3u);
  EXPECT_EQ(push->Statistics().connected_peers, 0u);
}

TEST_P(SocketConformanceTest, CarriesOnePartLikeAMessage) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  std::vector<Message> parts = Parts(*one_, 1);
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  EXPECT_TRUE(parts[0].empty());
  EXPECT_EQ(ReceiveNumber(*pull), 0u);
  ASSERT_EQ(SendNumber(*one_, *push, 0), SocketResult::kOk);
  ASSERT_EQ(pull->ReceiveParts(&parts, Soon()), SocketResult::kOk);
  EXPECT_TRUE(AreParts(parts, 1));
}

TEST_P(SocketConformanceTest, CarriesWhatIsSharedAndNobodyWritesIt) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  Message message = Filled(*one_, 5000, 3);
  auto copy = one_->Share(&message);
  ASSERT_TRUE(copy.ok()) << copy.status();
  ASSERT_EQ(push->Send(*std::move(copy), Soon()), SocketResult::kOk);
  Message received;
  ASSERT_EQ(pull->Receive(&received, Soon()), SocketResult::kOk);
  // Whether by reference or as a copy of its own: what is written here is not seen there.
  EXPECT_TRUE(IsFilled(received, 5000, 3));
  ASSERT_EQ(received.mutable_bytes().size(), 5000u);
  received.mutable_bytes()[0] ^= std::byte{0xFF};
  EXPECT_TRUE(IsFilled(message, 5000, 3));
  received.Release();
  message.Release();
  EXPECT_EQ(one_->Usage().used_blocks, 0u);
}

TEST_P(SocketConformanceTest, IsOfNoUseInAForkedChildAndTheParentIsNotAffected) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  Message message = Filled(*one_, 10, 1);
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(push->Send(std::move(message), Soon()), SocketResult::kUnusable);
    Message received;
    EXPECT_EQ(pull->Receive(&received, Soon()), SocketResult::kUnusable);
    EXPECT_EQ(pull->TryReceive(&received), SocketResult::kUnusable);
    EXPECT_TRUE(absl::IsFailedPrecondition(pull->Bind(At("child"))));
    EXPECT_TRUE(absl::IsFailedPrecondition(one_->Share(&message).status()));
    pull->Interrupt();
    push.reset();
    pull.reset();
    return 0;
  });
  ASSERT_EQ(child.Wait(), ChildExit::Code(0));
  ASSERT_EQ(push->Send(std::move(message), Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 10, 1));
}

// Between members. Within one transport ZeroMQ does not connect again.

class MembersConformanceTest : public SocketConformanceTest {};
INSTANTIATE_TEST_SUITE_P(All, MembersConformanceTest,
                         ::testing::ValuesIn(With(&CarrierCase::between_members)), NameOf);

TEST_P(MembersConformanceTest, MeetsTheNextPeerAfterEitherSideHasLeft) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  ASSERT_EQ(SendNumber(*one_, *push, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pull), 1u);
  pull.reset();
  ASSERT_TRUE(HasPeers(*push, 0));
  // ZeroMQ reports the loss a moment before it takes the peer's queue away; what is sent in between
  // goes with that.
  ASSERT_TRUE(WaitFor([&] { return !push->Ready().send; }));
  pull = Connect(*two_, Pattern::kPull, At());
  ASSERT_EQ(SendNumber(*one_, *push, 2), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pull), 2u);
  push.reset();
  ASSERT_TRUE(HasPeers(*pull, 0));
  push = *one_->CreateSocket(Pattern::kPush);
  ASSERT_TRUE(WaitFor([&] { return push->Bind(At()).ok(); }));
  ASSERT_EQ(SendNumber(*one_, *push, 3), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*pull), 3u);
}

TEST_P(MembersConformanceTest, MeetsTheNextPeerAfterEitherSideWasKilled) {
  owned_two_.reset();
  for (const bool kill_bound : {false, true}) {
    // Another one: a child inherits what the parent has bound and is about to let go of.
    const std::string address = At(kill_bound ? "a" : "b");
    auto pull =
        kill_bound ? Connect(*one_, Pattern::kPull, address) : Bind(*one_, Pattern::kPull, address);
    for (uint64_t round = 0; round < 3; ++round) {
      ChildProcess child = ChildProcess::Start([&] {
        auto transport = OpenTransport();
        auto push = *transport->CreateSocket(Pattern::kPush, PatientOptions());
        // A name that a killed one had is free when it was reclaimed.
        EXPECT_TRUE(WaitFor(
            [&] { return (kill_bound ? push->Bind(address) : push->Connect(address)).ok(); }));
        for (uint64_t i = 0;; ++i) {
          if (SendNumber(*transport, *push, round * 1'000'000 + i) != SocketResult::kOk) return 1;
        }
      });
      for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(ReceiveNumber(*pull), round * 1'000'000 + i);
      child.Kill();
      ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
      // What it had sent comes all the same.
      uint64_t next = round * 1'000'000 + 100;
      ASSERT_TRUE(WaitFor([&] {
        Message message;
        while (pull->TryReceive(&message) == SocketResult::kOk)
          EXPECT_EQ(NumberIn(message), next++);
        return pull->Statistics().connected_peers == 0;
      }));
      Message message;
      while (pull->TryReceive(&message) == SocketResult::kOk) EXPECT_EQ(NumberIn(message), next++);
    }
  }
}

// Many parts.

TEST_P(SocketConformanceTest, CarriesUpToTheMaximumAsOneMessage) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  std::vector<Message> received;
  for (const size_t count : {size_t{1}, size_t{2}, size_t{16}, size_t{kMaxParts}}) {
    std::vector<Message> parts = Parts(*one_, count);
    ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
    for (const Message& part : parts) EXPECT_TRUE(part.empty());
    ASSERT_EQ(pull->ReceiveParts(&received, Soon()), SocketResult::kOk);
    EXPECT_TRUE(AreParts(received, count)) << count;
  }
  received.clear();
  EXPECT_TRUE(NothingInUse(*one_));
}

TEST_P(SocketConformanceTest, TakesThemOneByOneOrForwardsThem) {
  auto push = Bind(*one_, Pattern::kPush, At());
  auto pull = Connect(*two_, Pattern::kPull, At());
  std::vector<Message> parts = Parts(*one_, 4);
  ASSERT_EQ(push->SendParts(parts, Soon()), SocketResult::kOk);
  ASSERT_EQ(pull->ReceiveParts(&parts, Soon()), SocketResult::kOk);
  auto on = Bind(*two_, Pattern::kPush, At("on"));
  auto end = Connect(*one_, Pattern::kPull, At("on"));
  ASSERT_EQ(on->SendParts(parts, Soon()), SocketResult::kOk);
  for (size_t i = 0; i < 4; ++i) {
    Message message;
    ASSERT_EQ(end->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_EQ(NumberIn(message), i == 2 ? ~uint64_t{0} : i);
  }
}

TEST_P(SocketConformanceTest, LeavesAllOfThemWithTheCallerOnFailure) {
  auto other = OpenTransport();
  auto push = Bind(*one_, Pattern::kPush, At());
  std::vector<Message> parts = Parts(*one_, 16);
  EXPECT_EQ(push->TrySendParts(parts), SocketResult::kWouldBlock);
  EXPECT_TRUE(AreParts(parts, 16));
  EXPECT_EQ(push->SendParts(parts, Deadline::After(absl::Milliseconds(5))),
            SocketResult::kTimedOut);
  EXPECT_TRUE(AreParts(parts, 16));
  // One of them is of another transport.
  parts[7] = Number(*other, 7);
  auto pull = Connect(*two_, Pattern::kPull, At());
  EXPECT_EQ(push->SendParts(parts, Soon()), SocketResult::kForeignMessage);
  EXPECT_TRUE(AreParts(parts, 16));
}

// Requests and replies.

TEST_P(SocketConformanceTest, RepliesToWhoAsked) {
  auto reply = Bind(*one_, Pattern::kReply, At());
  auto a = Connect(*two_, Pattern::kRequest, At());
  auto b = Connect(*two_, Pattern::kRequest, At());
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(SendNumber(*two_, *a, 10), SocketResult::kOk);
    ASSERT_EQ(SendNumber(*two_, *b, 20), SocketResult::kOk);
    for (int i = 0; i < 2; ++i) {
      const uint64_t request = ReceiveNumber(*reply);
      ASSERT_EQ(SendNumber(*one_, *reply, request + 1), SocketResult::kOk);
    }
    EXPECT_EQ(ReceiveNumber(*b), 21u);
    EXPECT_EQ(ReceiveNumber(*a), 11u);
  }
}

TEST_P(SocketConformanceTest, SkipsAnAskerThatHasGone) {
  auto reply = Bind(*one_, Pattern::kReply, At());
  auto goes = Connect(*two_, Pattern::kRequest, At());
  auto stays = Connect(*two_, Pattern::kRequest, At());
  ASSERT_EQ(SendNumber(*two_, *goes, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 1u);
  goes.reset();
  EXPECT_EQ(SendNumber(*one_, *reply, 2), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*two_, *stays, 3), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 3u);
  EXPECT_EQ(SendNumber(*one_, *reply, 4), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*stays), 4u);
}

TEST_P(SocketConformanceTest, RepliesAlsoAfterALookForTheNextRequest) {
  auto reply = Bind(*one_, Pattern::kReply, At());
  auto request = Connect(*two_, Pattern::kRequest, At());
  ASSERT_EQ(SendNumber(*two_, *request, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 1u);
  EXPECT_TRUE(NothingComes(*reply));
  ASSERT_EQ(SendNumber(*one_, *reply, 2), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*request), 2u);
}

TEST_P(SocketConformanceTest, ServesOthersWhileAnAskerDoesNotReceive) {
  SocketOptions few;
  few.send_high_water_mark = few.receive_high_water_mark = 1;
  auto reply = Bind(*one_, Pattern::kReply, At());
  auto slow = Connect(*two_, Pattern::kRequest, At(), few);
  auto good = Connect(*two_, Pattern::kRequest, At());
  ASSERT_EQ(SendNumber(*two_, *slow, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 1u);
  ASSERT_EQ(SendNumber(*one_, *reply, 2), SocketResult::kOk);
  ASSERT_EQ(SendNumber(*two_, *slow, 3), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 3u);
  ASSERT_EQ(SendNumber(*two_, *good, 4), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 4u);
  ASSERT_EQ(SendNumber(*one_, *reply, 5), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*good), 5u);
}

TEST_P(SocketConformanceTest, ReceivesTheReplyOfOneThatHasGoneSince) {
  auto reply = Bind(*one_, Pattern::kReply, At());
  auto request = Connect(*two_, Pattern::kRequest, At());
  ASSERT_EQ(SendNumber(*two_, *request, 1), SocketResult::kOk);
  EXPECT_EQ(ReceiveNumber(*reply), 1u);
  ASSERT_EQ(SendNumber(*one_, *reply, 2), SocketResult::kOk);
  reply.reset();
  EXPECT_TRUE(HasPeers(*request, 0));
  EXPECT_TRUE(WaitFor([&] { return request->Ready().receive; }));  // finds out who has gone
  EXPECT_EQ(ReceiveNumber(*request), 2u);
}

// One to many.

class PublishConformanceTest : public SocketConformanceTest {};
INSTANTIATE_TEST_SUITE_P(All, PublishConformanceTest,
                         ::testing::ValuesIn(With(&CarrierCase::has_publish)), NameOf);

TEST_P(PublishConformanceTest, PublishesOneBlockToAllThatWantItsTopic) {
  auto publish = Bind(*one_, Pattern::kPublish, At());
  SocketOptions options = PatientOptions();
  auto all = Connect(*two_, Pattern::kSubscribe, At(), options);
  options.topics = {"ab", "x"};
  auto some = Connect(*two_, Pattern::kSubscribe, At(), options);
  options.topics = {};
  auto none = Connect(*two_, Pattern::kSubscribe, At(), options);
  Message of_all;
  Message of_some;
  for (const std::string text : {"abc", "a", "xyz", "", "ab"}) {
    Message message = *one_->Allocate(text.size());
    if (!text.empty()) std::memcpy(message.mutable_bytes().data(), text.data(), text.size());
    ASSERT_EQ(publish->Send(std::move(message), Soon()), SocketResult::kOk);
    ASSERT_EQ(all->Receive(&of_all, Soon()), SocketResult::kOk);
    const std::string_view got(reinterpret_cast<const char*>(of_all.data()), of_all.size());
    EXPECT_EQ(got, text);
    if (text.starts_with("ab") || text.starts_with("x")) {
      ASSERT_EQ(some->Receive(&of_some, Soon()), SocketResult::kOk);
      EXPECT_EQ(of_some.segment_offset(), of_all.segment_offset());
      EXPECT_TRUE(of_some.shared());
    }
  }
  EXPECT_TRUE(NothingComes(*some));
  EXPECT_TRUE(NothingComes(*none));
}

class NoPublishConformanceTest : public SocketConformanceTest {};
INSTANTIATE_TEST_SUITE_P(All, NoPublishConformanceTest,
                         ::testing::ValuesIn(Without(&CarrierCase::has_publish)), NameOf);

TEST_P(NoPublishConformanceTest, SaysWhichAddressesHaveOneToMany) {
  for (const Pattern pattern : {Pattern::kPublish, Pattern::kSubscribe}) {
    auto socket = *one_->CreateSocket(pattern);
    const absl::Status status = socket->Bind(At());
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("ring://"));
  }
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_carrier.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/handle.h"
#include "transport/testing/session_fixture.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

// A program that speaks ZeroMQ, and sends what it likes.
class Stranger {
 public:
  explicit Stranger(const std::string& address, int type = ZMQ_PUSH)
      : context_(zmq_ctx_new()), socket_(zmq_socket(context_, type)) {
    const int none = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &none, sizeof(none));
    EXPECT_EQ(zmq_connect(socket_, address.c_str()), 0);
  }
  ~Stranger() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }

  void Send(std::span<const std::byte> bytes, int flags = 0) {
    EXPECT_EQ(zmq_send(socket_, bytes.data(), bytes.size(), flags), static_cast<int>(bytes.size()));
  }

  // The handle that a sender of ours gave away.
  Handle Receive(uint64_t nonce) {
    std::array<std::byte, 100> bytes;
    const int size = zmq_recv(socket_, bytes.data(), bytes.size(), 0);
    Handle handle;
    EXPECT_EQ(Decode(std::span(bytes).first(static_cast<size_t>(size)), nonce, &handle),
              HandleFault::kNone);
    return handle;
  }

 private:
  void* context_;
  void* socket_;
};

class ZeromqCarrierTest : public SessionFixture {
 protected:
  // The nonce of the session, as any process may read it.
  uint64_t Nonce() {
    SessionOptions options;
    options.names.session = session_.name();
    options.names.shm_dir = session_.directory();
    auto member = Member::Join(std::move(options));
    EXPECT_TRUE(member.ok());
    return (*member)->nonce();
  }

  // What arrives behind all of what strangers have sent: the socket goes on.
  void ExpectGoesOn() {
    auto push = Connect(*transport_, Pattern::kPush, address_);
    ASSERT_EQ(push->Send(Filled(*transport_, 1000, 9), Soon()), SocketResult::kOk);
    Message message;
    ASSERT_EQ(pull_->Receive(&message, Soon()), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(message, 1000, 9));
    message.Release();
    EXPECT_EQ(transport_->Usage().used_blocks, 0u);
  }

  uint64_t Dropped() const {
    const SocketStatistics statistics = pull_->Statistics();
    return statistics.bad_frames + statistics.foreign_frames + statistics.stale_handles;
  }
  // Receives until so many frames have been dropped.
  void DropFrames(uint64_t count) {
    Message message;
    ASSERT_TRUE(WaitFor([&] {
      EXPECT_EQ(pull_->TryReceive(&message), SocketResult::kWouldBlock);
      return Dropped() >= count;
    })) << Dropped();
    EXPECT_EQ(Dropped(), count);
  }

  std::unique_ptr<Transport> transport_ = OpenTransport();
  const std::string address_ = Address();
  std::unique_ptr<Socket> pull_ = Bind(*transport_, Pattern::kPull, address_);
};

TEST_F(ZeromqCarrierTest, DropsAndCountsWhatIsNoHandle) {
  Stranger stranger(address_);
  std::mt19937_64 random(1);
  uint64_t frames = 0;
  for (size_t size = 0; size <= 4096; size = size < 130 ? size + 1 : size * 2) {
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) byte = std::byte(random() & 0xFF);
    stranger.Send(bytes);
    ++frames;
  }
  DropFrames(frames);
  EXPECT_EQ(pull_->Statistics().bad_frames, frames);
  const SocketStatistics statistics = pull_->Statistics();
  ASSERT_EQ(statistics.refused_peers.size(), 1u);
  EXPECT_EQ(statistics.refused_peers[0].peer,
            "pid " + std::to_string(getpid()) + " (uid " + std::to_string(getuid()) + ")");
  EXPECT_EQ(statistics.refused_peers[0].reason, "wrong length");
  EXPECT_EQ(statistics.refused_peers[0].frames, frames);
  ExpectGoesOn();
}

TEST_F(ZeromqCarrierTest, DropsAllFramesOfAMessageOfSeveral) {
  Stranger stranger(address_);
  const auto good = Encode({.kind = HandleKind::kEmpty, .nonce = Nonce()});
  stranger.Send(good, ZMQ_SNDMORE);
  stranger.Send(good, ZMQ_SNDMORE);
  stranger.Send(good);
  DropFrames(1);
  ExpectGoesOn();
}

TEST_F(ZeromqCarrierTest, CutsOffWhoSendsFramesThatAreTooLong) {
  Stranger stranger(address_);
  const std::vector<std::byte> large(1 << 20);
  stranger.Send(large);
  ExpectGoesOn();
  EXPECT_EQ(Dropped(), 0u);
}

TEST_F(ZeromqCarrierTest, NamesBothSidesWhenSessionsAreMixed) {
  Stranger stranger(address_);
  const uint64_t nonce = Nonce();
  stranger.Send(Encode({.kind = HandleKind::kEmpty, .nonce = nonce + 1}));
  DropFrames(1);
  const SocketStatistics statistics = pull_->Statistics();
  EXPECT_EQ(statistics.foreign_frames, 1u);
  ASSERT_EQ(statistics.refused_peers.size(), 1u);
  const auto hex = [](uint64_t value) {
    char text[17];
    snprintf(text, sizeof(text), "%lx", value);
    return std::string(text);
  };
  EXPECT_THAT(statistics.refused_peers[0].reason, HasSubstr(hex(nonce)));
  EXPECT_THAT(statistics.refused_peers[0].reason, HasSubstr(hex(nonce + 1)));
  ExpectGoesOn();
}

TEST_F(ZeromqCarrierTest, DropsForgedHandlesWhateverTheirNumbers) {
  const Message victim = Filled(*transport_, 1000, 1);
  Stranger stranger(address_);
  const uint64_t nonce = Nonce();
  uint64_t frames = 0;
  const auto forge = [&](Handle handle) {
    handle.nonce = nonce;
    stranger.Send(Encode(handle));
    ++frames;
  };
  std::mt19937_64 random(2);
  for (const uint32_t row : {0u, 1u, 63u, 64u, 4096u, Handle::kMaxRow}) {
    for (const uint64_t generation : {uint64_t{1}, uint64_t{2}, Handle::kMaxGeneration}) {
      for (const uint16_t segment : {uint16_t{0}, uint16_t{1}, uint16_t{63}}) {
        forge({.kind = HandleKind::kBlock,
               .segment = segment,
               .row = row,
               .generation = generation,
               .used_bytes = 1 + random() % Handle::kMaxUsedBytes});
      }
    }
  }
  forge({.kind = HandleKind::kReference, .row = 1, .generation = 1, .used_bytes = 1});
  forge({.kind = HandleKind::kBundle, .row = 1, .generation = 1});
  DropFrames(frames);
  EXPECT_TRUE(IsFilled(victim, 1000, 1));
  EXPECT_EQ(transport_->Usage().used_blocks, 1u);
}

TEST_F(ZeromqCarrierTest, AcceptsAHandleOnceHoweverOftenItIsSent) {
  auto push = Bind(*transport_, Pattern::kPush, Address("b"));
  Stranger thief(Address("b"), ZMQ_PULL);
  ASSERT_EQ(push->Send(Filled(*transport_, 1000, 1), Soon()), SocketResult::kOk);
  const uint64_t nonce = Nonce();
  const Handle handle = thief.Receive(nonce);
  Stranger stranger(address_);
  for (int i = 0; i < 5; ++i) stranger.Send(Encode(handle));
  Message message;
  ASSERT_EQ(pull_->Receive(&message, Soon()), SocketResult::kOk);
  EXPECT_TRUE(IsFilled(message, 1000, 1));
  DropFrames(4);
  const SocketStatistics statistics = pull_->Statistics();
  EXPECT_EQ(statistics.stale_handles, 4u);
  // They name the channel of who had sent the handle.
  ASSERT_EQ(statistics.peers.size(), 1u);
  EXPECT_EQ(statistics.peers[0].messages_received, 1u);
  EXPECT_EQ(statistics.peers[0].refused_frames, 4u);
  EXPECT_THAT(statistics.peers[0].peer, HasSubstr("pid " + std::to_string(getpid())));
  EXPECT_TRUE(IsFilled(message, 1000, 1) || message.empty());
}

TEST_F(ZeromqCarrierTest, FreesTheBlockOfASenderThatLiesAboutItsSize) {
  auto push = Bind(*transport_, Pattern::kPush, Address("b"));
  Stranger thief(Address("b"), ZMQ_PULL);
  ASSERT_EQ(push->Send(Filled(*transport_, 1000, 1), Soon()), SocketResult::kOk);
  Handle handle = thief.Receive(Nonce());
  Stranger stranger(address_);
  handle.used_bytes = 100'000;
  stranger.Send(Encode(handle));
  DropFrames(1);
  ExpectGoesOn();
}

TEST_F(ZeromqCarrierTest, StopsAtTheDeadlineAlsoUnderAFloodOfGarbage) {
  ChildProcess flood = ChildProcess::Start([&] {
    Stranger stranger(address_);
    const std::array<std::byte, 8> garbage{};
    while (true) stranger.Send(garbage);
    return 0;
  });
  ASSERT_TRUE(WaitFor([&] {
    Message message;
    EXPECT_EQ(pull_->TryReceive(&message), SocketResult::kWouldBlock);
    return Dropped() > 100;
  }));
  Message message;
  EXPECT_EQ(pull_->Receive(&message, Deadline::After(absl::Milliseconds(50))),
            SocketResult::kTimedOut);
  pull_->Interrupt();
  EXPECT_EQ(pull_->Receive(&message, Deadline::Infinite()), SocketResult::kInterrupted);
}

TEST_F(ZeromqCarrierTest, CountsOnlyPeersThatHaveShakenHands) {
  const UniqueFd silent(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  UniqueFd rude(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const std::string abstract = address_.substr(sizeof("ipc://@") - 1);
  std::memcpy(name.sun_path + 1, abstract.data(), abstract.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + abstract.size());
  for (const UniqueFd* fd : std::initializer_list<const UniqueFd*>{&silent, &rude}) {
    ASSERT_EQ(connect(fd->get(), reinterpret_cast<sockaddr*>(&name), length), 0);
  }
  ASSERT_GT(write(rude.get(), "GET / HTTP/1.1\r\n\r\n", 18), 0);
  {
    Stranger stranger(address_);
    EXPECT_TRUE(WaitFor([&] { return pull_->Statistics().connected_peers == 1; }));
  }
  rude.reset();
  EXPECT_TRUE(WaitFor([&] { return pull_->Statistics().connected_peers == 0; }));
  ExpectGoesOn();
}

}  // namespace
}  // namespace handoff

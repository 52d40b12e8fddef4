// SPDX-License-Identifier: Apache-2.0
#include "transport/testing/session_fixture.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "allocator/audit.h"
#include "base/check.h"
#include "base/testing/wait_for.h"

namespace handoff {

namespace {

std::unique_ptr<Socket> MakeSocket(Transport& transport, Pattern pattern,
                                   const SocketOptions& options) {
  auto socket = transport.CreateSocket(pattern, options);
  HANDOFF_CHECK(socket.ok()) << socket.status().ToString();
  return *std::move(socket);
}

// Eight bytes at a time, so that large messages cost little.
uint64_t Pattern64(uint64_t seed, size_t index) { return (seed + index) * 0x9E3779B97F4A7C15; }

}  // namespace

TransportOptions SessionFixture::Options() const {
  TransportOptions options;
  options.session = session_.name();
  options.shm_dir = session_.directory();
  options.segment_size_bytes = kSegmentBytes;
  return options;
}

std::unique_ptr<Transport> SessionFixture::OpenTransport(const TransportOptions& options) {
  auto transport = Transport::Open(options);
  HANDOFF_CHECK(transport.ok()) << transport.status().ToString();
  return *std::move(transport);
}

std::unique_ptr<Socket> SessionFixture::Bind(Transport& transport, Pattern pattern,
                                             const std::string& address,
                                             const SocketOptions& options) {
  auto socket = MakeSocket(transport, pattern, options);
  const absl::Status status = socket->Bind(address);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return socket;
}

std::unique_ptr<Socket> SessionFixture::Connect(Transport& transport, Pattern pattern,
                                                const std::string& address,
                                                const SocketOptions& options) {
  auto socket = MakeSocket(transport, pattern, options);
  const absl::Status status = socket->Connect(address);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return socket;
}

std::string SessionFixture::Address(std::string_view name) const {
  return "ipc://@" + session_.name() + "." + std::string(name);
}

std::string SessionFixture::FileAddress(std::string_view name) const {
  return "ipc://" + session_.directory() + "/" + std::string(name);
}

Message SessionFixture::Filled(Transport& transport, size_t size_bytes, uint64_t seed) {
  auto message = transport.Allocate(size_bytes, {.deadline = Soon()});
  HANDOFF_CHECK(message.ok()) << message.status().ToString();
  const std::span<std::byte> bytes = message->mutable_bytes();
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t value = Pattern64(seed, at);
    std::memcpy(bytes.data() + at, &value, std::min(sizeof(value), bytes.size() - at));
  }
  return *std::move(message);
}

bool SessionFixture::IsFilled(const Message& message, size_t size_bytes, uint64_t seed) {
  const std::span<const std::byte> bytes = message.bytes();
  if (bytes.size() != size_bytes) return false;
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t value = Pattern64(seed, at);
    if (std::memcmp(bytes.data() + at, &value, std::min(sizeof(value), bytes.size() - at)) != 0) {
      return false;
    }
  }
  return true;
}

void SessionFixture::ExpectSegmentWhole() const {
  SessionOptions options;
  options.names.session = session_.name();
  options.names.shm_dir = session_.directory();
  options.main_segment_bytes = kSegmentBytes;
  auto observer = Member::Join(std::move(options));
  ASSERT_TRUE(observer.ok()) << observer.status().ToString();
  Segment& segment = (*observer)->main_segment();
  // The dead are reclaimed once the kernel has let go of their locks.
  EXPECT_TRUE(WaitFor([&] {
    (*observer)->ReclaimDead();
    return segment.Usage().used_blocks == 0;
  })) << DescribeShortage(segment.Usage(), 0);
  for (const std::string& line : AuditSegment(segment.view(), (*observer)->session().members())) {
    ADD_FAILURE() << line;
  }
}

}  // namespace handoff

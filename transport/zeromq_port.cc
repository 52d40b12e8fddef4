// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_port.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace handoff::internal {

namespace {

// A longer frame is no handle, and its sender is cut off before it fills our memory; shorter ones
// are counted.
constexpr int64_t kMaxFrameBytes = 4096;

std::optional<int> ZeromqType(Pattern pattern) {
  switch (pattern) {
    case Pattern::kPush:
      return ZMQ_PUSH;
    case Pattern::kPull:
      return ZMQ_PULL;
    case Pattern::kPair:
      return ZMQ_PAIR;
    case Pattern::kRequest:
      return ZMQ_DEALER;
    case Pattern::kReply:
      return ZMQ_ROUTER;
    case Pattern::kPublish:
    case Pattern::kSubscribe:
      break;
  }
  return std::nullopt;
}

absl::Status ZeromqError(const std::string& what, int error) {
  const std::string text = absl::StrCat(what, ": ", zmq_strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EMTHREAD:
      return absl::ResourceExhaustedError(text);
    case ENODEV:
    case ENOENT:
    case EADDRNOTAVAIL:
      return absl::NotFoundError(text);
    default:
      return absl::InvalidArgumentError(text);
  }
}

// The three numbers at the end of "localhost:uid:gid:pid", as ZeroMQ names the peer of a Unix
// socket.
std::optional<std::array<uint32_t, 3>> UnixPeer(std::string_view address) {
  std::array<uint32_t, 3> numbers{};
  for (size_t i = numbers.size(); i-- > 0;) {
    const size_t colon = address.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    const std::string_view digits = address.substr(colon + 1);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), numbers[i]);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    address = address.substr(0, colon);
  }
  if (!address.empty() && address != "localhost") return std::nullopt;
  return numbers;
}

void SetOptions(void* socket, Pattern pattern, const SocketOptions& options) {
  const auto set = [&](int name, int value) {
    HANDOFF_CHECK_EQ(zmq_setsockopt(socket, name, &value, sizeof(value)), 0)
        << "option " << name << " = " << value << ": " << zmq_strerror(errno);
  };
  const auto milliseconds = [](absl::Duration duration) {
    return static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1))));
  };
  set(ZMQ_SNDHWM, static_cast<int>(options.send_high_water_mark));
  set(ZMQ_RCVHWM, static_cast<int>(options.receive_high_water_mark));
  if (options.kernel_send_buffer_bytes != 0) {
    set(ZMQ_SNDBUF, static_cast<int>(options.kernel_send_buffer_bytes));
  }
  if (options.kernel_receive_buffer_bytes != 0) {
    set(ZMQ_RCVBUF, static_cast<int>(options.kernel_receive_buffer_bytes));
  }
  set(ZMQ_BACKLOG, static_cast<int>(options.backlog));
  set(ZMQ_TCP_KEEPALIVE, options.tcp_keepalive ? 1 : 0);
  set(ZMQ_IPV6, options.ipv6 ? 1 : 0);
  set(ZMQ_LINGER, milliseconds(options.linger));
  set(ZMQ_RECONNECT_IVL, milliseconds(options.reconnect_interval));
  set(ZMQ_RECONNECT_IVL_MAX, milliseconds(options.reconnect_interval_max));
  // Deal only to those who are there: what waits for one who may never come cannot go to another.
  // Not for who receives, because ZeroMQ then forgets what has come and was not received when the
  // connection ends.
  if (pattern == Pattern::kPush) set(ZMQ_IMMEDIATE, 1);
  // Says so where a reply cannot go, and where there is no room.
  if (pattern == Pattern::kReply) set(ZMQ_ROUTER_MANDATORY, 1);
  HANDOFF_CHECK_EQ(zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &kMaxFrameBytes, sizeof(kMaxFrameBytes)),
                   0);
}

}  // namespace

bool ZeromqPort::Carries(Pattern pattern) { return ZeromqType(pattern).has_value(); }

absl::StatusOr<std::unique_ptr<ZeromqPort>> ZeromqPort::Open(void* context, Pattern pattern,
                                                             const SocketOptions& options) {
  void* const socket = zmq_socket(context, ZeromqType(pattern).value());
  if (socket == nullptr) return ZeromqError("zmq_socket", errno);
  SetOptions(socket, pattern, options);
  auto peers = ZeromqPeers::Watch(context, socket);
  if (!peers.ok()) {
    zmq_close(socket);
    return peers.status();
  }
  int fd = -1;
  size_t length = sizeof(fd);
  HANDOFF_CHECK_EQ(zmq_getsockopt(socket, ZMQ_FD, &fd, &length), 0) << zmq_strerror(errno);
  return std::unique_ptr<ZeromqPort>(
      new ZeromqPort(socket, pattern == Pattern::kReply, *std::move(peers), fd));
}

ZeromqPort::~ZeromqPort() {
  Close();
  zmq_msg_close(&frame_);
}

absl::Status ZeromqPort::Bind(const Address& address) {
  const bool has_file =
      address.scheme == Scheme::kIpc && address.place[0] != '@' && address.place != "*";
  if (has_file) {
    const absl::Status status = BindIpc(address);
    if (!status.ok()) return status;
  } else if (zmq_bind(socket_, address.text.c_str()) != 0) {
    return ZeromqError(absl::StrCat("bind ", address.text), errno);
  }
  Attached(address);
  return absl::OkStatus();
}

absl::Status ZeromqPort::BindIpc(const Address& address) {
  const absl::StatusOr<IpcPathClaim> claim = IpcPathClaim::Take(address.place);
  if (!claim.ok()) return claim.status();
  if (zmq_bind(socket_, address.text.c_str()) != 0) {
    return ZeromqError(absl::StrCat("bind ", address.text), errno);
  }
  const absl::StatusOr<IpcFile> file = IdentifyIpcFile(address.place);
  if (file.ok()) ipc_files_.push_back(*file);
  return absl::OkStatus();
}

absl::Status ZeromqPort::Connect(const Address& address) {
  if (zmq_connect(socket_, address.text.c_str()) != 0) {
    return ZeromqError(absl::StrCat("connect ", address.text), errno);
  }
  Attached(address);
  return absl::OkStatus();
}

void ZeromqPort::Attached(const Address& address) {
  if (address.scheme == Scheme::kInproc) has_inproc_.store(true, std::memory_order_relaxed);
  char endpoint[512];
  size_t length = sizeof(endpoint);
  HANDOFF_CHECK_EQ(zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, endpoint, &length), 0)
      << zmq_strerror(errno);
  last_endpoint_ = endpoint;
}

int ZeromqPort::SendPart(std::span<const std::byte> bytes, int flags) {
  while (zmq_send(socket_, bytes.data(), bytes.size(), flags | ZMQ_DONTWAIT) < 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

ZeromqPort::Result ZeromqPort::Send(std::span<const std::byte> bytes, const std::string& peer) {
  if (__builtin_expect(peers_->TakeLoss(), 0)) Events();
  for (bool looked = false;;) {
    int error = 0;
    if (__builtin_expect(routes_, 0)) {
      error = SendPart(std::as_bytes(std::span(peer)), ZMQ_SNDMORE);
    }
    if (__builtin_expect(error == 0, 1)) error = SendPart(bytes, 0);
    if (__builtin_expect(error == 0, 1)) return Result::kDone;
    if (error == EHOSTUNREACH) return Result::kPeerGone;
    HANDOFF_CHECK_EQ(error, EAGAIN) << "zmq_send: " << zmq_strerror(error);
    // A send does not always look at what its peers have read since; this does.
    if (looked || (Events() & ZMQ_POLLOUT) == 0) return Result::kWouldBlock;
    looked = true;
  }
}

bool ZeromqPort::ReceivePart() {
  while (zmq_msg_recv(&frame_, socket_, ZMQ_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    HANDOFF_CHECK_EQ(errno, EAGAIN) << "zmq_msg_recv: " << zmq_strerror(errno);
    return false;
  }
  return true;
}

ZeromqPort::Result ZeromqPort::Receive(Received* received, std::string* peer) {
  if (!ReceivePart()) return Result::kWouldBlock;
  // All frames of one message arrive together.
  if (__builtin_expect(routes_, 0)) {
    peer->assign(static_cast<const char*>(zmq_msg_data(&frame_)), zmq_msg_size(&frame_));
    if (zmq_msg_more(&frame_) == 0 || !ReceivePart()) return Result::kWouldBlock;
  }
  received->several = zmq_msg_more(&frame_) != 0;
  while (__builtin_expect(zmq_msg_more(&frame_) != 0, 0) && ReceivePart()) continue;
  received->bytes = {static_cast<const std::byte*>(zmq_msg_data(&frame_)), zmq_msg_size(&frame_)};
  return Result::kDone;
}

std::string ZeromqPort::DescribeSender() {
  const char* const address = zmq_msg_gets(&frame_, "Peer-Address");
  if (address == nullptr) return "this process";
  const auto numbers = UnixPeer(address);
  if (!numbers.has_value()) return address;
  return absl::StrCat("pid ", (*numbers)[2], " (uid ", (*numbers)[0], ")");
}

int ZeromqPort::Events() {
  int events = 0;
  size_t length = sizeof(events);
  while (zmq_getsockopt(socket_, ZMQ_EVENTS, &events, &length) != 0) {
    HANDOFF_CHECK_EQ(errno, EINTR) << "ZMQ_EVENTS: " << zmq_strerror(errno);
  }
  return events;
}

void ZeromqPort::Close() {
  if (socket_ == nullptr) return;
  peers_->Stop();
  for (const IpcFile& file : ipc_files_) RemoveIpcFile(file);
  HANDOFF_CHECK_EQ(zmq_close(socket_), 0) << zmq_strerror(errno);
  socket_ = nullptr;
}

}  // namespace handoff::internal

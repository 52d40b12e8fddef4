// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_carrier.h"

#include <poll.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "transport/handle.h"
#include "transport/ipc_path.h"
#include "transport/socket_counters.h"
#include "transport/zeromq_peers.h"

namespace handoff::internal {

namespace {

using Drop = SocketCounters::Drop;

// A longer frame is no handle, and its sender is cut off before it fills our memory; shorter ones
// are counted.
constexpr int64_t kMaxFrameBytes = 4096;

// A receive that never waits drops at most so many frames before it says that nothing has come.
constexpr int kDropsATry = 64;

// Whoever waits looks around that often, whether this process is still a member.
constexpr absl::Duration kWaitSlice = absl::Seconds(1);

std::optional<int> ZeromqType(Pattern pattern) {
  switch (pattern) {
    case Pattern::kPush:
      return ZMQ_PUSH;
    case Pattern::kPull:
      return ZMQ_PULL;
    case Pattern::kPair:
      return ZMQ_PAIR;
    case Pattern::kRequest:
    case Pattern::kReply:
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

std::string DescribePeer(zmq_msg_t& frame) {
  const char* const address = zmq_msg_gets(&frame, "Peer-Address");
  if (address == nullptr) return "this process";
  const auto numbers = UnixPeer(address);
  if (!numbers.has_value()) return address;
  return absl::StrCat("pid ", (*numbers)[2], " (uid ", (*numbers)[0], ")");
}

class ZeromqCarrier final : public Carrier {
 public:
  ZeromqCarrier(const CarrierContext& context, void* socket, std::unique_ptr<ZeromqPeers> peers)
      : context_(context), socket_(socket), peers_(std::move(peers)) {
    zmq_msg_init(&frame_);
  }
  ~ZeromqCarrier() override {
    Close();
    zmq_msg_close(&frame_);
  }

  absl::Status Bind(const Address& address) override;
  absl::Status Connect(const Address& address) override;
  std::string LastEndpoint() const override { return last_endpoint_; }

  SocketResult TrySend(Message& message) override;
  SocketResult Send(Message& message, const Deadline& deadline) override;
  SocketResult TryReceive(Message& message) override;
  SocketResult Receive(Message& message, const Deadline& deadline) override;

  SocketResult SendParts(std::span<Message> parts, const Deadline* deadline) override {
    if (parts.size() != 1) return SocketResult::kPartCount;
    return deadline == nullptr ? TrySend(parts[0]) : Send(parts[0], *deadline);
  }
  SocketResult ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) override {
    Message message;
    const SocketResult result =
        deadline == nullptr ? TryReceive(message) : Receive(message, *deadline);
    if (result == SocketResult::kOk) parts.push_back(std::move(message));
    return result;
  }

  void Close() override;

  SocketStatistics Statistics() const override {
    SocketStatistics statistics = counters_.Snapshot();
    statistics.connected_peers = peers_->Count();
    return statistics;
  }

 private:
  absl::Status BindIpc(const Address& address);
  void RememberEndpoint();

  // The id under which blocks are posted. One for all until channels have a table of their own;
  // then a socket takes another one after a member has died, so that what was posted before may be
  // freed when memory runs out.
  uint16_t PostingChannel() const { return 0; }

  SocketResult SendFrame(const std::array<std::byte, Handle::kBytes>& bytes);
  bool TakeFrame(Message& message);
  void DropFrame(Drop drop, const std::string& reason);
  SocketResult WaitFor(int events, const Deadline& deadline);
  int ReadyEvents();

  const CarrierContext context_;
  void* socket_;  // null once closed
  const std::unique_ptr<ZeromqPeers> peers_;
  zmq_msg_t frame_;  // the last one received
  SocketCounters counters_;
  std::string last_endpoint_;
  std::vector<IpcFile> ipc_files_;
};

absl::Status ZeromqCarrier::Bind(const Address& address) {
  const bool has_file =
      address.scheme == Scheme::kIpc && address.place[0] != '@' && address.place != "*";
  if (has_file) {
    const absl::Status status = BindIpc(address);
    if (!status.ok()) return status;
  } else if (zmq_bind(socket_, address.text.c_str()) != 0) {
    return ZeromqError(absl::StrCat("bind ", address.text), errno);
  }
  RememberEndpoint();
  return absl::OkStatus();
}

absl::Status ZeromqCarrier::BindIpc(const Address& address) {
  const absl::StatusOr<IpcPathClaim> claim = IpcPathClaim::Take(address.place);
  if (!claim.ok()) return claim.status();
  if (zmq_bind(socket_, address.text.c_str()) != 0) {
    return ZeromqError(absl::StrCat("bind ", address.text), errno);
  }
  const absl::StatusOr<IpcFile> file = IdentifyIpcFile(address.place);
  if (file.ok()) ipc_files_.push_back(*file);
  return absl::OkStatus();
}

absl::Status ZeromqCarrier::Connect(const Address& address) {
  if (zmq_connect(socket_, address.text.c_str()) != 0) {
    return ZeromqError(absl::StrCat("connect ", address.text), errno);
  }
  RememberEndpoint();
  return absl::OkStatus();
}

void ZeromqCarrier::RememberEndpoint() {
  char endpoint[512];
  size_t length = sizeof(endpoint);
  HANDOFF_CHECK_EQ(zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, endpoint, &length), 0)
      << zmq_strerror(errno);
  last_endpoint_ = endpoint;
}

// The life of a message on this carrier is in docs/message_life.md; the steps here are its numbers.
SocketResult ZeromqCarrier::TrySend(Message& message) {
  if (message.empty()) {
    const SocketResult result = SendFrame(Encode({.nonce = context_.member->nonce()}));
    if (result == SocketResult::kOk) counters_.Sent(0);
    return result;
  }
  // A reference cannot be posted; its receiver gets a copy.
  if (message.shared() && message.mutable_bytes().empty()) return SocketResult::kWouldBlock;
  Segment& segment = MessageAccess::segment(message);
  const Block& block = MessageAccess::block(message);
  if (__builtin_expect(context_.member->SegmentAt(segment.row()) != &segment, 0)) {
    return SocketResult::kForeignMessage;
  }
  const uint16_t channel = PostingChannel();
  const HoldWord posted = segment.Post(block, channel);  // step 3
  HANDOFF_CRASH_POINT("zeromq.send.after_post");
  const SocketResult result = SendFrame(Encode({.kind = HandleKind::kBlock,
                                                .segment = static_cast<uint16_t>(segment.row()),
                                                .channel = channel,
                                                .row = block.id,
                                                .nonce = context_.member->nonce(),
                                                .generation = posted.generation(),
                                                .used_bytes = message.size()}));
  if (result != SocketResult::kOk) {
    const std::optional<Block> back = segment.TakeBack(block.id, posted.generation());
    if (back.has_value()) {
      MessageAccess::SetHold(message, back->hold);
      return result;
    }
    // Somebody who was never told the generation has accepted it all the same: it is his now.
  }
  counters_.Sent(message.size());
  MessageAccess::Forget(message);
  HANDOFF_CRASH_POINT("zeromq.send.after_send");
  return SocketResult::kOk;
}

SocketResult ZeromqCarrier::SendFrame(const std::array<std::byte, Handle::kBytes>& bytes) {
  if (__builtin_expect(peers_->TakeLoss(), 0)) ReadyEvents();
  for (bool looked = false;;) {
    if (zmq_send(socket_, bytes.data(), bytes.size(), ZMQ_DONTWAIT) >= 0) {  // step 4
      return SocketResult::kOk;
    }
    if (errno == EINTR) continue;
    HANDOFF_CHECK_EQ(errno, EAGAIN) << "zmq_send: " << zmq_strerror(errno);
    // A send does not always look at what its peers have read since; this does.
    if (looked || (ReadyEvents() & ZMQ_POLLOUT) == 0) return SocketResult::kWouldBlock;
    looked = true;
  }
}

SocketResult ZeromqCarrier::Send(Message& message, const Deadline& deadline) {
  SocketResult result = TrySend(message);
  if (__builtin_expect(result != SocketResult::kWouldBlock, 1)) return result;
  const int64_t began_ns = MonotonicClock().NowNanoseconds();
  while (result == SocketResult::kWouldBlock) {
    result = WaitFor(ZMQ_POLLOUT, deadline);
    if (result == SocketResult::kOk) result = TrySend(message);
  }
  counters_.SendBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - began_ns));
  return result;
}

SocketResult ZeromqCarrier::TryReceive(Message& message) {
  for (int tries = 0; tries <= kDropsATry; ++tries) {
    int got;
    do {
      got = zmq_msg_recv(&frame_, socket_, ZMQ_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
      HANDOFF_CHECK_EQ(errno, EAGAIN) << "zmq_msg_recv: " << zmq_strerror(errno);
      return SocketResult::kWouldBlock;
    }
    HANDOFF_CRASH_POINT("zeromq.receive.after_frame");
    if (__builtin_expect(TakeFrame(message), 1)) {
      counters_.Received(message.size());
      return SocketResult::kOk;
    }
  }
  return SocketResult::kWouldBlock;
}

// Steps 6 to 8. False: the frame was dropped.
bool ZeromqCarrier::TakeFrame(Message& message) {
  if (__builtin_expect(zmq_msg_more(&frame_) != 0, 0)) {
    DropFrame(Drop::kBad, "several frames in one message");
    while (zmq_msg_more(&frame_) != 0) {
      // Those of one message arrive together.
      if (zmq_msg_recv(&frame_, socket_, ZMQ_DONTWAIT) < 0 && errno != EINTR) break;
    }
    return false;
  }
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(zmq_msg_data(&frame_)),
                                         zmq_msg_size(&frame_));
  const uint64_t nonce = context_.member->nonce();
  Handle handle;
  const HandleFault fault = Decode(bytes, nonce, &handle);
  if (__builtin_expect(fault != HandleFault::kNone, 0)) {
    if (fault == HandleFault::kNonce) {
      DropFrame(Drop::kForeign, absl::StrCat("it is in session ", absl::Hex(handle.nonce),
                                             ", this socket in session ", absl::Hex(nonce)));
    } else {
      DropFrame(fault == HandleFault::kVersion ? Drop::kForeign : Drop::kBad,
                DescribeHandleFault(fault));
    }
    return false;
  }
  if (handle.kind == HandleKind::kEmpty) return true;
  Segment* const segment =
      handle.kind == HandleKind::kBlock ? context_.member->SegmentAt(handle.segment) : nullptr;
  if (segment == nullptr) {
    DropFrame(Drop::kBad, handle.kind == HandleKind::kBlock
                              ? "no such segment"
                              : "shared messages and bundles need ring://");
    return false;
  }
  const std::optional<Block> block =
      segment->AcceptPosted(handle.row, handle.generation, handle.channel, handle.used_bytes);
  if (__builtin_expect(!block.has_value(), 0)) {
    DropFrame(Drop::kStale, "a stale handle");
    return false;
  }
  MessageAccess::Fill(&message, *segment, *block, handle.used_bytes);
  return true;
}

void ZeromqCarrier::DropFrame(Drop drop, const std::string& reason) {
  counters_.Dropped(drop, DescribePeer(frame_), reason);
}

SocketResult ZeromqCarrier::Receive(Message& message, const Deadline& deadline) {
  SocketResult result = TryReceive(message);
  if (result != SocketResult::kWouldBlock) return result;
  const int64_t began_ns = MonotonicClock().NowNanoseconds();
  while (result == SocketResult::kWouldBlock) {
    result = WaitFor(ZMQ_POLLIN, deadline);
    if (result == SocketResult::kOk) result = TryReceive(message);
  }
  counters_.ReceiveBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - began_ns));
  return result;
}

// What the socket can do now. Handles all that other threads have told the socket; from here on
// news make its descriptor readable, until the next call on the socket.
int ZeromqCarrier::ReadyEvents() {
  int events = 0;
  size_t length = sizeof(events);
  while (zmq_getsockopt(socket_, ZMQ_EVENTS, &events, &length) != 0) {
    HANDOFF_CHECK_EQ(errno, EINTR) << "ZMQ_EVENTS: " << zmq_strerror(errno);
  }
  return events;
}

// kOk: one of `events` is there.
SocketResult ZeromqCarrier::WaitFor(int events, const Deadline& deadline) {
  int socket_fd = -1;
  size_t length = sizeof(socket_fd);
  HANDOFF_CHECK_EQ(zmq_getsockopt(socket_, ZMQ_FD, &socket_fd, &length), 0) << zmq_strerror(errno);
  for (;;) {
    if (context_.TakeInterruption()) return SocketResult::kInterrupted;
    if (!context_.member->Usable().ok()) return SocketResult::kUnusable;
    // Before the look, or a flood of frames that are dropped would hold us for ever.
    if (deadline.expired()) return SocketResult::kTimedOut;
    // Nothing may touch the socket between this and the poll: the descriptor tells of changes only.
    if ((ReadyEvents() & events) != 0) return SocketResult::kOk;
    std::array<pollfd, 3> descriptors{
        pollfd{.fd = socket_fd, .events = POLLIN, .revents = 0},
        pollfd{.fd = context_.socket_interruption->fd(), .events = POLLIN, .revents = 0},
        pollfd{.fd = context_.transport_interruption->fd(), .events = POLLIN, .revents = 0}};
    const auto limit = deadline.Slice(kWaitSlice).RemainingTimespec();
    if (ppoll(descriptors.data(), descriptors.size(), limit.has_value() ? &*limit : nullptr,
              nullptr) > 0) {
      // Readable without a request: one that was taken back meanwhile.
      if (descriptors[1].revents != 0 && !context_.socket_interruption->raised()) {
        context_.socket_interruption->Drain();
      }
      if (descriptors[2].revents != 0 && !context_.transport_interruption->raised()) {
        context_.transport_interruption->Drain();
      }
    }
    peers_->Count();
  }
}

void ZeromqCarrier::Close() {
  if (socket_ == nullptr) return;
  peers_->Stop();
  for (const IpcFile& file : ipc_files_) RemoveIpcFile(file);
  HANDOFF_CHECK_EQ(zmq_close(socket_), 0) << zmq_strerror(errno);
  socket_ = nullptr;
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
  set(ZMQ_LINGER, milliseconds(options.linger));
  set(ZMQ_RECONNECT_IVL, milliseconds(options.reconnect_interval));
  set(ZMQ_RECONNECT_IVL_MAX, milliseconds(options.reconnect_interval_max));
  // Deal only to those who are there: what waits for one who may never come cannot go to another.
  // Not for who receives, because ZeroMQ then forgets what has come and was not received when the
  // connection ends.
  if (pattern == Pattern::kPush) set(ZMQ_IMMEDIATE, 1);
  HANDOFF_CHECK_EQ(zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &kMaxFrameBytes, sizeof(kMaxFrameBytes)),
                   0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Carrier>> MakeZeromqCarrier(const CarrierContext& context,
                                                           ZeromqContext& zeromq) {
  const std::optional<int> type = ZeromqType(context.pattern);
  if (!type.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(PatternName(context.pattern),
                     " needs an address of ring://; ZeroMQ carries PUSH, PULL and PAIR"));
  }
  const absl::StatusOr<void*> zeromq_context = zeromq.Get();
  if (!zeromq_context.ok()) return zeromq_context.status();
  void* const socket = zmq_socket(*zeromq_context, *type);
  if (socket == nullptr) return ZeromqError("zmq_socket", errno);
  SetOptions(socket, context.pattern, context.options);
  auto peers = ZeromqPeers::Watch(*zeromq_context, socket);
  if (!peers.ok()) {
    zmq_close(socket);
    return peers.status();
  }
  return std::make_unique<ZeromqCarrier>(context, socket, *std::move(peers));
}

}  // namespace handoff::internal

// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/contenders.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/clock.h"
#include "transport/transport.h"

namespace handoff {

namespace {

// Whoever waits longer has lost the other side.
constexpr absl::Duration kPatience = absl::Seconds(20);

int64_t NowNs() { return MonotonicClock().NowNanoseconds(); }

// A session of its own for each contender of this process.
std::string NewSession() {
  static int count = 0;
  return absl::StrCat("benchmark_", getpid(), "_", ++count);
}

void Expect(const absl::Status& status) { HANDOFF_CHECK(status.ok()) << status.ToString(); }

// How many messages the queue of one side holds.
uint64_t CapacityOf(const ChannelOptions& options) {
  constexpr uint64_t kLeast = 4;
  const uint64_t most = std::max(options.most_bytes_under_way / options.size_bytes, kLeast);
  return std::min<uint64_t>(most, SocketOptions().send_high_water_mark);
}

// Threads of ZeroMQ sleep between bursts: so many that this is not what is measured.
uint64_t LeastOf(const ChannelOptions& options) {
  return options.carrier == CarrierKind::kZeromq ? 4 * CapacityOf(options) : 1;
}

// One side of a channel: a transport and its sockets.
class ChannelSide {
 public:
  ChannelSide(const ChannelOptions& options, const std::string& session) : options_(options) {
    auto transport = Transport::Open({.session = session,
                                      .segment_size_bytes = options.segment_bytes,
                                      .member_name = "benchmark"});
    Expect(transport.status());
    transport_ = *std::move(transport);
    address_ = absl::StrCat(options.carrier == CarrierKind::kRing ? "ring://" : "ipc://@", session);
    socket_options_.spin = options.spin;
    socket_options_.send_high_water_mark = static_cast<uint32_t>(CapacityOf(options));
    socket_options_.receive_high_water_mark = socket_options_.send_high_water_mark;
  }

  Socket& Bind(Pattern pattern) {
    Socket& socket = Add(pattern);
    Expect(socket.Bind(address_));
    return socket;
  }
  Socket& Connect(Pattern pattern) {
    Socket& socket = Add(pattern);
    Expect(socket.Connect(address_));
    return socket;
  }

  void Allocate(Message* message) {
    if (__builtin_expect(
            transport_->TryAllocate(options_.size_bytes, message) == AllocateResult::kOk, 1)) {
      return;
    }
    // As much is under way as fits.
    auto waited =
        transport_->Allocate(options_.size_bytes, {.deadline = Deadline::After(kPatience)});
    Expect(waited.status());
    *message = *std::move(waited);
  }

 private:
  Socket& Add(Pattern pattern) {
    auto socket = transport_->CreateSocket(pattern, socket_options_);
    Expect(socket.status());
    return *sockets_.emplace_back(*std::move(socket));
  }

  const ChannelOptions options_;
  SocketOptions socket_options_;
  std::string address_;
  std::unique_ptr<Transport> transport_;
  std::vector<std::unique_ptr<Socket>> sockets_;
};

void Send(Socket& socket, Message& message, const Deadline& deadline) {
  HANDOFF_CHECK(socket.Send(std::move(message), deadline) == SocketResult::kOk);
}
void Receive(Socket& socket, Message* message, const Deadline& deadline) {
  HANDOFF_CHECK(socket.Receive(message, deadline) == SocketResult::kOk);
}

void Write(Message& message) {
  const auto bytes = message.mutable_bytes();
  std::memset(bytes.data(), 1, bytes.size());
}

// Adds up all words, so that the compiler must load them.
uint64_t Read(const Message& message) {
  uint64_t sum = 0;
  const std::byte* const data = message.data();
  for (size_t i = 0; i + sizeof(uint64_t) <= message.size(); i += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, data + i, sizeof(word));
    sum += word;
  }
  return sum;
}

// Until the memory that goes round has been touched.
uint64_t WarmUpFor(const ChannelOptions& options) {
  constexpr uint64_t kBytesThatGoRound = uint64_t{32} << 20;
  return std::clamp<uint64_t>(kBytesThatGoRound / options.size_bytes, 100, 500'000);
}

std::string NameOf(const ChannelOptions& options) {
  return options.carrier == CarrierKind::kRing ? "ring" : "ZeroMQ carrier";
}

}  // namespace

Contender OneWay(const ChannelOptions& options, Payload payload) {
  const std::string session = NewSession();
  const bool touch = payload == Payload::kRead;
  return {.name = NameOf(options),
          .open = [options, session, touch](Side side) -> Burst {
            auto channel = std::make_shared<ChannelSide>(options, session);
            if (side == Side::kA) {
              Socket& socket = channel->Bind(Pattern::kPush);
              return [channel, &socket, touch](uint64_t messages, std::vector<double>&) {
                const Deadline deadline = Deadline::After(kPatience);
                Message message;
                for (uint64_t i = 0; i < messages; ++i) {
                  channel->Allocate(&message);
                  if (touch) Write(message);
                  Send(socket, message, deadline);
                }
              };
            }
            Socket& socket = channel->Connect(Pattern::kPull);
            return [channel, &socket, touch](uint64_t messages, std::vector<double>&) {
              const Deadline deadline = Deadline::After(kPatience);
              Message message;
              uint64_t sum = 0;
              for (uint64_t i = 0; i < messages; ++i) {
                Receive(socket, &message, deadline);
                if (touch) sum += Read(message);
              }
              if (touch) HANDOFF_CHECK_NE(sum, 0u);
            };
          },
          .yields = options.carrier == CarrierKind::kZeromq,
          .warm_up_messages = WarmUpFor(options),
          .least_messages = LeastOf(options)};
}

Contender PartsOneWay(const ChannelOptions& options, uint32_t parts) {
  const std::string session = NewSession();
  return {.name = NameOf(options),
          .open = [options, session, parts](Side side) -> Burst {
            auto channel = std::make_shared<ChannelSide>(options, session);
            if (side == Side::kA) {
              Socket& socket = channel->Bind(Pattern::kPush);
              return [channel, &socket, parts](uint64_t messages, std::vector<double>&) {
                const Deadline deadline = Deadline::After(kPatience);
                std::vector<Message> message(parts);
                for (uint64_t i = 0; i < messages; ++i) {
                  for (Message& part : message) channel->Allocate(&part);
                  HANDOFF_CHECK(socket.SendParts(message, deadline) == SocketResult::kOk);
                }
              };
            }
            Socket& socket = channel->Connect(Pattern::kPull);
            return [channel, &socket, parts](uint64_t messages, std::vector<double>&) {
              const Deadline deadline = Deadline::After(kPatience);
              std::vector<Message> message;
              for (uint64_t i = 0; i < messages; ++i) {
                HANDOFF_CHECK(socket.ReceiveParts(&message, deadline) == SocketResult::kOk);
                HANDOFF_CHECK_EQ(message.size(), parts);
              }
            };
          },
          .yields = options.carrier == CarrierKind::kZeromq,
          .warm_up_messages = WarmUpFor(options) / parts + 1,
          .least_messages = LeastOf(options)};
}

Contender PublishTo(const ChannelOptions& options, uint32_t subscribers) {
  const std::string session = NewSession();
  return {.name = absl::StrCat("published to ", subscribers),
          .open = [options, session, subscribers](Side side) -> Burst {
            auto channel = std::make_shared<ChannelSide>(options, session);
            if (side == Side::kA) {
              Socket& socket = channel->Bind(Pattern::kPublish);
              return [channel, &socket, subscribers](uint64_t messages, std::vector<double>&) {
                const Deadline deadline = Deadline::After(kPatience);
                while (socket.Statistics().connected_peers < subscribers) {
                  HANDOFF_CHECK(!deadline.expired());
                  absl::SleepFor(absl::Milliseconds(1));
                }
                Message message;
                for (uint64_t i = 0; i < messages; i += subscribers) {
                  channel->Allocate(&message);
                  Send(socket, message, deadline);
                }
              };
            }
            std::vector<Socket*> sockets;
            for (uint32_t i = 0; i < subscribers; ++i) {
              sockets.push_back(&channel->Connect(Pattern::kSubscribe));
            }
            return [channel, sockets, subscribers](uint64_t messages, std::vector<double>&) {
              const Deadline deadline = Deadline::After(kPatience);
              Message message;
              for (uint64_t i = 0; i < messages; i += subscribers) {
                for (Socket* socket : sockets) Receive(*socket, &message, deadline);
              }
            };
          },
          .warm_up_messages = WarmUpFor(options)};
}

Contender RoundTrip(const ChannelOptions& options) {
  const std::string session = NewSession();
  const bool sleeps = options.spin == absl::ZeroDuration();
  return {.name = sleeps ? "ring, asleep" : "ring, awake",
          .open = [options, session](Side side) -> Burst {
            auto channel = std::make_shared<ChannelSide>(options, session);
            if (side == Side::kA) {
              Socket& socket = channel->Bind(Pattern::kPair);
              return [channel, &socket](uint64_t messages, std::vector<double>& latencies_ns) {
                const Deadline deadline = Deadline::After(kPatience);
                Message message;
                for (uint64_t i = 0; i < messages; ++i) {
                  const int64_t begin_ns = NowNs();
                  channel->Allocate(&message);
                  Send(socket, message, deadline);
                  Receive(socket, &message, deadline);
                  latencies_ns.push_back(static_cast<double>(NowNs() - begin_ns));
                }
              };
            }
            Socket& socket = channel->Connect(Pattern::kPair);
            return [channel, &socket](uint64_t messages, std::vector<double>&) {
              const Deadline deadline = Deadline::After(kPatience);
              Message message;
              for (uint64_t i = 0; i < messages; ++i) {
                Receive(socket, &message, deadline);
                Send(socket, message, deadline);
              }
            };
          },
          .yields = sleeps};
}

}  // namespace handoff

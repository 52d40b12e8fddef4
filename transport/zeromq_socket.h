// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_ZEROMQ_SOCKET_H_
#define HANDOFF_TRANSPORT_ZEROMQ_SOCKET_H_

#include <poll.h>
#include <zmq.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allocator/channel_table.h"
#include "allocator/member.h"
#include "allocator/ring_table.h"
#include "base/biased_lock.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/unique_fd.h"
#include "transport/carrier.h"
#include "transport/frame.h"
#include "transport/parcel.h"
#include "transport/socket_counters.h"
#include "transport/zeromq_departures.h"
#include "transport/zeromq_port.h"

namespace handoff::internal {

// The carrier of one socket's ZeroMQ addresses. In zeromq_carrier.cc: addresses, channels, what can
// be done now, and the end; in zeromq_sending.cc and zeromq_receiving.cc the ways of a message.
class ZeromqCarrier final : public Carrier, public RingUser {
 public:
  ZeromqCarrier(const CarrierContext& context, void* zeromq, ZeromqDepartures& departures)
      : context_(context),
        member_(*context.member),
        zeromq_(zeromq),
        departures_(departures),
        receives_(PatternReceives(context.pattern)) {
    // So that nobody takes the reply to another's request for his own.
    std::random_device random;
    exchange_ = uint64_t{random()} << 32 | random();
  }
  ~ZeromqCarrier() override { Close(); }

  absl::Status Bind(const Address& address) override { return Attach(address, &ZeromqPort::Bind); }
  absl::Status Connect(const Address& address) override {
    return Attach(address, &ZeromqPort::Connect);
  }
  std::string LastEndpoint() const override { return last_endpoint_; }

  SocketResult TrySend(Message& message) override;
  SocketResult Send(Message& message, const Deadline& deadline) override;
  SocketResult TryReceive(Message& message) override;
  SocketResult Receive(Message& message, const Deadline& deadline) override;

  SocketResult SendParts(std::span<Message> parts, const Deadline* deadline) override;
  SocketResult ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) override;

  bool HasParts() const override { return !parts_.empty(); }
  Readiness Look() override;
  uint32_t PeerCount() const override;
  absl::StatusOr<int> Descriptor() override;

  void Close() override;
  SocketStatistics Statistics() const override;

  void OnTick() override;

 private:
  absl::Status AddToAll(ZeromqPort& port);

  using AttachPort = absl::Status (ZeromqPort::*)(const Address&);
  absl::Status Attach(const Address& address, AttachPort attach);

  // Takes part in the session's channels, before there is anybody to send to or to receive from.
  absl::Status Enter();
  void LookForLosses();
  void TakeAnotherChannel();
  void DropUnreceived();

  // One attempt each.
  SocketResult SendParcel(Parcel* parcel, uint64_t size_bytes);
  SocketResult SendParcelLocked(Parcel* parcel, uint64_t size_bytes);
  SocketResult SendOnce(Message& message);
  ZeromqPort* PortToSend();
  bool TakeNext(Message& message);
  bool Take(ZeromqPort& port, const ZeromqPort::Received& received);
  void CountReceived();

  // After a first attempt that would block.
  template <class Attempt>
  SocketResult Wait(int events, const Deadline& deadline, Attempt attempt);
  template <class Attempt>
  SocketResult WaitToSend(const Deadline& deadline, Attempt attempt);
  void Sleep(absl::Duration slice, const Deadline& deadline);

  const CarrierContext context_;
  Member& member_;
  void* const zeromq_;
  ZeromqDepartures& departures_;

  // Guards the channel, from before a hold is posted on it until that has been handed over or taken
  // back: this socket's thread against the tick.
  BiasedLock lock_;
  std::optional<Channel> channel_;           // where this socket posts
  std::vector<Channel> aged_;                // where it did, and some receivers are left
  uint64_t losses_ = 0;                      // of connections, that were seen
  bool lost_ = false;                        // in the last tick
  std::atomic<bool> may_be_drained_{false};  // a connection has ended: once nothing is left, say so
  const bool receives_;
  bool entered_ = false;
  bool waits_for_row_ = false;  // for many parts; ZeroMQ has no news of that

  // REQ has a port for each address, because ZeroMQ would deal requests to those who have gone as
  // well; all others have one. Changed under the lock, so that other threads can look at it.
  mutable absl::Mutex ports_mutex_;
  std::vector<std::unique_ptr<ZeromqPort>> ports_;
  size_t next_port_ = 0;
  UniqueFd all_ports_;  // REQ, for Descriptor(): an epoll of all

  FrameContent content_;        // of the last frame
  std::vector<Message> parts_;  // of a message of many parts that is received one by one, reversed
  std::vector<pollfd> waited_;

  // REQ: the number of the last request, and whether its reply is awaited.
  uint64_t exchange_ = 0;
  bool asked_ = false;
  // REP: who has asked and waits for the reply, and the number of his request.
  struct Asker {
    std::string peer;
    uint64_t exchange;
  };
  std::optional<Asker> asker_;
  std::string sender_;  // REP: of the last frame

  // Whose messages have come, by the owner of the channel they were posted on; the last one, for
  // the next.
  struct Source {
    std::string peer;
    Counter messages;
    Counter bytes;
    Counter refused;  // stale ones that name its channel
  };
  // Null: the channel is nobody's any more.
  Source* SourceOf(uint16_t channel);
  mutable absl::Mutex sources_mutex_;
  std::map<uint64_t, Source> sources_ ABSL_GUARDED_BY(sources_mutex_);  // MemberId::Packed()
  Source* source_ = nullptr;
  uint16_t source_channel_ = 0;

  std::string last_endpoint_;
  bool closed_ = false;
  SocketCounters counters_;
  Counter dropped_;
};

// Whoever waits looks around that often: whether this process is still a member, and, who sends,
// whether there is somebody to send to.
inline constexpr absl::Duration kZeromqReceiveSlice = absl::Seconds(1);
inline constexpr absl::Duration kZeromqSendSlice = absl::Milliseconds(50);

template <class Attempt>
SocketResult ZeromqCarrier::Wait(int events, const Deadline& deadline, Attempt attempt) {
  for (;;) {
    if (context_.TakeInterruption()) return SocketResult::kInterrupted;
    if (!member_.Usable().ok()) return SocketResult::kUnusable;
    // Before the attempt, or a flood of frames that are dropped would hold us for ever.
    if (deadline.expired()) return SocketResult::kTimedOut;
    const SocketResult result = attempt();
    if (result != SocketResult::kWouldBlock) return result;
    // Nothing may touch the sockets between this and the sleep: descriptors tell of changes only.
    bool ready = false;
    for (const auto& port : ports_) ready = (port->Events() & events) != 0 || ready;
    if (!ready || waits_for_row_) {
      Sleep(events == ZMQ_POLLIN ? kZeromqReceiveSlice : kZeromqSendSlice, deadline);
    }
  }
}

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_ZEROMQ_SOCKET_H_

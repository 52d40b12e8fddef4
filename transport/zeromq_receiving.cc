// SPDX-License-Identifier: Apache-2.0
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "allocator/channel_table.h"
#include "base/clock.h"
#include "base/crash_point.h"
#include "transport/frame.h"
#include "transport/member_text.h"
#include "transport/socket_counters.h"
#include "transport/zeromq_port.h"
#include "transport/zeromq_socket.h"

namespace handoff::internal {

namespace {

// A receive that never waits drops at most so many frames before it says that nothing has come.
constexpr int kDropsATry = 64;

}  // namespace

// Steps 6 to 8. False: the frame was dropped.
bool ZeromqCarrier::Take(ZeromqPort& port, const ZeromqPort::Received& received) {
  if (__builtin_expect(received.several, 0)) {
    counters_.Dropped(SocketCounters::Drop::kBad, port.DescribeSender(),
                      "several frames in one message");
    return false;
  }
  if (__builtin_expect(!TakeFrame(member_, received.bytes, &content_), 0)) {
    if (content_.drop == SocketCounters::Drop::kStale) {
      member_.CountStaleHandle();
      if (Source* const source = SourceOf(content_.tag.channel)) source->refused.Add(1);
    }
    counters_.Dropped(content_.drop, port.DescribeSender(), content_.reason);
    return false;
  }
  if (context_.pattern == Pattern::kRequest) {
    if (!asked_ || content_.tag.exchange != exchange_) {
      // The reply to an earlier request, which nobody awaits any more.
      content_.message.Release();
      content_.parts.clear();
      return false;
    }
    asked_ = false;
  } else if (context_.pattern == Pattern::kReply) {
    asker_ = Asker{sender_, content_.tag.exchange};
  }
  return true;
}

ZeromqCarrier::Source* ZeromqCarrier::SourceOf(uint16_t channel) {
  const MemberId owner = member_.channels().Load(channel).owner();
  if (owner.slot == 0) return nullptr;
  absl::MutexLock lock(&sources_mutex_);
  Source& source = sources_[owner.Packed()];
  if (source.peer.empty()) source.peer = MemberText(member_.session().members(), owner);
  return &source;
}

void ZeromqCarrier::CountReceived() {
  counters_.Received(content_.size_bytes);
  const uint16_t channel = content_.tag.channel;
  if (channel == 0) return;  // an empty message, which nobody posts
  if (__builtin_expect(channel != source_channel_, 0)) {
    source_ = SourceOf(channel);
    source_channel_ = channel;
  }
  if (source_ == nullptr) return;
  source_->messages.Add(1);
  source_->bytes.Add(content_.size_bytes);
}

bool ZeromqCarrier::TakeNext(Message& message) {
  if (__builtin_expect(!parts_.empty(), 0)) {
    message = std::move(parts_.back());
    parts_.pop_back();
    return true;
  }
  for (const auto& port : ports_) {
    ZeromqPort::Received received;
    for (int tries = 0; tries <= kDropsATry; ++tries) {
      if (port->Receive(&received, &sender_) != ZeromqPort::Result::kDone) break;
      HANDOFF_CRASH_POINT("zeromq.receive.after_frame");
      if (!__builtin_expect(Take(*port, received), 1)) continue;
      CountReceived();
      if (__builtin_expect(!content_.parts.empty(), 0)) {
        parts_.swap(content_.parts);
        std::reverse(parts_.begin(), parts_.end());
        message = std::move(parts_.back());
        parts_.pop_back();
      } else {
        message = std::move(content_.message);
      }
      return true;
    }
  }
  if (__builtin_expect(may_be_drained_.load(std::memory_order_relaxed), 0) &&
      may_be_drained_.exchange(false, std::memory_order_relaxed)) {
    member_.channels().AgeClosed();
  }
  return false;
}

SocketResult ZeromqCarrier::TryReceive(Message& message) {
  return TakeNext(message) ? SocketResult::kOk : SocketResult::kWouldBlock;
}

SocketResult ZeromqCarrier::Receive(Message& message, const Deadline& deadline) {
  if (TakeNext(message)) return SocketResult::kOk;
  const int64_t began_ns = MonotonicClock().NowNanoseconds();
  const SocketResult result = Wait(ZMQ_POLLIN, deadline, [&] { return TryReceive(message); });
  counters_.ReceiveBlocked(static_cast<uint64_t>(MonotonicClock().NowNanoseconds() - began_ns));
  return result;
}

SocketResult ZeromqCarrier::ReceiveParts(std::vector<Message>& parts, const Deadline* deadline) {
  Message first;
  const SocketResult result = deadline == nullptr ? TryReceive(first) : Receive(first, *deadline);
  if (result != SocketResult::kOk) return result;
  parts.reserve(parts.size() + 1 + parts_.size());
  parts.push_back(std::move(first));
  for (; !parts_.empty(); parts_.pop_back()) parts.push_back(std::move(parts_.back()));
  return result;
}

// What has come to this process goes back now; what is on its way is lost when the sender sees the
// connection end.
void ZeromqCarrier::DropUnreceived() {
  ZeromqPort::Received received;
  for (const auto& port : ports_) {
    for (uint32_t i = 0; i < 2 * context_.options.receive_high_water_mark; ++i) {
      if (port->Receive(&received, &sender_) != ZeromqPort::Result::kDone) break;
      FrameContent unread;
      (void)TakeFrame(member_, received.bytes, &unread);
    }
  }
}

}  // namespace handoff::internal

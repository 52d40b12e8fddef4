// SPDX-License-Identifier: Apache-2.0
#include "transport/poller.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <climits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/barrier.h"
#include "base/futex.h"
#include "base/sync.h"
#include "transport/ring_wait.h"
#include "transport/transport.h"

namespace handoff {

namespace {

constexpr absl::Duration kMaxSpin = absl::Seconds(1);

// Whoever sleeps at descriptors looks around that often, whether this process is still a member.
// What has been missed at a ring makes its descriptor readable before that.
constexpr absl::Duration kDescriptorSlice = absl::Seconds(1);

short PollEvents(const PollItem& item) {
  return static_cast<short>((item.for_receive ? POLLIN : 0) | (item.for_send ? POLLOUT : 0));
}

bool IsDescriptor(const PollItem& item) { return item.socket == nullptr; }

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> Poller::Create(const PollerOptions& options) {
  if (options.spin < absl::ZeroDuration() || options.spin > kMaxSpin) {
    return absl::InvalidArgumentError(
        absl::StrCat("poller option spin = ", absl::FormatDuration(options.spin), ": from 0 to ",
                     absl::FormatDuration(kMaxSpin)));
  }
  std::unique_ptr<Poller> poller(new Poller(options.spin));
  const absl::Status status = poller->interruption_.Open();
  if (!status.ok()) return status;
  return poller;
}

void Poller::Interrupt() noexcept {
  interruption_.Raise();
  interrupted_.store(1, std::memory_order_release);
  FutexWake(interrupted_, INT_MAX);
}

SocketResult Poller::Check(std::span<PollItem> items) const {
  for (const PollItem& item : items) {
    if (IsDescriptor(item)) continue;
    if (item.for_receive && !item.socket->MayReceive()) {
      return item.socket->WhyNot(PatternReceives(item.socket->pattern()));
    }
    if (item.for_send && !item.socket->MaySend()) {
      return item.socket->WhyNot(PatternSends(item.socket->pattern()));
    }
    if (item.socket->carrier() == nullptr) return item.socket->WhyNot(true);
  }
  return SocketResult::kOk;
}

bool Poller::Look(std::span<PollItem> items) {
  bool any = false;
  for (PollItem& item : items) {
    item.ready = {};
    if (IsDescriptor(item)) {
      pollfd one{.fd = item.fd, .events = PollEvents(item), .revents = 0};
      if (poll(&one, 1, 0) > 0) {
        constexpr short kTelling = POLLERR | POLLHUP | POLLNVAL;
        item.ready.receive = item.for_receive && (one.revents & (POLLIN | kTelling)) != 0;
        item.ready.send = item.for_send && (one.revents & (POLLOUT | kTelling)) != 0;
      }
    } else {
      const Readiness ready = item.socket->carrier()->Look();
      item.ready.receive = item.for_receive && ready.receive;
      item.ready.send = item.for_send && ready.send;
    }
    any |= item.ready.any();
  }
  return any;
}

bool Poller::TakeInterruption(std::span<PollItem> items) {
  return interruption_.Take() || IsInterrupted(items);
}

bool Poller::IsInterrupted(std::span<PollItem> items) const {
  if (interruption_.raised()) return true;
  return std::any_of(items.begin(), items.end(), [](const PollItem& item) {
    return !IsDescriptor(item) && item.socket->transport_interruption_.raised();
  });
}

SocketResult Poller::Wait(std::span<PollItem> items, const Deadline& deadline) {
  for (PollItem& item : items) item.ready = {};
  const SocketResult possible = Check(items);
  if (possible != SocketResult::kOk) return possible;
  if (TakeInterruption(items)) return SocketResult::kInterrupted;
  if (Look(items) || Spin(items, deadline)) return SocketResult::kOk;
  const bool by_doors =
      CanFutexWaitAny() && items.size() < kMaxFutexWords && !items.empty() &&
      std::all_of(items.begin(), items.end(), [](const PollItem& item) {
        return !IsDescriptor(item) && item.socket->carrier()->SleepsAt() != nullptr;
      });
  for (;;) {
    if (TakeInterruption(items)) return SocketResult::kInterrupted;
    for (const PollItem& item : items) {
      if (!IsDescriptor(item) && !item.socket->transport_.Usable().ok()) {
        return SocketResult::kUnusable;
      }
    }
    if (deadline.expired()) return SocketResult::kTimedOut;
    if (by_doors) {
      SleepAtDoors(items, deadline);
    } else if (!SleepAtDescriptors(items, deadline)) {
      return SocketResult::kUnusable;
    }
    if (Look(items)) return SocketResult::kOk;
  }
}

bool Poller::Spin(std::span<PollItem> items, const Deadline& deadline) {
  const bool has_rings = std::any_of(items.begin(), items.end(), [](const PollItem& item) {
    return !IsDescriptor(item) && item.socket->ring_ != nullptr;
  });
  if (!has_rings) return false;
  constexpr int kTurnsBetweenLooks = 16;
  const int64_t begin_ns = MonotonicClock().NowNanoseconds();
  while (MonotonicClock().NowNanoseconds() - begin_ns < spin_ns_) {
    if (deadline.expired() || IsInterrupted(items)) return false;
    for (int i = 0; i < kTurnsBetweenLooks; ++i) {
      RealSync::Pause();
      if (Look(items)) return true;
    }
  }
  return false;
}

// The protocol of WaitAtDoor(), at all doors at once: step 2 once for all of them, and step 3 at
// all of them. What differs is that nothing is taken, only looked for.
void Poller::SleepAtDoors(std::span<PollItem> items, const Deadline& deadline) {
  interrupted_.store(0, std::memory_order_seq_cst);
  std::array<FutexWord, kMaxFutexWords> words;
  size_t count = 0;
  words[count++] = {&interrupted_, 0};
  for (const PollItem& item : items) {
    Door& door = *item.socket->carrier()->SleepsAt();
    door.sleeping.store(Door::kSleeps, std::memory_order_seq_cst);  // 1
    words[count++] = {&door.sleeping, Door::kSleeps};
  }
  (void)RareSideBarrier();                                                            // 2
  if (!Look(items) && !interruption_.raised()) {                                      // 3
    (void)FutexWaitAny({words.data(), count}, deadline.Slice(internal::kWaitSlice));  // 4
  }
  for (const PollItem& item : items) {
    item.socket->carrier()->SleepsAt()->sleeping.exchange(0, std::memory_order_acq_rel);
  }
}

// False: a socket has no descriptor, because there are none left.
bool Poller::SleepAtDescriptors(std::span<PollItem> items, const Deadline& deadline) {
  descriptors_.clear();
  descriptors_.push_back({.fd = interruption_.fd(), .events = POLLIN, .revents = 0});
  for (const PollItem& item : items) {
    if (IsDescriptor(item)) {
      descriptors_.push_back({.fd = item.fd, .events = PollEvents(item), .revents = 0});
      continue;
    }
    const absl::StatusOr<int> fd = item.socket->Descriptor();
    if (!fd.ok()) return false;
    descriptors_.push_back({.fd = *fd, .events = POLLIN, .revents = 0});
    const int transport_fd = item.socket->transport_interruption_.fd();
    if (std::none_of(descriptors_.begin(), descriptors_.end(),
                     [&](const pollfd& one) { return one.fd == transport_fd; })) {
      descriptors_.push_back({.fd = transport_fd, .events = POLLIN, .revents = 0});
    }
  }
  // From this look on, news make the descriptors readable.
  if (Look(items)) return true;
  const auto limit = deadline.Slice(kDescriptorSlice).RemainingTimespec();
  (void)ppoll(descriptors_.data(), descriptors_.size(), limit.has_value() ? &*limit : nullptr,
              nullptr);
  // Readable without a request: one that was taken back meanwhile.
  if (!interruption_.raised()) interruption_.Drain();
  return true;
}

}  // namespace handoff

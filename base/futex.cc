// SPDX-License-Identifier: Apache-2.0
#include "base/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/check.h"

namespace handoff {

// The operations without FUTEX_PRIVATE_FLAG: the kernel then finds sleepers by page, not by
// address.

namespace {

// By errno of the call that has just failed.
FutexResult WhyAwake(const char* call, const void* at) {
  switch (errno) {
    case EAGAIN:
      return FutexResult::kValueChanged;
    case ETIMEDOUT:
      return FutexResult::kTimedOut;
    case EINTR:
      return FutexResult::kInterrupted;
  }
  HANDOFF_CHECK(false) << call << " at " << at << ": " << std::strerror(errno);
  __builtin_unreachable();
}

}  // namespace

FutexResult FutexWait(const std::atomic<uint32_t>& word, uint32_t expected,
                      const Deadline& deadline) {
  const std::optional<timespec> timeout = deadline.RemainingTimespec();
  if (::syscall(SYS_futex, &word, FUTEX_WAIT, expected, timeout.has_value() ? &*timeout : nullptr,
                nullptr, 0) == 0) {
    return FutexResult::kWoken;
  }
  return WhyAwake("futex wait", &word);
}

namespace {

// Since Linux 5.16, also where the headers are older. <linux/futex.h>: FUTEX_32.
constexpr long kFutexWaitv = 449;
constexpr uint32_t kSize32 = 2;
struct WaitvWord {
  uint64_t expected;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};

std::atomic<bool> pretended{false};

}  // namespace

FutexResult FutexWaitAny(std::span<const FutexWord> words, const Deadline& deadline) {
  HANDOFF_CHECK(!words.empty() && words.size() <= kMaxFutexWords) << words.size() << " words";
  std::array<WaitvWord, kMaxFutexWords> list;
  for (size_t i = 0; i < words.size(); ++i) {
    list[i] = {words[i].expected, reinterpret_cast<uintptr_t>(words[i].word), kSize32, 0};
  }
  // This call wants a point in time.
  std::optional<timespec> until = deadline.RemainingTimespec();
  if (until.has_value()) {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    constexpr long kNanosecondsPerSecond = 1'000'000'000;
    until->tv_sec += now.tv_sec;
    until->tv_nsec += now.tv_nsec;
    if (until->tv_nsec >= kNanosecondsPerSecond) {
      until->tv_nsec -= kNanosecondsPerSecond;
      ++until->tv_sec;
    }
  }
  if (::syscall(kFutexWaitv, list.data(), words.size(), 0, until.has_value() ? &*until : nullptr,
                CLOCK_MONOTONIC) >= 0) {
    return FutexResult::kWoken;
  }
  return WhyAwake("futex_waitv", words.data());
}

bool CanFutexWaitAny() {
  // No words are refused with EINVAL by a kernel that knows the call.
  static const bool can = ::syscall(kFutexWaitv, nullptr, 0, 0, nullptr, 0) != 0 && errno == EINVAL;
  return can && !pretended.load(std::memory_order_relaxed);
}

void PretendThatNobodyCanFutexWaitAny(bool pretend) {
  pretended.store(pretend, std::memory_order_relaxed);
}

int FutexWake(const std::atomic<uint32_t>& word, int count) {
  const long woken = ::syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
  HANDOFF_CHECK_GE(woken, 0) << "futex wake at " << &word << ": " << std::strerror(errno);
  return static_cast<int>(woken);
}

}  // namespace handoff

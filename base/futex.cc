// SPDX-License-Identifier: Apache-2.0
#include "base/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "base/check.h"

namespace handoff {

// The operations without FUTEX_PRIVATE_FLAG: the kernel then finds sleepers by page, not by
// address.

FutexResult FutexWait(const std::atomic<uint32_t>& word, uint32_t expected,
                      const Deadline& deadline) {
  const std::optional<timespec> timeout = deadline.RemainingTimespec();
  if (::syscall(SYS_futex, &word, FUTEX_WAIT, expected, timeout.has_value() ? &*timeout : nullptr,
                nullptr, 0) == 0) {
    return FutexResult::kWoken;
  }
  switch (errno) {
    case EAGAIN:
      return FutexResult::kValueChanged;
    case ETIMEDOUT:
      return FutexResult::kTimedOut;
    case EINTR:
      return FutexResult::kInterrupted;
  }
  HANDOFF_CHECK(false) << "futex wait at " << &word << ": " << std::strerror(errno);
  __builtin_unreachable();
}

int FutexWake(const std::atomic<uint32_t>& word, int count) {
  const long woken = ::syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
  HANDOFF_CHECK_GE(woken, 0) << "futex wake at " << &word << ": " << std::strerror(errno);
  return static_cast<int>(woken);
}

}  // namespace handoff

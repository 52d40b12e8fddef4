// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_FUTEX_H_
#define HANDOFF_BASE_FUTEX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/clock.h"

namespace handoff {

enum class FutexResult {
  kWoken,         // by FutexWake(), or for no reason: look at the word again
  kValueChanged,  // the word was not `expected`; did not sleep
  kTimedOut,
  kInterrupted,  // by a signal handler
};

// Sleeps until somebody wakes `word`, unless it differs from `expected`. The word may be shared by
// processes, each with its own mapping. The word is compared also if the deadline has expired. Says
// nothing about memory order: load the word afterwards with the order you need.
[[nodiscard]] FutexResult FutexWait(const std::atomic<uint32_t>& word, uint32_t expected,
                                    const Deadline& deadline);

// Wakes at most `count` sleepers, in whichever process. Returns how many were woken.
int FutexWake(const std::atomic<uint32_t>& word, int count);

// One of several words to sleep on.
struct FutexWord {
  const std::atomic<uint32_t>* word;
  uint32_t expected;
};
inline constexpr size_t kMaxFutexWords = 128;

// The same on 1 to kMaxFutexWords words at once, until one of them is woken, unless one differs
// from what is expected. Only where CanFutexWaitAny().
[[nodiscard]] FutexResult FutexWaitAny(std::span<const FutexWord> words, const Deadline& deadline);

// Whether the kernel has that: since Linux 5.16, unless a system call filter refuses it.
bool CanFutexWaitAny();
// For tests of what is done without it: from here on, false.
void PretendThatNobodyCanFutexWaitAny(bool pretend);

}  // namespace handoff

#endif  // HANDOFF_BASE_FUTEX_H_

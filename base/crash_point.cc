// SPDX-License-Identifier: Apache-2.0
#include "base/crash_point.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>

#include "base/check.h"

namespace handoff {

namespace internal {
constinit std::atomic<bool> crash_points_watched{false};
}  // namespace internal

namespace {

// Everything here is plain memory without locks or allocation, so that it also works in a forked
// child and changes nothing about the code under test.

std::array<char, kMaxCrashPointNameLength + 1> armed_name{};
constinit std::atomic<uint64_t> passes_until_crash{0};  // 0: nothing is armed

struct Count {
  std::atomic<const char*> name{nullptr};
  std::atomic<uint64_t> passes{0};
};
constinit std::array<Count, kMaxCountedCrashPoints> counts{};  // filled from the front
constinit std::atomic<bool> counting{false};

void CountPass(const char* name) {
  for (Count& count : counts) {
    const char* known = count.name.load(std::memory_order_acquire);
    if (known == nullptr &&
        count.name.compare_exchange_strong(known, name, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
      known = name;
    }
    // By content: one literal may have several addresses.
    if (known == name || std::strcmp(known, name) == 0) {
      count.passes.fetch_add(1, std::memory_order_relaxed);
      return;
    }
  }
}

[[noreturn]] void Die() {
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

// HANDOFF_CRASH_AT is read before main().
[[maybe_unused]] const int armed_by_environment = [] {
  const char* const value = std::getenv("HANDOFF_CRASH_AT");
  if (value == nullptr) return 0;
  std::string_view name = value;
  uint64_t nth = 1;
  const size_t colon = name.rfind(':');
  if (colon != std::string_view::npos) {
    const char* const end = name.data() + name.size();
    const std::from_chars_result result = std::from_chars(name.data() + colon + 1, end, nth);
    HANDOFF_CHECK(result.ec == std::errc() && result.ptr == end)
        << "HANDOFF_CRASH_AT=" << value << ": expected name or name:nth";
    name = name.substr(0, colon);
  }
  ArmCrashPoint(name, nth);
  return 0;
}();

}  // namespace

void internal::PassCrashPoint(const char* name) {
  if (counting.load(std::memory_order_relaxed)) CountPass(name);
  // Acquire: pairs with the release in ArmCrashPoint(), after which the name is complete.
  if (passes_until_crash.load(std::memory_order_acquire) == 0 ||
      std::strcmp(armed_name.data(), name) != 0)
    return;
  if (passes_until_crash.fetch_sub(1, std::memory_order_relaxed) == 1) Die();
}

void ArmCrashPoint(std::string_view name, uint64_t nth) {
  HANDOFF_CHECK(!name.empty() && name.size() <= kMaxCrashPointNameLength)
      << "crash point \"" << name << "\"";
  HANDOFF_CHECK_GE(nth, 1u) << "crash point \"" << name << "\"";
  DisarmCrashPoint();
  armed_name.fill('\0');
  name.copy(armed_name.data(), name.size());
  passes_until_crash.store(nth, std::memory_order_release);
  internal::crash_points_watched.store(true, std::memory_order_relaxed);
}

void DisarmCrashPoint() {
  passes_until_crash.store(0, std::memory_order_relaxed);
  internal::crash_points_watched.store(counting.load(std::memory_order_relaxed),
                                       std::memory_order_relaxed);
}

void CountCrashPoints() {
  for (Count& count : counts) {
    count.passes.store(0, std::memory_order_relaxed);
    count.name.store(nullptr, std::memory_order_relaxed);
  }
  counting.store(true, std::memory_order_relaxed);
  internal::crash_points_watched.store(true, std::memory_order_relaxed);
}

std::vector<std::pair<std::string_view, uint64_t>> CrashPointsPassed() {
  std::vector<std::pair<std::string_view, uint64_t>> passed;
  for (const Count& count : counts) {
    const char* const name = count.name.load(std::memory_order_acquire);
    if (name == nullptr) break;
    passed.emplace_back(name, count.passes.load(std::memory_order_relaxed));
  }
  return passed;
}

}  // namespace handoff

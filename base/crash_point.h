// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_CRASH_POINT_H_
#define HANDOFF_BASE_CRASH_POINT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace handoff {

// Places in the code at which a test can have the process killed, as if by kill -9.
//
//   HANDOFF_CRASH_POINT("allocator.claim.after_head");
//
// Does something only in builds with HANDOFF_CRASH_POINTS defined, and there costs a relaxed load
// while nothing is armed or counted. `name` is a string literal, at most kMaxCrashPointNameLength
// bytes: folder, operation, place.
#ifdef HANDOFF_CRASH_POINTS
#define HANDOFF_CRASH_POINT(name)                                                              \
  do {                                                                                         \
    if (__builtin_expect(                                                                      \
            ::handoff::internal::crash_points_watched.load(::std::memory_order_relaxed), 0)) { \
      ::handoff::internal::PassCrashPoint("" name);                                            \
    }                                                                                          \
  } while (false)
inline constexpr bool kCrashPointsCompiledIn = true;
#else
#define HANDOFF_CRASH_POINT(name) static_cast<void>("" name)
inline constexpr bool kCrashPointsCompiledIn = false;
#endif

inline constexpr size_t kMaxCrashPointNameLength = 127;

// How many names can be counted; those beyond are not.
inline constexpr size_t kMaxCountedCrashPoints = 1024;

// The `nth` time (1 is the next) that any thread of this process passes the point `name`, the
// process kills itself with SIGKILL. Replaces what was armed before. A forked child goes on
// counting for itself. One thread at a time. The environment variable HANDOFF_CRASH_AT=name or
// name:nth does the same when the program starts.
void ArmCrashPoint(std::string_view name, uint64_t nth = 1);
void DisarmCrashPoint();

// From now on remembers which points are passed, and how often; begins at none. One thread at a
// time.
void CountCrashPoints();

// The names passed since CountCrashPoints() in the order of their first time, each with its number
// of times. Any thread; names being passed at the same moment may be missing.
std::vector<std::pair<std::string_view, uint64_t>> CrashPointsPassed();

namespace internal {
extern std::atomic<bool> crash_points_watched;
[[gnu::cold, gnu::noinline]] void PassCrashPoint(const char* name);
}  // namespace internal

}  // namespace handoff

#endif  // HANDOFF_BASE_CRASH_POINT_H_

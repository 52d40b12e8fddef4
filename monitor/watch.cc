// SPDX-License-Identifier: Apache-2.0
#include "monitor/watch.h"

namespace handoff {

namespace {

constexpr int64_t kReclaimAfterNs = 200'000'000;
constexpr int64_t kReclaimAgainAfterNs = 10'000'000'000;

}  // namespace

SessionWatch::SessionWatch(absl::Duration timeout, const Clock& clock)
    : timeout_(timeout), clock_(clock) {}

WatchVerdict SessionWatch::Observe(const SessionPresence& presence) {
  if (!presence.any_object) {
    const bool was_there = seen_;
    seen_ = false;
    silent_fingerprint_.reset();
    return was_there ? WatchVerdict::kGone : WatchVerdict::kWait;
  }
  seen_ = true;
  // A heartbeat changes the fingerprint, so the silence begins with the last one.
  if (silent_fingerprint_ != presence.fingerprint) {
    silent_fingerprint_ = presence.fingerprint;
    silent_since_ns_ = clock_.NowNanoseconds();
  }
  if (presence.living_members > 0) {
    return IsTimeToReclaim(presence) ? WatchVerdict::kReclaim : WatchVerdict::kWait;
  }
  const absl::Duration silent = absl::Nanoseconds(clock_.NowNanoseconds() - silent_since_ns_);
  return silent >= timeout_ ? WatchVerdict::kCleanUp : WatchVerdict::kWait;
}

bool SessionWatch::IsTimeToReclaim(const SessionPresence& presence) {
  const int64_t now_ns = clock_.NowNanoseconds();
  if (presence.unreclaimed != unreclaimed_) {
    unreclaimed_ = presence.unreclaimed;
    reclaim_at_ns_ = now_ns + kReclaimAfterNs;
  }
  if (unreclaimed_ == 0 || now_ns < reclaim_at_ns_) return false;
  reclaim_at_ns_ = now_ns + kReclaimAgainAfterNs;
  return true;
}

}  // namespace handoff

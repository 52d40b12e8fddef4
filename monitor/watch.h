// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_MONITOR_WATCH_H_
#define HANDOFF_MONITOR_WATCH_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "base/clock.h"
#include "monitor/snapshot.h"

namespace handoff {

// What a monitor has to do after a look at its session.
enum class WatchVerdict {
  kWait,
  kReclaim,  // members have died, and those who live have not reclaimed them: they stand still
  kCleanUp,  // all members are gone, and nothing has moved for the timeout
  kGone,     // it was there, and is not any more
};

// Decides when a session is over, and when its members need help, by looks from time to time. A
// session whose members are alive, by the kernel's word, is never over, however long it is silent.
// The living reclaim the dead within some 50 ms; who is still there after four times that is left
// to the monitor, again after 10 s if that changes nothing.
class SessionWatch {
 public:
  // `timeout`: how long a session without living members must have been silent since its last
  // heartbeat. Zero or more.
  SessionWatch(absl::Duration timeout, const Clock& clock);

  WatchVerdict Observe(const SessionPresence& presence);

 private:
  bool IsTimeToReclaim(const SessionPresence& presence);

  const absl::Duration timeout_;
  const Clock& clock_;
  bool seen_ = false;
  uint64_t unreclaimed_ = 0;
  int64_t reclaim_at_ns_ = 0;  // while somebody is unreclaimed
  std::optional<uint64_t> silent_fingerprint_;
  int64_t silent_since_ns_ = 0;
};

}  // namespace handoff

#endif  // HANDOFF_MONITOR_WATCH_H_

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
  kCleanUp,  // all members are gone, and nothing has moved for the timeout
  kGone,     // it was there, and is not any more
};

// Decides when a session is over, by looks from time to time. A session whose members are alive, by
// the kernel's word, is never over, however long it is silent.
class SessionWatch {
 public:
  // `timeout`: how long a session without living members must have been silent since its last
  // heartbeat. Zero or more.
  SessionWatch(absl::Duration timeout, const Clock& clock);

  WatchVerdict Observe(const SessionPresence& presence);

 private:
  const absl::Duration timeout_;
  const Clock& clock_;
  bool seen_ = false;
  std::optional<uint64_t> silent_fingerprint_;
  int64_t silent_since_ns_ = 0;
};

}  // namespace handoff

#endif  // HANDOFF_MONITOR_WATCH_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_MONITOR_SNAPSHOT_H_
#define HANDOFF_MONITOR_SNAPSHOT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "allocator/object_names.h"
#include "allocator/segment_usage.h"
#include "control_queue/event_log.h"
#include "control_queue/member_table.h"

namespace handoff {

struct MemberSnapshot {
  MemberId id;
  MemberIdentity identity;
  bool row_live = false;         // else it has been found dead, and its reclaim goes on
  bool lock_held = false;        // the kernel says that it lives
  bool process_stopped = false;  // by SIGSTOP or a debugger; false if that cannot be known
  uint64_t heartbeats = 0;       // since its slot was first used
  // Lives, but its heartbeat did not change during the whole look, `silence_ms` long. False where
  // the look was not long enough, or heartbeats were not looked at.
  bool stalled = false;
  uint64_t silence_ms = 0;
};

struct SegmentSnapshot {
  uint32_t id = 0;
  std::string name;
  SegmentUsage usage;
  uint64_t reserved_bytes = 0;  // of the payload, taken from the file system so far
  uint64_t reclaimed_blocks = 0;
  uint64_t reclaimed_bytes = 0;
  uint64_t failed_allocations = 0;
  bool waiters = false;  // somebody waits for memory
};

struct ObjectSnapshot {
  std::string name;
  uint64_t size_bytes = 0;
  uint64_t reserved_bytes = 0;
};

enum class SessionState {
  kAbsent,      // no object of that name
  kHalfMade,    // objects, but no usable management object: somebody was killed while making it
  kOtherBuild,  // made by a program with another layout; `problem` names both
  kUsable,
};

// A session at about one moment, seen from outside: without joining, through mappings that cannot
// be written.
struct SessionSnapshot {
  std::string session;
  SessionState state = SessionState::kAbsent;
  std::string problem;
  uint64_t nonce = 0;
  uint64_t created_at_ns = 0;  // since the Unix epoch
  uint32_t owner_uid = 0;
  std::vector<MemberSnapshot> members;
  std::vector<SegmentSnapshot> segments;
  std::vector<ObjectSnapshot> objects;
  std::vector<Event> events;  // the last of each slot, oldest first
  uint64_t taken_at_ns = 0;   // of MonotonicClock(), as the times of events

  // Members that live, by the kernel's word.
  uint32_t LivingMembers() const;
};

// Looks at a session. Waits at most `heartbeat_limit` until the heart of every living member has
// beaten (members beat every 50 ms); those whose heart did not are stalled. Zero: does not wait.
// kPermissionDenied: another user's, names him. Other errors: the directory cannot be read.
absl::StatusOr<SessionSnapshot> TakeSnapshot(const ObjectNames& names,
                                             absl::Duration heartbeat_limit = absl::ZeroDuration());

// What the monitor needs to know in each round, which is less: cheap, however large the segments.
struct SessionPresence {
  bool any_object = false;
  uint32_t living_members = 0;
  // Which members have died and were not reclaimed yet; 0: none. Says nothing else.
  uint64_t unreclaimed = 0;
  // Changes whenever anything has happened: objects, joins, deaths, heartbeats.
  uint64_t fingerprint = 0;
};
absl::StatusOr<SessionPresence> LookForSession(const ObjectNames& names);

}  // namespace handoff

#endif  // HANDOFF_MONITOR_SNAPSHOT_H_

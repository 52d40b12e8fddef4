// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SESSION_H_
#define HANDOFF_ALLOCATOR_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allocator/control_queue_end.h"
#include "allocator/death_probe.h"
#include "allocator/management_layout.h"
#include "allocator/mapping.h"
#include "allocator/member_hooks.h"
#include "allocator/member_watch.h"
#include "allocator/object_names.h"
#include "allocator/segment_memory.h"
#include "allocator/segment_table.h"
#include "base/clock.h"
#include "base/sync.h"
#include "control_queue/event_log.h"
#include "control_queue/life_lock.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff {

// What a session tells about things that nobody asked for.
struct SessionNotice {
  enum class Kind {
    kMemberDied,           // `member` was found dead by this process; it is being reclaimed
    kLockOutlivedProcess,  // the same, but a child of it keeps its lock: its slot stays out of use
                           // until that ends
    kLockLostButRunning,   // `member` runs, but has closed its descriptors; it is not reclaimed
    kOwnLockTakenAgain,    // that was us: another part of this process had closed our descriptors
    kOwnLockLost,  // it could not be taken again, or we were declared dead: this member has stopped
                   // for good
    kObjectsRemoved,  // somebody has removed our files; members go on, but nobody can join them any
                      // more
  };
  Kind kind = Kind::kMemberDied;
  MemberId member = {};
  uint32_t pid = 0;  // of the member, in its own PID namespace
};

struct SessionOptions {
  ObjectNamesOptions names = {};

  // Shown by the monitor; cut to MemberIdentity::kMaxNameBytes. Empty: the program's name.
  std::string member_name = "";

  // Size of the main segment, if this member is the first; 0: none is made. The size that the first
  // member gave counts for all.
  uint64_t main_segment_bytes = uint64_t{2} << 30;

  // Of the main segment: placed by the member that makes it. Not brought in by the session.
  SegmentMemory main_segment_memory = {};

  // Writes what must be in the area of a segment from the start; for every segment made through
  // this session.
  std::function<absl::Status(SegmentObjects&)> prepare_segment = nullptr;

  // How long to wait for another process that is joining, leaving, or changing the session.
  // Positive. Raise it where processes are stopped by a debugger.
  absl::Duration join_deadline = absl::Seconds(5);

  // Opens the session to the members of a group of this name or number: files get mode 0660. Needed
  // by every member that is not the owner. Empty: to nobody else. In a directory with the sticky
  // bit, as /dev/shm, only its maker can remove a file, so use another directory for sessions of
  // several users.
  std::string shm_group = "";

  // Joins only a session in which somebody lives: else kNotFound, and nothing was changed. For who
  // looks after others and has no business there of its own.
  bool only_if_alive = false;

  // How often the background thread looks after the members. 1 ms to 1 s.
  absl::Duration watch_period = absl::Milliseconds(50);

  // Called by any thread of the session, without a lock, at most once for each event. May be null.
  std::function<void(const SessionNotice&)> on_notice = nullptr;
};

// This process's membership in a session: the objects that all members share, a row that says that
// it is alive, and a thread that notices the death of others. Made by Join(), ended by Leave().
//
// Any thread may call any function. In a forked child all calls but accessors return
// kFailedPrecondition, and the destructor does nothing but unmap; the parent is not affected.
class Session {
 public:
  // Joins the session, and makes it if there is none or if nobody of it is alive. On failure
  // nothing is left behind. kInvalidArgument: a name or an option. kNotFound: with only_if_alive,
  // nobody is alive. kPermissionDenied: names the session's owner. kFailedPrecondition: made by
  // another build, names both. kDeadlineExceeded: names the process that was waited for.
  // kResourceExhausted: no room in the file system or address space, all slots or descriptors in
  // use.
  static absl::StatusOr<std::unique_ptr<Session>> Join(const SessionOptions& options);

  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Leave(), if that was not done.
  ~Session();

  // Ends the membership: moves stop, everything that this member held is given back, and the last
  // one to leave removes all objects. Mappings handed out stay valid, but must not be written to
  // any more. Again: OK at once. kDeadlineExceeded: this member has left, but could not see whether
  // it was the last one; the next one to join or a monitor cleans up. Other errors: a file could
  // not be removed.
  absl::Status Leave();

  // From here on members that have died are reclaimed with `hooks` (until then they wait); those
  // that are dead already at once, by this call. nullptr: their rows are just freed. Returns when
  // no call of the former hooks is under way. Not from within a hook.
  void set_hooks(MemberHooks* hooks);

  // Looks at all members and reclaims those that have died. True if there were any. For when memory
  // runs out.
  bool ReclaimDead();

  // Tells an event through the control queue, to whoever reads it. As ControlQueueEnd::Tell().
  void Tell(EventKind kind, MemberId about, uint64_t first = 0, uint64_t second = 0) {
    control_queue_.Tell(kind, about, first, second);
  }

  MemberId id() const { return self_; }
  uint32_t slot() const { return self_.slot; }
  uint32_t epoch() const { return self_.epoch; }
  uint64_t nonce() const { return header().object.nonce; }
  MemberTable<RealSync>& members() { return members_; }
  const ManagementHeader& header() const { return layout().header; }
  const ManagementLayout& layout() const {
    return *reinterpret_cast<const ManagementLayout*>(management_.bytes().data());
  }
  // The names in use; the main segment's is the one that the first member gave.
  const ObjectNames& names() const { return names_; }
  const FileAccess& access() const { return access_; }

  // OK as long as this process may use the session. kFailedPrecondition: it has left, is a forked
  // child, or was found to have lost its life lock for good.
  absl::Status CheckUsable() const;

  // Segments and tables, as SegmentTable says. The first three wait for byte 0 at most
  // `join_deadline`; kFailedPrecondition also when the session's files were removed.
  absl::StatusOr<SegmentObjects> CreateSegment(SegmentOptions options);
  // `only`: row and word of the one to remove; kNotFound if another one has its id by now.
  absl::Status RemoveSegment(uint32_t id, std::optional<SegmentInfo> only = std::nullopt);
  absl::StatusOr<Mapping> EnsureArea(AreaKind kind, uint64_t size_bytes, uint64_t backed_bytes);
  absl::StatusOr<SegmentObjects> OpenSegment(uint32_t id) const;
  absl::StatusOr<SegmentObjects> OpenTables(uint32_t row) const;
  absl::StatusOr<Mapping> OpenArea(AreaKind kind) const;
  // Whether what was mapped is still the segment of its row.
  bool IsLive(const SegmentObjects& objects) const;
  std::vector<SegmentInfo> Segments() const { return segments_.List(); }

  // Runs `change` while no other process makes or removes objects of this session, joins or leaves.
  absl::Status WithObjectsLocked(const std::function<absl::Status()>& change);

 private:
  struct Joined;

  // Hooks in use by a call that is under way.
  class HookCall;

  Session(const SessionOptions& options, Joined joined);

  absl::Status StartWatch();
  std::shared_ptr<LifeLock> lock() const;
  void Notify(SessionNotice::Kind kind, MemberId member, uint32_t pid) const;
  void NotifyDeath(const Probe& probe);
  void Reclaim(MemberId member);
  void StopMoves();
  absl::Status RemoveObjectsIfLast();

  // By the watch's thread.
  WatchTurn OnPeriod();
  enum class Retaken { kYes, kLater, kNever };
  Retaken TakeLifeLockAgain();
  WatchTurn StopForGood();
  void LookForRemovedObjects();
  void RestoreControlQueue();

  const SessionOptions options_;
  const ObjectNames names_;
  const FileAccess access_;
  const uint32_t fork_generation_;
  Mapping management_;
  SegmentTable segments_;
  MemberTable<RealSync> members_;
  const MemberId self_;
  ControlQueueEnd control_queue_;
  std::atomic<bool> stopped_{false};  // left, or lost for good
  std::atomic<bool> moves_stopped_{false};

  mutable absl::Mutex mutex_;
  // Replaced when the descriptor was closed by somebody else.
  std::shared_ptr<LifeLock> lock_ ABSL_GUARDED_BY(mutex_);
  MemberHooks* hooks_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool reclaims_ ABSL_GUARDED_BY(mutex_) = false;  // set_hooks() was called, also with null
  uint32_t hook_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;

  const DeathProbe probe_;
  // By the watch's thread.
  bool removal_reported_ = false;
  bool lock_is_lost_ = false;
  std::unique_ptr<MemberWatch> watch_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SESSION_H_

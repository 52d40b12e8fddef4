// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SESSION_LOCK_H_
#define HANDOFF_ALLOCATOR_SESSION_LOCK_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "allocator/mapping.h"
#include "allocator/object_names.h"
#include "base/clock.h"
#include "control_queue/life_lock.h"

namespace handoff {

// The objects of a session are made, removed, joined and left by one process at a time: the one
// that has byte 0 of the file under the lock file's name. These functions are how one comes to have
// it.

// OK if this process may use the session whose lock file this is. kPermissionDenied names the
// owner, this user and the flag --session. kNotFound: there is no such file.
absl::Status CheckSessionOwner(const ObjectNames& names, const FileAccess& access);

struct SessionLockOptions {
  bool create = false;  // make the lock file if there is none, of mode 0600
  FileAccess access = {};
};

// Opens the lock file and takes byte 0. When the file has lost its name meanwhile, because the last
// member removed it, starts again: the file returned is the one of the name for as long as byte 0
// is held (only people remove it otherwise). kNotFound: no lock file, and not `create`.
// kDeadlineExceeded: names the process that has byte 0. kPermissionDenied: as above.
absl::StatusOr<std::unique_ptr<LifeLock>> EnterSession(const ObjectNames& names,
                                                       const SessionLockOptions& options,
                                                       const Deadline& deadline);

// Gives one's own lock file exactly this mode and group; byte 0 held.
absl::Status SetLockFileAccess(const ObjectNames& names, const FileAccess& access);

// The same through a lock that is open already. kFailedPrecondition: its file has lost its name, so
// byte 0 excludes nobody any more; it is not held then.
absl::Status ReenterSession(const ObjectNames& names, LifeLock& lock, const Deadline& deadline);

// Gives byte 0 back at the end of a scope.
class SessionEntered {
 public:
  explicit SessionEntered(LifeLock& lock) : lock_(&lock) {}
  SessionEntered(const SessionEntered&) = delete;
  SessionEntered& operator=(const SessionEntered&) = delete;
  ~SessionEntered() { lock_->Unlock(kGuardByte).IgnoreError(); }

 private:
  LifeLock* lock_;
};

// The inode number of the lock file, or 0.
uint64_t LockFileInode(const ObjectNames& names);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SESSION_LOCK_H_

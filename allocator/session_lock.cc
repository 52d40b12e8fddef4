// SPDX-License-Identifier: Apache-2.0
#include "allocator/session_lock.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/file_system.h"
#include "base/crash_point.h"

namespace handoff {
namespace {

constexpr mode_t kGroupMode = S_IRGRP | S_IWGRP;

absl::Status Busy(const ObjectNames& names, const absl::Status& status) {
  if (status.code() != absl::StatusCode::kDeadlineExceeded) return status;
  return absl::DeadlineExceededError(absl::StrCat(
      "session '", names.session(),
      "': another process is joining, leaving or changing it and does not come to an end: ",
      std::string(status.message())));
}

// False: the file that is open has lost its name, and byte 0 was given back.
absl::StatusOr<bool> TakeGuard(const ObjectNames& names, LifeLock& lock, const Deadline& deadline) {
  if (absl::Status status = lock.Lock(kGuardByte, deadline); !status.ok()) {
    return Busy(names, status);
  }
  const absl::StatusOr<bool> same_file = lock.SameFile(names.LockFilePath());
  if (same_file.ok() && *same_file) return true;
  const SessionEntered leave(lock);
  return same_file;
}

}  // namespace

absl::Status CheckSessionOwner(const ObjectNames& names, const FileAccess& access) {
  const std::string path = names.LockFilePath();
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("opening ", path));
  if (info.st_uid == geteuid()) return absl::OkStatus();
  if (access.group.has_value() && info.st_gid == *access.group &&
      (info.st_mode & kGroupMode) == kGroupMode) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "session '", names.session(), "' (", path, ") belongs to ", DescribeUser(info.st_uid),
      ", this process runs as ", DescribeUser(geteuid()), "; choose another one with --session"));
}

absl::Status SetLockFileAccess(const ObjectNames& names, const FileAccess& access) {
  const std::string path = names.LockFilePath();
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": not a file"));
  }
  if (access.group.has_value() && info.st_gid != *access.group &&
      lchown(path.c_str(), static_cast<uid_t>(-1), *access.group) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("giving ", path, " to group ", *access.group));
  }
  if ((info.st_mode & 07777) != access.mode() && chmod(path.c_str(), access.mode()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("setting the mode of ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LifeLock>> EnterSession(const ObjectNames& names,
                                                       const SessionLockOptions& options,
                                                       const Deadline& deadline) {
  const std::string path = names.LockFilePath();
  const LifeLockOptions lock_options = {.create = options.create, .mode = 0600};
  do {
    absl::StatusOr<std::unique_ptr<LifeLock>> lock = LifeLock::Open(path, lock_options);
    if (absl::IsNotFound(lock.status())) return lock;
    const absl::Status owner = CheckSessionOwner(names, options.access);
    if (absl::IsNotFound(owner)) continue;  // removed meanwhile
    if (!owner.ok()) return owner;
    if (absl::IsPermissionDenied(lock.status())) {
      // One's own file: its maker was killed before it could undo what the umask had taken.
      if (absl::Status status = SetLockFileAccess(names, FileAccess{}); !status.ok()) return status;
      lock = LifeLock::Open(path, lock_options);
    }
    if (!lock.ok()) return lock.status();
    HANDOFF_CRASH_POINT("session.lock.opened");
    const absl::StatusOr<bool> entered = TakeGuard(names, **lock, deadline);
    if (!entered.ok()) return entered.status();
    HANDOFF_CRASH_POINT("session.lock.entered");
    if (*entered) return lock;
  } while (!deadline.expired());
  return Busy(names, absl::DeadlineExceededError("its lock file is removed again and again"));
}

absl::Status ReenterSession(const ObjectNames& names, LifeLock& lock, const Deadline& deadline) {
  const absl::StatusOr<bool> entered = TakeGuard(names, lock, deadline);
  if (!entered.ok()) return entered.status();
  if (*entered) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "session '", names.session(), "': its lock file ", names.LockFilePath(), " was removed"));
}

uint64_t LockFileInode(const ObjectNames& names) {
  struct stat info = {};
  return lstat(names.LockFilePath().c_str(), &info) == 0 ? info.st_ino : 0;
}

}  // namespace handoff

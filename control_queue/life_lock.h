// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_LIFE_LOCK_H_
#define HANDOFF_CONTROL_QUEUE_LIFE_LOCK_H_

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "control_queue/member_id.h"

namespace handoff {

// The byte of the lock file that is held while a session is made or removed, joined or left. Byte i
// from 1 to kMaxMembers - 1 is held by the member in slot i for as long as it lives.
inline constexpr uint32_t kGuardByte = 0;

struct LifeLockOptions {
  bool create = false;  // make the file if there is none
  mode_t mode = 0600;   // of a file that is made; the process's umask does not count
};

// One open file description of a session's lock file, and the locks on its bytes that belong to it
// (F_OFD_SETLK). The kernel gives the locks back when the description is gone: after the last
// thread of a killed process has ended and its memory has been torn down, also while it is a
// zombie, and across PID namespaces. It does not survive exec, and a child made by fork() closes
// it, so the child's life does not count as the parent's. A child made by a raw clone system call,
// which nobody can notice, keeps the parent's bytes held until it ends or executes.
//
// A program that closes descriptors it does not know closes this one, too, and gives all its bytes
// back. The number may be another file's soon. Every call first looks whether it still is ours, and
// from the first time that it is not, all return kFailedPrecondition.
//
// Two LifeLocks exclude each other, also in one process; so do the threads that use one. Any
// thread may call any function. In a forked child all calls return kFailedPrecondition.
class LifeLock {
 public:
  // kNotFound: no such file, and not `create`. kPermissionDenied: names the owner of the file.
  // kFailedPrecondition: there is something else of that name. kResourceExhausted: no descriptor,
  // no room in the file system, or too many LifeLocks in the process. Other errors as of open(2).
  static absl::StatusOr<std::unique_ptr<LifeLock>> Open(const std::string& path,
                                                        const LifeLockOptions& options = {});

  LifeLock(const LifeLock&) = delete;
  LifeLock& operator=(const LifeLock&) = delete;

  // Gives back all bytes. The file stays.
  ~LifeLock();

  const std::string& path() const { return path_; }

  // Takes `byte`, below kMaxMembers. False: somebody has it, or this object does already.
  absl::StatusOr<bool> TryLock(uint32_t byte);

  // The same, trying again at least every 5 ms until the deadline; at least once. kDeadlineExceeded
  // names path and byte, and for the guard the process that has it, if that is known.
  absl::Status Lock(uint32_t byte, Deadline deadline);

  // Gives `byte` back. kFailedPrecondition: this object does not have it.
  absl::Status Unlock(uint32_t byte);

  // Whether another description has `byte`, in this process or another. What this object has
  // itself does not count. The answer may be old when it arrives.
  absl::StatusOr<bool> IsHeld(uint32_t byte) const;

  // False: another part of the program has closed the descriptor, so no byte is held any more.
  // False in a forked child, too.
  bool IsOpen() const;

  // The inode number of the file, also when it is not open any more.
  uint64_t inode() const { return inode_; }

  // Whether `path` still names the file that is open here. False: it was removed, or removed and
  // made again; locks on this one then exclude nobody who opens the name.
  absl::StatusOr<bool> SameFile(const std::string& path) const;

  // The process that has the guard byte, for messages to people; 0 if nobody else has it or it is
  // not known. The holder writes its pid into the file, right after it has taken the byte, so for
  // that moment the answer may be a holder that was killed before.
  pid_t HolderOfGuard() const;

 private:
  explicit LifeLock(const std::string& path) : path_(path) {}

  static void CloseInForkedChild(void* life_lock);
  void Close();

  absl::Status CheckOpen() const;
  absl::Status Error(int error, const char* call, uint32_t byte) const;
  void WriteGuardHolder(uint64_t holder) const;

  const std::string path_;
  uint32_t pid_namespace_ = 0;  // inode of the namespace that our pids are of; 0 if not known
  UniqueFd fd_;                 // invalid in a forked child
  // Sticky, because the next LifeLock of the same file may well get the same number.
  mutable std::atomic<bool> lost_{false};
  dev_t device_ = 0;
  ino_t inode_ = 0;
  // Bit `byte`: taken by this object. The kernel grants a second lock through one description, so
  // threads exclude each other here.
  std::array<std::atomic<uint64_t>, kMaxMembers / 64> taken_ = {};
};

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_LIFE_LOCK_H_

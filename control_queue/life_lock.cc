// SPDX-License-Identifier: Apache-2.0
#include "control_queue/life_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/process_id.h"

namespace handoff {
namespace {

constexpr absl::Duration kFirstPause = absl::Microseconds(50);
constexpr absl::Duration kLongestPause = absl::Milliseconds(5);

// Where in the file's data the holder of the guard byte says who it is, as one number in the
// machine's byte order: `PID namespace 32 | pid 32`, 0 if nobody. Locks and data do not meet.
constexpr off_t kGuardHolderOffset = 0;

// open(2) without O_CREAT first: where fs.protected_regular is set, the kernel refuses O_CREAT on
// another user's file before it looks at the permissions.
UniqueFd OpenOrCreate(const char* path, const LifeLockOptions& options) {
  constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
  for (;;) {
    UniqueFd fd(::open(path, kFlags));
    if (fd.valid() || errno != ENOENT || !options.create) return fd;
    fd.reset(::open(path, kFlags | O_CREAT | O_EXCL, options.mode));
    if (fd.valid()) {
      // Killed before this line: the file stays narrower than asked for. Cannot fail on a file of
      // our own, and would leave it narrower, too.
      ::fchmod(fd.get(), options.mode);
      return fd;
    }
    if (errno != EEXIST) return fd;  // EEXIST: made by somebody else just now.
  }
}

absl::Status OpenError(int error, const std::string& path) {
  std::string what = absl::StrCat("cannot open lock file ", path);
  struct stat file;
  if (error == EACCES && ::lstat(path.c_str(), &file) == 0) {
    absl::StrAppend(&what, ", which belongs to user ", file.st_uid, ", as user ", ::geteuid());
  }
  if (error == ELOOP) return absl::FailedPreconditionError(absl::StrCat(what, ": a symbolic link"));
  return absl::ErrnoToStatus(error, what);
}

// Repeats a call that a signal has interrupted.
template <class Call>
auto Uninterrupted(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

int LockCommand(int fd, int command, struct flock* range, short type, uint32_t byte) {
  *range = {};
  range->l_type = type;
  range->l_whence = SEEK_SET;
  range->l_start = byte;
  range->l_len = 1;
  return Uninterrupted([&] { return ::fcntl(fd, command, range); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<LifeLock>> LifeLock::Open(const std::string& path,
                                                         const LifeLockOptions& options) {
  std::unique_ptr<LifeLock> life_lock(new LifeLock(path));
  if (absl::StatusOr<ProcessId> process = CurrentProcessId(); process.ok()) {
    life_lock->pid_namespace_ = static_cast<uint32_t>(process->pid_namespace);
  }
  {
    const ForkLock no_fork;
    life_lock->fd_ = OpenOrCreate(path.c_str(), options);
    struct stat file;
    if (!life_lock->fd_.valid() || ::fstat(life_lock->fd_.get(), &file) != 0) {
      return OpenError(errno, path);
    }
    life_lock->device_ = file.st_dev;
    life_lock->inode_ = file.st_ino;
    if (!S_ISREG(file.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat("lock file ", path, " is not a file"));
    }
    if (!AtForkInChild(no_fork, &CloseInForkedChild, life_lock.get())) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot open lock file ", path, ": ", kMaxForkHooks,
                       " objects of this process are watching for forks"));
    }
  }
  return life_lock;
}

LifeLock::~LifeLock() {
  const ForkLock no_fork;
  RemoveAtForkInChild(no_fork, &CloseInForkedChild, this);
  Close();
}

void LifeLock::CloseInForkedChild(void* life_lock) { static_cast<LifeLock*>(life_lock)->Close(); }

void LifeLock::Close() {
  // Closing a number that is another's by now would be the fault of which we were the victim.
  if (!IsOpen()) static_cast<void>(fd_.release());
  fd_.reset();
}

bool LifeLock::IsOpen() const {
  if (!fd_.valid() || lost_.load(std::memory_order_relaxed)) return false;
  struct stat file;
  if (::fstat(fd_.get(), &file) == 0 && file.st_dev == device_ && file.st_ino == inode_) {
    return true;
  }
  lost_.store(true, std::memory_order_relaxed);
  return false;
}

absl::Status LifeLock::CheckOpen() const {
  if (IsOpen()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("lock file ", path_,
                   fd_.valid() ? ": its descriptor was closed by another part of this process"
                               : " was opened before this process was forked"));
}

absl::Status LifeLock::Error(int error, const char* call, uint32_t byte) const {
  return absl::ErrnoToStatus(error, absl::StrCat(call, " of byte ", byte, " of ", path_));
}

absl::StatusOr<bool> LifeLock::TryLock(uint32_t byte) {
  HANDOFF_CHECK_LT(byte, kMaxMembers);
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  std::atomic<uint64_t>& taken = taken_[byte / 64];
  const uint64_t bit = uint64_t{1} << (byte % 64);
  if ((taken.fetch_or(bit, std::memory_order_acquire) & bit) != 0) return false;
  struct flock range;
  if (LockCommand(fd_.get(), F_OFD_SETLK, &range, F_WRLCK, byte) != 0) {
    const int error = errno;
    taken.fetch_and(~bit, std::memory_order_relaxed);
    if (error == EAGAIN || error == EACCES) return false;
    return Error(error, "lock", byte);
  }
  if (byte == kGuardByte) {
    WriteGuardHolder(uint64_t{pid_namespace_} << 32 | static_cast<uint32_t>(::getpid()));
  }
  return true;
}

absl::Status LifeLock::Lock(uint32_t byte, Deadline deadline) {
  for (absl::Duration pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    absl::StatusOr<bool> locked = TryLock(byte);
    if (!locked.ok()) return locked.status();
    if (*locked) return absl::OkStatus();
    const absl::Duration remaining = deadline.remaining();
    if (remaining <= absl::ZeroDuration()) break;
    absl::SleepFor(std::min(pause, remaining));
  }
  std::string what = absl::StrCat("byte ", byte, " of ", path_, " is still held");
  if (byte == kGuardByte) {
    const pid_t holder = HolderOfGuard();
    if (holder != 0) absl::StrAppend(&what, " by process ", holder);
  }
  return absl::DeadlineExceededError(what);
}

absl::Status LifeLock::Unlock(uint32_t byte) {
  HANDOFF_CHECK_LT(byte, kMaxMembers);
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  std::atomic<uint64_t>& taken = taken_[byte / 64];
  const uint64_t bit = uint64_t{1} << (byte % 64);
  if ((taken.load(std::memory_order_relaxed) & bit) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("byte ", byte, " of ", path_, " is not held by who gives it back"));
  }
  if (byte == kGuardByte) WriteGuardHolder(0);
  struct flock range;
  if (LockCommand(fd_.get(), F_OFD_SETLK, &range, F_UNLCK, byte) != 0) {
    return Error(errno, "unlock", byte);
  }
  // Last, so that another thread does not take what the kernel is about to give back.
  taken.fetch_and(~bit, std::memory_order_release);
  return absl::OkStatus();
}

absl::StatusOr<bool> LifeLock::IsHeld(uint32_t byte) const {
  HANDOFF_CHECK_LT(byte, kMaxMembers);
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  struct flock range;
  if (LockCommand(fd_.get(), F_OFD_GETLK, &range, F_WRLCK, byte) != 0) {
    return Error(errno, "test", byte);
  }
  return range.l_type != F_UNLCK;
}

absl::StatusOr<bool> LifeLock::SameFile(const std::string& path) const {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  struct stat mine;
  if (::fstat(fd_.get(), &mine) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fstat of ", path_));
  }
  struct stat named;
  if (::lstat(path.c_str(), &named) != 0) {
    if (errno == ENOENT) return false;
    return absl::ErrnoToStatus(errno, absl::StrCat("lstat of ", path));
  }
  return mine.st_dev == named.st_dev && mine.st_ino == named.st_ino && mine.st_nlink > 0;
}

pid_t LifeLock::HolderOfGuard() const {
  absl::StatusOr<bool> held = IsHeld(kGuardByte);
  if (!held.ok() || !*held) return 0;
  uint64_t holder = 0;
  const ssize_t count = Uninterrupted(
      [&] { return ::pread(fd_.get(), &holder, sizeof(holder), kGuardHolderOffset); });
  if (count != sizeof(holder) || holder >> 32 != pid_namespace_) return 0;
  return static_cast<pid_t>(holder);
}

void LifeLock::WriteGuardHolder(uint64_t holder) const {
  // Only for messages: a full file system must not keep anybody from joining.
  [[maybe_unused]] const ssize_t written = Uninterrupted(
      [&] { return ::pwrite(fd_.get(), &holder, sizeof(holder), kGuardHolderOffset); });
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "transport/ipc_path.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/clock.h"

namespace handoff::internal {

namespace {

constexpr absl::Duration kBindLimit = absl::Seconds(5);
constexpr absl::Duration kRemoveLimit = absl::Milliseconds(100);

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The folder, locked; an invalid descriptor if it may not be read: then two binds at the same
// moment are not kept apart.
absl::StatusOr<UniqueFd> LockFolder(const std::string& path, absl::Duration limit) {
  const std::string folder = FolderOf(path);
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    if (errno == EACCES || errno == EPERM) return fd;
    return absl::NotFoundError(
        absl::StrCat("ipc path ", path, ": folder ", folder, ": ", std::strerror(errno)));
  }
  const Deadline deadline = Deadline::After(limit);
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return UniqueFd();  // a file system without locks
    if (deadline.expired()) {
      return absl::DeadlineExceededError(absl::StrCat(
          "ipc path ", path, ": another process keeps the folder ", folder, " locked"));
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  return fd;
}

// Also for the copy that a forked child may have of it: the lock is that of the open file.
void UnlockFolder(const UniqueFd& folder) {
  if (folder.valid()) flock(folder.get(), LOCK_UN);
}

absl::Status CheckFree(const std::string& path) {
  struct stat at {};
  if (lstat(path.c_str(), &at) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::PermissionDeniedError(absl::StrCat("ipc path ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISSOCK(at.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat("ipc path ", path, " is there and is no socket"));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  HANDOFF_CHECK_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("ipc path ", path, ": socket: ", std::strerror(errno)));
  }
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("ipc path ", path, ": another socket is bound there"));
  }
  switch (errno) {
    case ECONNREFUSED:  // nobody listens
    case ENOENT:        // just gone
      return absl::OkStatus();
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat("ipc path ", path, " belongs to user ",
                                                      at.st_uid, ", this is user ", geteuid()));
    default:  // EAGAIN: more want to connect than it has taken; EPROTOTYPE: it is of another kind
      return absl::AlreadyExistsError(absl::StrCat(
          "ipc path ", path, ": another socket is bound there (", std::strerror(errno), ")"));
  }
}

}  // namespace

absl::StatusOr<IpcPathClaim> IpcPathClaim::Take(const std::string& path) {
  absl::StatusOr<UniqueFd> folder = LockFolder(path, kBindLimit);
  if (!folder.ok()) return folder.status();
  IpcPathClaim claim(*std::move(folder));
  absl::Status status = CheckFree(path);
  if (!status.ok()) return status;
  return claim;
}

IpcPathClaim::~IpcPathClaim() { UnlockFolder(folder_); }

absl::StatusOr<IpcFile> IdentifyIpcFile(const std::string& path) {
  struct stat at {};
  if (lstat(path.c_str(), &at) != 0) {
    return absl::NotFoundError(absl::StrCat("ipc path ", path, ": ", std::strerror(errno)));
  }
  return IpcFile{path, at.st_dev, at.st_ino};
}

void RemoveIpcFile(const IpcFile& file) {
  const absl::StatusOr<UniqueFd> folder = LockFolder(file.path, kRemoveLimit);
  if (!folder.ok()) return;
  const absl::StatusOr<IpcFile> now = IdentifyIpcFile(file.path);
  if (now.ok() && now->device == file.device && now->inode == file.inode) unlink(file.path.c_str());
  UnlockFolder(*folder);
}

}  // namespace handoff::internal

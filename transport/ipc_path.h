// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_IPC_PATH_H_
#define HANDOFF_TRANSPORT_IPC_PATH_H_

#include <sys/types.h>

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace handoff::internal {

// The right to bind a Unix socket at one path. ZeroMQ unlinks whatever has the path it binds; so
// before, we look who listens there, and between that look and the bind nobody else of us may bind
// in the same folder.
//
//   auto claim = IpcPathClaim::Take(path);  // refuses a path in use
//   zmq_bind(...);
//   file = IdentifyIpcFile(path);           // to remove it later
class IpcPathClaim {
 public:
  // What is at the path now is nothing, or the socket of a process that has ended: may be replaced.
  // kAlreadyExists: a process listens there, or it is no socket. kPermissionDenied: it belongs to
  // somebody else. kNotFound: no such folder. kDeadlineExceeded: another process has kept the
  // folder locked for seconds.
  static absl::StatusOr<IpcPathClaim> Take(const std::string& path);

  IpcPathClaim(IpcPathClaim&&) = default;
  IpcPathClaim& operator=(IpcPathClaim&&) = default;
  ~IpcPathClaim();

 private:
  explicit IpcPathClaim(UniqueFd folder) : folder_(std::move(folder)) {}

  UniqueFd folder_;  // locked; none where we may not read it
};

// One socket file, as it was right after it was bound.
struct IpcFile {
  std::string path;
  dev_t device = 0;
  ino_t inode = 0;
};

// kNotFound: nothing is there.
absl::StatusOr<IpcFile> IdentifyIpcFile(const std::string& path);

// Removes the file, which ZeroMQ leaves behind, unless another one has taken its place. Where
// another process keeps the folder locked it stays; the next bind replaces it.
void RemoveIpcFile(const IpcFile& file);

}  // namespace handoff::internal

#endif  // HANDOFF_TRANSPORT_IPC_PATH_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_FILE_SYSTEM_H_
#define HANDOFF_ALLOCATOR_FILE_SYSTEM_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace handoff {

// What the system knows about a file, for checks and for messages that name it. Any thread.

// How much a file system holds, and how much of it is free for this user.
struct FileSystemRoom {
  uint64_t total_bytes = 0;  // 0: it has no limit, or cannot be asked
  uint64_t free_bytes = 0;
};
FileSystemRoom RoomOf(const std::string& path);

// "file system of /dev/shm: 64 MiB in all, 0 B free"; `path` is a directory or a file.
std::string DescribeFileSystem(const std::string& path);

// "alice (uid 1000)", or "uid 1000" where the user has no name.
std::string DescribeUser(uid_t uid);

// The group of this name or number. kNotFound: there is none of this name.
absl::StatusOr<gid_t> FindGroup(const std::string& name_or_number);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_FILE_SYSTEM_H_

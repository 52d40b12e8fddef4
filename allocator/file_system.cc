// SPDX-License-Identifier: Apache-2.0
#include "allocator/file_system.h"

#include <pwd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"

namespace handoff {

FileSystemRoom RoomOf(const std::string& path) {
  struct statvfs info = {};
  // A file that is gone, or could not be made, has the file system of its directory.
  const std::string directory = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
  if (statvfs(path.c_str(), &info) != 0 && statvfs(directory.c_str(), &info) != 0) return {};
  const uint64_t unit = info.f_frsize != 0 ? info.f_frsize : info.f_bsize;
  return {.total_bytes = CheckedMultiply(info.f_blocks, unit).value_or(0),
          .free_bytes = CheckedMultiply(info.f_bavail, unit).value_or(0)};
}

std::string DescribeFileSystem(const std::string& path) {
  const FileSystemRoom room = RoomOf(path);
  if (room.total_bytes == 0) return absl::StrCat("file system of ", path, ": of no stated size");
  return absl::StrCat("file system of ", path, ": ", FormatByteSize(room.total_bytes), " in all, ",
                      FormatByteSize(room.free_bytes), " free");
}

std::string DescribeUser(uid_t uid) {
  passwd entry = {};
  passwd* found = nullptr;
  std::array<char, 4096> buffer;
  if (getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) {
    return absl::StrCat("uid ", uid);
  }
  return absl::StrCat(found->pw_name, " (uid ", uid, ")");
}

}  // namespace handoff

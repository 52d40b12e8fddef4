// SPDX-License-Identifier: Apache-2.0
#include "allocator/file_system.h"

#include <grp.h>
#include <pwd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <vector>

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

absl::StatusOr<gid_t> FindGroup(const std::string& name_or_number) {
  gid_t number = 0;
  const char* const end = name_or_number.data() + name_or_number.size();
  const auto [rest, error] = std::from_chars(name_or_number.data(), end, number);
  if (error == std::errc() && rest == end) return number;
  group entry = {};
  group* found = nullptr;
  std::vector<char> buffer(4096);
  int result = 0;
  // A group has as much text as it has members.
  while ((result = getgrnam_r(name_or_number.c_str(), &entry, buffer.data(), buffer.size(),
                              &found)) == ERANGE &&
         buffer.size() < (1 << 20)) {
    buffer.resize(2 * buffer.size());
  }
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("group '", name_or_number, "': there is none of this name"));
  }
  return found->gr_gid;
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/small_tmpfs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/unique_fd.h"

namespace handoff {
namespace {

// Once for each process: mounts of its own from here on. Empty on success.
std::string UnshareMounts() {
  if (unshare(CLONE_NEWNS) != 0)
    return std::string("unshare(CLONE_NEWNS): ") + std::strerror(errno);
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return std::string("mount(MS_PRIVATE): ") + std::strerror(errno);
  }
  return "";
}

}  // namespace

SmallTmpfs::SmallTmpfs(uint64_t size_bytes, const std::string& options) {
  static const std::string unshared = UnshareMounts();
  why_not_ = unshared;
  if (!available()) return;
  std::string pattern = ::testing::TempDir() + "small_tmpfs_XXXXXX";
  directory_ = mkdtemp(pattern.data());
  const std::string all =
      "mode=0777,size=" + std::to_string(size_bytes) + (options.empty() ? "" : "," + options);
  if (mount("tmpfs", directory_.c_str(), "tmpfs", 0, all.c_str()) != 0) {
    why_not_ = std::string("mount of a tmpfs: ") + std::strerror(errno);
    std::filesystem::remove(directory_);
  }
}

SmallTmpfs::~SmallTmpfs() {
  if (!available()) return;
  umount2(directory_.c_str(), MNT_DETACH);
  std::error_code ignored;
  std::filesystem::remove(directory_, ignored);
}

uint64_t SmallTmpfs::FreeBytes() const {
  struct statvfs info = {};
  EXPECT_EQ(statvfs(directory_.c_str(), &info), 0);
  return info.f_bavail * info.f_frsize;
}

void SmallTmpfs::Fill(const std::string& name, uint64_t leave_bytes) const {
  const uint64_t free_bytes = FreeBytes();
  ASSERT_GE(free_bytes, leave_bytes);
  if (free_bytes == leave_bytes) return;
  const UniqueFd fd(open((directory_ + "/" + name).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(fd.valid());
  ASSERT_EQ(posix_fallocate(fd.get(), 0, static_cast<off_t>(free_bytes - leave_bytes)), 0);
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_SMALL_TMPFS_H_
#define HANDOFF_ALLOCATOR_TESTING_SMALL_TMPFS_H_

#include <cstdint>
#include <string>

namespace handoff {

// A tmpfs of a given size for tests of what happens when there is no memory left. Only this process
// and its children see it, so it goes with them, also when they are killed.
//
//   SmallTmpfs tmpfs(uint64_t{1} << 20);
//   if (!tmpfs.available()) GTEST_SKIP() << tmpfs.why_not();
class SmallTmpfs {
 public:
  // `options` for mount, besides the size.
  explicit SmallTmpfs(uint64_t size_bytes, const std::string& options = "");
  SmallTmpfs(const SmallTmpfs&) = delete;
  SmallTmpfs& operator=(const SmallTmpfs&) = delete;
  ~SmallTmpfs();

  // False where this process may not mount.
  bool available() const { return why_not_.empty(); }
  const std::string& why_not() const { return why_not_; }

  // Its root. No '/' at the end.
  const std::string& directory() const { return directory_; }

  // Takes the free memory with a file `name`, all but `leave_bytes` (to a whole page).
  void Fill(const std::string& name, uint64_t leave_bytes = 0) const;

  // The bytes that are free now.
  uint64_t FreeBytes() const;

 private:
  std::string directory_;
  std::string why_not_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_SMALL_TMPFS_H_

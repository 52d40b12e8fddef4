// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace handoff {
namespace {

constexpr uint32_t kLockFlag = 1;
constexpr uint32_t kPopulateFlag = 2;
constexpr uint32_t kZeroFlag = 4;
constexpr uint32_t kHugePagesFlag = 8;
constexpr uint32_t kNodeShift = 16;

constexpr uint32_t kMaxNodes = 1024;  // as large as the kernel can be built for
constexpr int kPreferOneNode = 1;     // MPOL_PREFERRED

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

struct Mount {
  std::string point;
  std::string kind;
  std::string options;
};

// The mount that has `path`, by its device: one line of mountinfo is
// "id parent major:minor root point options [optional] - kind source super-options".
Mount MountOf(const std::string& path) {
  Mount found;
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return found;
  const std::string device = absl::StrCat(major(info.st_dev), ":", minor(info.st_dev));
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string id, parent, number, root, word;
    Mount mount;
    fields >> id >> parent >> number >> root >> mount.point;
    if (number != device) continue;
    while (fields >> word && word != "-") continue;
    std::string source;
    fields >> mount.kind >> source >> mount.options;
    found = mount;
  }
  return found;
}

absl::Status CheckHugePages(const Mapping& payload) {
  const std::string what = absl::StrCat("huge pages for ", payload.path(), ": ");
  const std::string shared = FirstLine("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  if (shared.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, "this kernel has none for shared memory"));
  }
  if (shared.find("[deny]") != std::string::npos) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, "/sys/kernel/mm/transparent_hugepage/shmem_enabled says deny"));
  }
  if (shared.find("[force]") != std::string::npos) return absl::OkStatus();
  const Mount mount = MountOf(payload.path());
  if (mount.kind != "tmpfs") {
    return absl::FailedPreconditionError(absl::StrCat(
        what, "its file system is ", mount.kind.empty() ? "unknown" : mount.kind, ", not a tmpfs"));
  }
  for (const char* option : {"huge=advise", "huge=within_size", "huge=always"}) {
    if (mount.options.find(option) != std::string::npos) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      what, mount.point, " is mounted without huge=; an administrator can change that: ",
      "mount -o remount,huge=advise ", mount.point));
}

// Whether a list such as "0-3,8" has `node`.
bool ListHas(std::string_view list, uint32_t node) {
  while (!list.empty()) {
    const std::string_view item = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), item.size() + 1));
    uint32_t first = 0;
    const auto [rest, error] = std::from_chars(item.data(), item.data() + item.size(), first);
    if (error != std::errc()) return false;
    uint32_t last = first;
    if (rest != item.data() + item.size() && *rest == '-') {
      std::from_chars(rest + 1, item.data() + item.size(), last);
    }
    if (first <= node && node <= last) return true;
  }
  return false;
}

absl::Status UseNode(uint32_t node, Mapping& payload) {
  const std::string nodes = FirstLine("/sys/devices/system/node/has_memory");
  const std::string what = absl::StrCat("NUMA node ", node, " for ", payload.path(), ": ");
  if (nodes.empty() || node >= kMaxNodes || !ListHas(nodes, node)) {
    return absl::NotFoundError(absl::StrCat(
        what, nodes.empty() ? "this machine does not say which nodes it has"
                            : absl::StrCat("this machine has memory on node ", nodes)));
  }
  std::array<unsigned long, kMaxNodes / (8 * sizeof(unsigned long))> mask = {};
  constexpr uint32_t kBits = 8 * sizeof(unsigned long);
  mask[node / kBits] = 1ul << node % kBits;
  // Of shared memory the policy belongs to the file, so it holds for whoever touches it.
  if (syscall(SYS_mbind, payload.bytes().data(), payload.size_bytes(), kPreferOneNode, mask.data(),
              uint64_t{kMaxNodes} + 1, 0) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(what, "mbind"));
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t SegmentMemory::Flags() const {
  return (lock ? kLockFlag : 0) | (populate ? kPopulateFlag : 0) | (zero ? kZeroFlag : 0) |
         (huge_pages ? kHugePagesFlag : 0) |
         (numa_node.has_value() ? (*numa_node + 1) << kNodeShift : 0);
}

absl::Status PlaceSegmentMemory(const SegmentMemory& memory, Mapping& payload) {
  if (memory.huge_pages) {
    if (absl::Status status = CheckHugePages(payload); !status.ok()) return status;
    if (madvise(payload.bytes().data(), payload.size_bytes(), MADV_HUGEPAGE) != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("huge pages for ", payload.path(), ": this kernel has none (madvise)"));
    }
  }
  if (memory.numa_node.has_value()) return UseNode(*memory.numa_node, payload);
  return absl::OkStatus();
}

absl::Status BringInSegmentMemory(const SegmentMemory& memory, Mapping& payload) {
  if (memory.populate || memory.zero || memory.huge_pages) {
    Mapping::PopulateOptions populate;
    populate.threads = memory.populate_threads;
    populate.huge_pages = memory.huge_pages;
    if (memory.progress) {
      populate.progress = [&](uint64_t done) { memory.progress(done, payload.size_bytes()); };
    }
    if (absl::Status status = payload.Populate(populate); !status.ok()) return status;
  }
  return memory.lock ? payload.Lock(0, payload.size_bytes()) : absl::OkStatus();
}

void FollowSegmentFlags(uint32_t flags, Mapping& payload) {
  // Refused: small entries in this process's page table, which is slower and as right.
  if ((flags & kHugePagesFlag) != 0) {
    madvise(payload.bytes().data(), payload.size_bytes(), MADV_HUGEPAGE);
  }
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "allocator/address_range.h"
#include "allocator/file_system.h"
#include "base/byte_size.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "base/unique_fd.h"

namespace handoff {
namespace {

namespace bip = boost::interprocess;

// One call of fallocate that is interrupted by a signal gives back what it took, so a big one might
// never end in a program with a fast timer.
constexpr uint64_t kReserveStepBytes = uint64_t{64} << 20;

constexpr uint64_t kPopulateStepBytes = uint64_t{4} << 20;
constexpr uint32_t kMaxPopulateThreads = 16;

uint64_t PageBytes() {
  static const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return page_bytes;
}

// Adds what the process is allowed, where that is less than everything.
std::string DescribeLimit(const char* name, decltype(RLIMIT_AS) resource) {
  rlimit limit = {};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return absl::StrCat(name, " is unlimited");
  }
  return absl::StrCat(name, " is ", FormatByteSize(limit.rlim_cur));
}

absl::Status MapError(int error, const std::string& path, uint64_t size_bytes) {
  const std::string what = absl::StrCat("mapping ", FormatByteSize(size_bytes), " of ", path);
  if (error != ENOMEM) return absl::ErrnoToStatus(error, what);
  return absl::ResourceExhaustedError(absl::StrCat(what, ": no address space of that size (",
                                                   DescribeLimit("RLIMIT_AS", RLIMIT_AS), ")"));
}

absl::Status CheckSize(const std::string& path, uint64_t size_bytes) {
  if (size_bytes == 0) return absl::InvalidArgumentError(absl::StrCat(path, ": size 0"));
  if (size_bytes > kMaxMappingBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", FormatByteSize(size_bytes),
                                                   " is more than a process can address (",
                                                   FormatByteSize(kMaxMappingBytes), ")"));
  }
  return absl::OkStatus();
}

// ftruncate beyond RLIMIT_FSIZE ends in a signal, so the limit is looked at first.
absl::Status SetFileSize(int fd, const std::string& path, uint64_t size_bytes) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": needs ", FormatByteSize(size_bytes),
                                                     ", ",
                                                     DescribeLimit("RLIMIT_FSIZE", RLIMIT_FSIZE)));
  }
  while (ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) {
    if (errno == EINTR) continue;
    return absl::ErrnoToStatus(
        errno, absl::StrCat("setting the size of ", path, " to ", FormatByteSize(size_bytes), " (",
                            DescribeFileSystem(path), ")"));
  }
  return absl::OkStatus();
}

// What Boost's mapped_region asks of a thing that can be mapped.
class MappableDescriptor {
 public:
  explicit MappableDescriptor(int fd) : fd_(fd) {}
  bip::mapping_handle_t get_mapping_handle() const {
    return bip::ipcdetail::mapping_handle_from_file_handle(fd_);
  }

 private:
  int fd_;
};

// Enters the pages of `bytes` for writing without changing what others write there meanwhile.
void TouchPages(std::span<std::byte> bytes) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(bytes.data(), bytes.size(), MADV_POPULATE_WRITE) == 0) return;
#endif
  for (uint64_t offset = 0; offset < bytes.size(); offset += PageBytes()) {
    std::atomic_ref(reinterpret_cast<uint8_t&>(bytes[offset]))
        .fetch_or(0, std::memory_order_relaxed);
  }
}

// The same of what may not be reserved: never ends in SIGBUS, and enters nothing where there is no
// memory, or where the kernel (before 5.14) does not know the call.
void EnterUnreserved([[maybe_unused]] std::span<std::byte> bytes) {
#ifdef MADV_POPULATE_WRITE
  madvise(bytes.data(), bytes.size(), MADV_POPULATE_WRITE);
#endif
}

void TouchPagesForReading(std::span<const std::byte> bytes) {
  for (uint64_t offset = 0; offset < bytes.size(); offset += PageBytes()) {
    static_cast<void>(*static_cast<const volatile std::byte*>(&bytes[offset]));
  }
}

}  // namespace

// The file and the mapping of one window. Allocated apart, so that a Mapping can move.
struct Mapping::State {
  std::string path;
  dev_t device = 0;
  ino_t inode = 0;
  bool read_only = false;
  uint64_t offset_bytes = 0;

  absl::Mutex mutex;
  UniqueFd fd ABSL_GUARDED_BY(mutex);

  bip::mapped_region region;

  ~State() {
    absl::MutexLock lock(&mutex);
    struct stat info = {};
    // The number of a descriptor that somebody else has closed may be another file's by now.
    if (fstat(fd.get(), &info) != 0 || !IsTheFile(info)) static_cast<void>(fd.release());
  }

  absl::Status SetFile(UniqueFd file) {
    absl::MutexLock lock(&mutex);
    struct stat info = {};
    if (fstat(file.get(), &info) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("reading the state of ", path));
    }
    device = info.st_dev;
    inode = info.st_ino;
    fd = std::move(file);
    return absl::OkStatus();
  }

  bool IsTheFile(const struct stat& info) const {
    return info.st_dev == device && info.st_ino == inode;
  }

  // The descriptor, after a look whether it still is ours: a program that closes descriptors it
  // does not know would otherwise have us change the size of some other file.
  absl::StatusOr<int> Descriptor() {
    absl::MutexLock lock(&mutex);
    struct stat info = {};
    if (fstat(fd.get(), &info) == 0 && IsTheFile(info)) return fd.get();
    static_cast<void>(fd.release());  // the number belongs to somebody else, or to nobody
    fd.reset(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW));
    if (fd.valid() && fstat(fd.get(), &info) == 0 && IsTheFile(info)) return fd.get();
    fd.reset();
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": its descriptor was closed by another part of this process, and the name is gone"));
  }
};

Mapping::Mapping() = default;
Mapping::Mapping(std::unique_ptr<State> state, std::span<std::byte> bytes)
    : state_(std::move(state)), bytes_(bytes) {}
Mapping::Mapping(Mapping&& other) noexcept
    : state_(std::move(other.state_)), bytes_(std::exchange(other.bytes_, {})) {}
Mapping& Mapping::operator=(Mapping&& other) noexcept {
  state_ = std::move(other.state_);
  bytes_ = std::exchange(other.bytes_, {});
  return *this;
}
Mapping::~Mapping() = default;

absl::StatusOr<Mapping> Mapping::Create(const std::string& path, const CreateOptions& options) {
  if (absl::Status status = CheckSize(path, options.size_bytes); !status.ok()) return status;
  auto state = std::make_unique<State>();
  state->path = path;
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) {
    const int error = errno;
    const std::string room = error == ENOSPC ? absl::StrCat("; ", DescribeFileSystem(path)) : "";
    return absl::ErrnoToStatus(error, absl::StrCat("creating ", path, room));
  }
  HANDOFF_CRASH_POINT("mapping.create.empty");
  const int descriptor = fd.get();

  const auto finish = [&]() -> absl::StatusOr<Mapping> {
    const FileSystemRoom room = RoomOf(path);
    if (room.total_bytes != 0 && options.size_bytes > room.total_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          path, ": needs ", FormatByteSize(options.size_bytes), "; ", DescribeFileSystem(path)));
    }
    if (options.access.group.has_value() &&
        fchown(descriptor, static_cast<uid_t>(-1), *options.access.group) != 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat("giving ", path, " to group ", *options.access.group));
    }
    if (fchmod(descriptor, options.access.mode()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("setting the mode of ", path));
    }
    if (absl::Status status = SetFileSize(descriptor, path, options.size_bytes); !status.ok()) {
      return status;
    }
    HANDOFF_CRASH_POINT("mapping.create.sized");
    if (absl::Status status = state->SetFile(std::move(fd)); !status.ok()) return status;
    OpenOptions window;
    window.alignment_bytes = options.alignment_bytes;
    return Map(std::move(state), window, options.size_bytes);
  };
  absl::StatusOr<Mapping> mapping = finish();
  if (!mapping.ok()) unlink(path.c_str());
  return mapping;
}

absl::StatusOr<Mapping> Mapping::Open(const std::string& path, const OpenOptions& options) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->read_only = options.read_only;
  UniqueFd fd(open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    const int error = errno;
    struct stat info = {};
    std::string owner;
    if (error == EACCES && stat(path.c_str(), &info) == 0) {
      owner = absl::StrCat(" (it belongs to ", DescribeUser(info.st_uid), ")");
    }
    return absl::ErrnoToStatus(error, absl::StrCat("opening ", path, owner));
  }
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("reading the size of ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": not a regular file"));
  }
  if (absl::Status status = state->SetFile(std::move(fd)); !status.ok()) return status;
  return Map(std::move(state), options, static_cast<uint64_t>(info.st_size));
}

absl::StatusOr<Mapping> Mapping::Map(std::unique_ptr<State> state, const OpenOptions& options,
                                     uint64_t file_size_bytes) {
  const std::string& path = state->path;
  HANDOFF_CHECK_EQ(options.offset_bytes % kWindowAlignmentBytes, uint64_t{0});
  uint64_t length_bytes = options.length_bytes;
  if (length_bytes == 0 && options.offset_bytes < file_size_bytes) {
    length_bytes = file_size_bytes - options.offset_bytes;
  }
  const std::optional<uint64_t> end = CheckedAdd(options.offset_bytes, length_bytes);
  if (length_bytes == 0 || !end.has_value() || *end > file_size_bytes) {
    return absl::DataLossError(absl::StrCat(
        path, ": is ", file_size_bytes, " bytes long, shorter than expected (", length_bytes,
        " bytes from ", options.offset_bytes, "): half-made or cut off"));
  }
  if (absl::Status status = CheckSize(path, length_bytes); !status.ok()) return status;

  std::optional<AddressRange> range;
  if (options.alignment_bytes > PageBytes()) {
    HANDOFF_CHECK(IsPowerOfTwo(options.alignment_bytes)) << options.alignment_bytes;
    range.emplace(length_bytes, options.alignment_bytes);
    if (!range->valid()) return MapError(errno, path, length_bytes);
  }
  try {
    absl::MutexLock lock(&state->mutex);
    state->region = bip::mapped_region(MappableDescriptor(state->fd.get()),
                                       state->read_only ? bip::read_only : bip::read_write,
                                       static_cast<bip::offset_t>(options.offset_bytes),
                                       length_bytes, range.has_value() ? range->aligned() : nullptr,
                                       range.has_value() ? MAP_FIXED : bip::default_map_options);
  } catch (const bip::interprocess_exception& exception) {
    const int error = exception.get_native_error();
    return MapError(error != 0 ? error : EINVAL, path, length_bytes);
  }
  if (range.has_value()) range->Keep(length_bytes, PageBytes());
  state->offset_bytes = options.offset_bytes;
  const std::span<std::byte> bytes(static_cast<std::byte*>(state->region.get_address()),
                                   length_bytes);
  return Mapping(std::move(state), bytes);
}

absl::StatusOr<Mapping> Mapping::Window(const OpenOptions& options) const {
  HANDOFF_CHECK(state_ != nullptr);
  auto state = std::make_unique<State>();
  state->path = state_->path;
  state->read_only = options.read_only || state_->read_only;
  const absl::StatusOr<int> descriptor = state_->Descriptor();
  if (!descriptor.ok()) return descriptor.status();
  struct stat info = {};
  UniqueFd copy(fcntl(*descriptor, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid() || fstat(copy.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("opening ", state->path, " once more"));
  }
  if (absl::Status status = state->SetFile(std::move(copy)); !status.ok()) return status;
  return Map(std::move(state), options, static_cast<uint64_t>(info.st_size));
}

absl::Status Mapping::Remove(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  const int error = errno;
  struct stat info = {};
  const std::string owner = stat(path.c_str(), &info) == 0
                                ? absl::StrCat(" (it belongs to ", DescribeUser(info.st_uid), ")")
                                : "";
  const std::string what = absl::StrCat("removing ", path, owner);
  if (error == EPERM) {
    return absl::PermissionDeniedError(absl::StrCat(what, ": not permitted in this directory"));
  }
  return absl::ErrnoToStatus(error, what);
}

const std::string& Mapping::path() const {
  HANDOFF_CHECK(state_ != nullptr);
  return state_->path;
}

uint64_t Mapping::inode() const {
  HANDOFF_CHECK(state_ != nullptr);
  return state_->inode;
}

absl::StatusOr<uint64_t> Mapping::FileSizeBytes() const {
  HANDOFF_CHECK(state_ != nullptr);
  const absl::StatusOr<int> descriptor = state_->Descriptor();
  if (!descriptor.ok()) return descriptor.status();
  struct stat info = {};
  if (fstat(*descriptor, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("reading the size of ", state_->path));
  }
  return static_cast<uint64_t>(info.st_size);
}

absl::Status Mapping::GrowFile(uint64_t size_bytes) {
  const absl::StatusOr<uint64_t> now_bytes = FileSizeBytes();
  if (!now_bytes.ok()) return now_bytes.status();
  if (*now_bytes >= size_bytes) return absl::OkStatus();
  const absl::StatusOr<int> descriptor = state_->Descriptor();
  if (!descriptor.ok()) return descriptor.status();
  return SetFileSize(*descriptor, state_->path, size_bytes);
}

bool Mapping::IsUnderItsName() const {
  struct stat info = {};
  return state_ != nullptr && stat(state_->path.c_str(), &info) == 0 && state_->IsTheFile(info);
}

absl::Status Mapping::CheckRange(uint64_t offset_bytes, uint64_t length_bytes) const {
  HANDOFF_CHECK(state_ != nullptr);
  const std::optional<uint64_t> end = CheckedAdd(offset_bytes, length_bytes);
  if (end.has_value() && *end <= bytes_.size()) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(state_->path, ": ", length_bytes, " bytes from ",
                                            offset_bytes, " are outside the window of ",
                                            bytes_.size(), " bytes"));
}

absl::Status Mapping::Reserve(uint64_t offset_bytes, uint64_t length_bytes) {
  if (absl::Status status = CheckRange(offset_bytes, length_bytes); !status.ok()) return status;
  const absl::StatusOr<int> descriptor = state_->Descriptor();
  if (!descriptor.ok()) return descriptor.status();
  while (length_bytes > 0) {
    const uint64_t step_bytes = std::min(length_bytes, kReserveStepBytes);
    if (fallocate(*descriptor, 0, static_cast<off_t>(state_->offset_bytes + offset_bytes),
                  static_cast<off_t>(step_bytes)) != 0) {
      const int error = errno;
      if (error == EINTR) continue;
      if (error == ENOSPC || error == ENOMEM || error == EDQUOT) {
        return absl::ResourceExhaustedError(
            absl::StrCat("reserving ", FormatByteSize(length_bytes), " of ", state_->path, ": ",
                         std::strerror(error), "; ", DescribeFileSystem(state_->path)));
      }
      if (error == EOPNOTSUPP || error == ENOSYS) {
        return absl::FailedPreconditionError(absl::StrCat(
            state_->path,
            ": this kind of file system cannot reserve memory (fallocate); use one that "
            "can, such as tmpfs, ext4 or xfs"));
      }
      return absl::ErrnoToStatus(
          error, absl::StrCat("reserving ", FormatByteSize(length_bytes), " of ", state_->path));
    }
    offset_bytes += step_bytes;
    length_bytes -= step_bytes;
  }
  return absl::OkStatus();
}

void Mapping::Discard() {
  HANDOFF_CHECK(state_ != nullptr);
  munlock(bytes_.data(), bytes_.size());  // locked memory is not given back
  madvise(bytes_.data(), bytes_.size(), MADV_REMOVE);
}

absl::Status Mapping::Lock(uint64_t offset_bytes, uint64_t length_bytes) {
  if (!state_->read_only) {
    if (absl::Status status = Reserve(offset_bytes, length_bytes); !status.ok()) return status;
  } else if (absl::Status status = CheckRange(offset_bytes, length_bytes); !status.ok()) {
    return status;
  }
  if (mlock(bytes_.data() + offset_bytes, length_bytes) == 0) return absl::OkStatus();
  const int error = errno;
  const std::string what =
      absl::StrCat("locking ", FormatByteSize(length_bytes), " of ", state_->path, " in memory");
  if (error != ENOMEM && error != EPERM && error != EAGAIN) return absl::ErrnoToStatus(error, what);
  return absl::ResourceExhaustedError(absl::StrCat(what, ": ", std::strerror(error), " (",
                                                   DescribeLimit("RLIMIT_MEMLOCK", RLIMIT_MEMLOCK),
                                                   "; raise it with ulimit -l)"));
}

absl::Status Mapping::Populate(const PopulateOptions& options) {
  const uint64_t length_bytes =
      options.length_bytes != 0
          ? options.length_bytes
          : bytes_.size() - std::min<uint64_t>(options.offset_bytes, bytes_.size());
  if (absl::Status status = CheckRange(options.offset_bytes, length_bytes); !status.ok()) {
    return status;
  }
  const std::span<std::byte> part = bytes_.subspan(options.offset_bytes, length_bytes);
  if (state_->read_only && (options.zero || options.huge_pages)) {
    return absl::FailedPreconditionError(absl::StrCat(state_->path, ": mapped for reading only"));
  }
  if (!state_->read_only && !options.huge_pages) {
    if (absl::Status status = Reserve(options.offset_bytes, length_bytes); !status.ok()) {
      return status;
    }
  }

  // The threads take steps from `next`. Only the caller reports, so that no lock is held while it
  // does.
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> done{0};
  const auto work = [&](bool reports) {
    while (true) {
      const uint64_t begin = next.fetch_add(kPopulateStepBytes, std::memory_order_relaxed);
      if (begin >= length_bytes) return;
      const std::span<std::byte> step =
          part.subspan(begin, std::min(kPopulateStepBytes, length_bytes - begin));
      if (options.huge_pages) {
        EnterUnreserved(step);
      } else if (options.zero) {
        std::memset(step.data(), 0, step.size());
      } else if (state_->read_only) {
        TouchPagesForReading(step);
      } else {
        TouchPages(step);
      }
      done.fetch_add(step.size(), std::memory_order_relaxed);
      if (reports && options.progress) options.progress(done.load(std::memory_order_relaxed));
    }
  };
  const uint32_t processors = std::max(1u, std::thread::hardware_concurrency());
  const uint64_t steps = (length_bytes + kPopulateStepBytes - 1) / kPopulateStepBytes;
  const uint64_t threads = std::min<uint64_t>(
      {options.threads != 0 ? options.threads : processors, kMaxPopulateThreads, steps});
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < threads; ++i) {
    try {
      helpers.emplace_back(work, /*reports=*/false);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: the caller does the rest
    }
  }
  work(/*reports=*/true);
  for (std::thread& helper : helpers) helper.join();
  if (options.huge_pages) {
    // What was entered is reserved; what could not be, is not to be had: this says why.
    if (absl::Status status = Reserve(options.offset_bytes, length_bytes); !status.ok()) {
      return status;
    }
    if (options.zero) std::memset(part.data(), 0, part.size());
  }
  if (options.progress) options.progress(done.load(std::memory_order_relaxed));
  return absl::OkStatus();
}

}  // namespace handoff

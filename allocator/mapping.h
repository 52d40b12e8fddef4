// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_MAPPING_H_
#define HANDOFF_ALLOCATOR_MAPPING_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace handoff {

// The address of a payload is a multiple of this in every process, so that an alignment of a
// message up to this size holds in every process.
inline constexpr uint64_t kPayloadAlignmentBytes = uint64_t{2} << 20;

// Windows of a file begin at a multiple of this: at least the page size of every machine we run on.
inline constexpr uint64_t kWindowAlignmentBytes = uint64_t{64} << 10;

// Sizes above this are refused without asking the system: no processor addresses more in a process.
inline constexpr uint64_t kMaxMappingBytes = uint64_t{1} << 47;

// Who may open a file besides its owner: nobody, or one group.
struct FileAccess {
  std::optional<gid_t> group = std::nullopt;

  mode_t mode() const { return group.has_value() ? 0660 : 0600; }
};

struct CreateOptions {
  uint64_t size_bytes = 0;  // 1 to kMaxMappingBytes
  FileAccess access = {};
  uint64_t alignment_bytes = 0;  // of the address: a power of two, 0 for that of a page
};

struct OpenOptions {
  bool read_only = false;
  uint64_t offset_bytes = 0;     // a multiple of kWindowAlignmentBytes
  uint64_t length_bytes = 0;     // 0: up to the end of the file
  uint64_t alignment_bytes = 0;  // as above
};

// A file, or a window of one, in the address space of this process. Movable; unmapped and closed by
// the destructor, the file stays. Functions may be called from any thread, but not while it is
// moved.
//
// Nothing is brought into memory here: a file is created as one hole, and whoever is about to touch
// a part of it calls Reserve() first. Touching what is not reserved ends in SIGBUS when the file
// system is full, and that goes for reading too.
class Mapping {
 public:
  // Creates the file with exactly the mode of `access`, whatever the umask, and maps all of it; it
  // reads as zeros. On failure nothing is left behind. kAlreadyExists: the name is taken.
  // kInvalidArgument: the size. kResourceExhausted: more than the file system could ever hold, a
  // limit of the process (RLIMIT_AS, RLIMIT_FSIZE), or the address space.
  static absl::StatusOr<Mapping> Create(const std::string& path, const CreateOptions& options);

  // Maps an existing file. kNotFound; kPermissionDenied; kDataLoss: shorter than the window
  // (half-made, or cut off); kResourceExhausted as above.
  static absl::StatusOr<Mapping> Open(const std::string& path, const OpenOptions& options);

  // Unlinks the name. What is mapped stays so. OK if there is none; kPermissionDenied names the
  // owner.
  static absl::Status Remove(const std::string& path);

  Mapping();  // maps nothing
  Mapping(Mapping&&) noexcept;
  Mapping& operator=(Mapping&&) noexcept;
  ~Mapping();

  // The window, at a different address in every process. Valid as long as this object, also when
  // moved.
  std::span<std::byte> bytes() const { return bytes_; }
  uint64_t size_bytes() const { return bytes_.size(); }
  const std::string& path() const;

  // Another window of the same file, also if its name has gone by now.
  absl::StatusOr<Mapping> Window(const OpenOptions& options) const;

  // Makes the file at least this long (a hole at its end). Never shortens it. Two processes that
  // grow one file must take turns.
  absl::Status GrowFile(uint64_t size_bytes);
  absl::StatusOr<uint64_t> FileSizeBytes() const;
  uint64_t inode() const;

  // Is the file still under its name? False if the name has gone or is another file's.
  bool IsUnderItsName() const;

  // Backs a part of the window with memory of the file system, so that touching it cannot fail.
  // What is backed already stays as it is. kResourceExhausted names the file system, its size and
  // what is free; a part may have been backed then. kFailedPrecondition: the file system cannot do
  // this.
  absl::Status Reserve(uint64_t offset_bytes, uint64_t length_bytes);

  // Gives the memory of the whole window back to the file system, for all who have mapped it; it
  // reads as zeros then. Where the file system cannot do this, nothing happens.
  void Discard();

  // Keeps a part of the window in memory (mlock), which also brings it in; it is reserved first.
  // kResourceExhausted names RLIMIT_MEMLOCK and its value.
  absl::Status Lock(uint64_t offset_bytes, uint64_t length_bytes);

  struct PopulateOptions {
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;  // 0: up to the end of the window
    bool zero = false;          // write zeros; otherwise the contents stay
    uint32_t threads = 0;       // 0: one for each processor, at most 16
    // The kernel gives huge pages to who touches, not to who reserves: enters the pages first.
    bool huge_pages = false;
    // Called now and then, by the calling thread, with the number of bytes done so far.
    std::function<void(uint64_t done_bytes)> progress = nullptr;
  };
  // Reserves a part of the window and enters its pages in this process's page table, so that the
  // first touch is as fast as any other. Errors as Reserve().
  absl::Status Populate(const PopulateOptions& options);

 private:
  struct State;

  Mapping(std::unique_ptr<State> state, std::span<std::byte> bytes);

  static absl::StatusOr<Mapping> Map(std::unique_ptr<State> state, const OpenOptions& options,
                                     uint64_t file_size_bytes);
  absl::Status CheckRange(uint64_t offset_bytes, uint64_t length_bytes) const;

  std::unique_ptr<State> state_;  // null: maps nothing
  std::span<std::byte> bytes_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_MAPPING_H_

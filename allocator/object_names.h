// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_OBJECT_NAMES_H_
#define HANDOFF_ALLOCATOR_OBJECT_NAMES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace handoff {

inline constexpr char kDefaultSession[] = "fairmq_shmem";
inline constexpr char kDefaultShmDir[] = "/dev/shm";

// Longest name of a session, and of a main segment that has a name of its own, in bytes. It leaves
// room for every suffix below within the 255 bytes of a file name.
inline constexpr size_t kMaxNameLength = 200;
inline constexpr size_t kMaxObjectNameLength = 255;

// What a file of a session is.
enum class ObjectKind {
  kSegment,       // <session>_main or the name given to it (id 0), <session>_main_<id>
  kRegion,        // <session>_region_<id>
  kManagement,    // <session>_management
  kControlQueue,  // <session>_control_queue
  kLockFile,      // <session>_mutex
};

struct ObjectNamesOptions {
  std::string session = kDefaultSession;
  std::string shm_dir = kDefaultShmDir;
  // Name of the main segment's file; empty: <session>_main. The other objects keep the session's
  // name.
  std::string main_segment = {};
};

// One file of a session: its name within the directory, what it is, and its id (0 without one).
struct SessionObject {
  std::string name;
  ObjectKind kind;
  uint32_t id;

  friend bool operator==(const SessionObject&, const SessionObject&) = default;
};

// The names of the objects of one session. No name of one session is ever the name of another, also
// when one session's name begins with the other's; only a main segment with a name of its own could
// meet a foreign file, and is then refused when it is created. A value; const use from any thread.
class ObjectNames {
 public:
  // kInvalidArgument: a name is empty, longer than kMaxNameLength, begins with other than a letter,
  // a digit or '_', or has a byte that is none of letter, digit, '_', '-', '.', ':', '+', '@'; the
  // directory is not an absolute path; or the main segment's name is that of another kind of
  // object.
  static absl::StatusOr<ObjectNames> Create(const ObjectNamesOptions& options);

  const std::string& session() const { return session_; }
  const std::string& shm_dir() const { return shm_dir_; }

  // True when the main segment has a name of its own.
  bool main_is_renamed() const { return main_segment_ != session_ + "_main"; }

  // Names of files, without directory.
  std::string Segment(uint32_t id) const;
  std::string Region(uint32_t id) const;
  std::string Management() const { return session_ + "_management"; }
  std::string ControlQueue() const { return session_ + "_control_queue"; }
  std::string LockFile() const { return session_ + "_mutex"; }

  // `name` in the directory of the session.
  std::string Path(std::string_view name) const;
  std::string SegmentPath(uint32_t id) const { return Path(Segment(id)); }
  std::string RegionPath(uint32_t id) const { return Path(Region(id)); }
  std::string ManagementPath() const { return Path(Management()); }
  std::string ControlQueuePath() const { return Path(ControlQueue()); }
  std::string LockFilePath() const { return Path(LockFile()); }

  // The files of this session that are in the directory now, in the order in which they may be
  // removed: segments and regions, control queue, management, the lock file last. kNotFound or
  // kPermissionDenied: the directory cannot be read.
  absl::StatusOr<std::vector<SessionObject>> ListPresent() const;

 private:
  ObjectNames() = default;

  std::string session_;
  std::string shm_dir_;
  std::string main_segment_;
};

// kInvalidArgument with the reason when `name` cannot be a session's name. `what` begins the
// message.
absl::Status CheckName(std::string_view what, std::string_view name);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_OBJECT_NAMES_H_

// SPDX-License-Identifier: Apache-2.0
#include "allocator/object_names.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace handoff {
namespace {

bool IsLetterOrDigit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool IsNameCharacter(char c) {
  return IsLetterOrDigit(c) || c == '_' || c == '-' || c == '.' || c == ':' || c == '+' || c == '@';
}

// The number in `digits` if it is written as Segment() and Region() write it: no sign, no leading
// zero.
std::optional<uint32_t> ParseId(std::string_view digits) {
  if (digits.empty() || (digits.size() > 1 && digits.front() == '0')) return std::nullopt;
  uint32_t id = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return id;
}

// What follows `prefix` in `name`, if it begins so.
std::optional<std::string_view> After(std::string_view name, std::string_view prefix) {
  if (name.substr(0, prefix.size()) != prefix) return std::nullopt;
  return name.substr(prefix.size());
}

struct Kind {
  ObjectKind kind;
  uint32_t id;
};

// What the file "<session><suffix>" is to the session.
std::optional<Kind> KindOfSuffix(std::string_view suffix) {
  if (suffix == "_main") return Kind{ObjectKind::kSegment, 0};
  if (suffix == "_management") return Kind{ObjectKind::kManagement, 0};
  if (suffix == "_control_queue") return Kind{ObjectKind::kControlQueue, 0};
  if (suffix == "_mutex") return Kind{ObjectKind::kLockFile, 0};
  if (const auto digits = After(suffix, "_main_")) {
    const auto id = ParseId(*digits);
    if (id.has_value() && *id != 0) return Kind{ObjectKind::kSegment, *id};
  }
  if (const auto digits = After(suffix, "_region_")) {
    if (const auto id = ParseId(*digits)) return Kind{ObjectKind::kRegion, *id};
  }
  return std::nullopt;
}

int RemovalRank(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kSegment:
    case ObjectKind::kRegion:
      return 0;
    case ObjectKind::kControlQueue:
      return 1;
    case ObjectKind::kManagement:
      return 2;
    case ObjectKind::kLockFile:
      return 3;
  }
  return 3;
}

}  // namespace

absl::Status CheckName(std::string_view what, std::string_view name) {
  const std::string quoted = absl::StrCat(std::string(what), " '", std::string(name), "'");
  if (name.empty()) return absl::InvalidArgumentError(absl::StrCat(std::string(what), " is empty"));
  if (name.size() > kMaxNameLength) {
    return absl::InvalidArgumentError(
        absl::StrCat(quoted, ": ", name.size(), " bytes, the longest allowed is ", kMaxNameLength));
  }
  if (!IsLetterOrDigit(name.front()) && name.front() != '_') {
    return absl::InvalidArgumentError(
        absl::StrCat(quoted, ": must begin with a letter, a digit or '_'"));
  }
  const auto bad = std::find_if_not(name.begin(), name.end(), IsNameCharacter);
  if (bad != name.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(quoted, ": the byte at position ", bad - name.begin(),
                     " is not allowed; allowed are letters, digits and any of _ - . : + @"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ObjectNames> ObjectNames::Create(const ObjectNamesOptions& options) {
  if (absl::Status status = CheckName("session name", options.session); !status.ok()) return status;
  if (options.shm_dir.empty() || options.shm_dir.front() != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("directory of shared memory '", options.shm_dir, "': not an absolute path"));
  }
  ObjectNames names;
  names.session_ = options.session;
  names.shm_dir_ = options.shm_dir;
  while (names.shm_dir_.size() > 1 && names.shm_dir_.back() == '/') names.shm_dir_.pop_back();
  names.main_segment_ = options.session + "_main";
  if (options.main_segment.empty()) return names;

  if (absl::Status status = CheckName("main segment name", options.main_segment); !status.ok()) {
    return status;
  }
  names.main_segment_ = options.main_segment;
  const auto suffix = After(options.main_segment, options.session);
  const auto kind = suffix.has_value() ? KindOfSuffix(*suffix) : std::nullopt;
  if (kind.has_value() && names.main_is_renamed()) {
    return absl::InvalidArgumentError(absl::StrCat("main segment name '", options.main_segment,
                                                   "': the session uses it for another object"));
  }
  return names;
}

std::string ObjectNames::Segment(uint32_t id) const {
  return id == 0 ? main_segment_ : absl::StrCat(session_, "_main_", id);
}

std::string ObjectNames::Region(uint32_t id) const {
  return absl::StrCat(session_, "_region_", id);
}

std::string ObjectNames::Path(std::string_view name) const {
  return absl::StrCat(shm_dir_ == "/" ? "" : shm_dir_, "/", std::string(name));
}

absl::StatusOr<std::vector<SessionObject>> ObjectNames::ListPresent() const {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(shm_dir_.c_str()), &closedir);
  if (directory == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("reading directory ", shm_dir_));
  }
  std::vector<SessionObject> found;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(directory.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name == main_segment_) {
      found.push_back({std::string(name), ObjectKind::kSegment, 0});
    } else if (const auto suffix = After(name, session_)) {
      // A file <session>_main beside a renamed main segment is listed too: it is this session's
      // name.
      if (const auto kind = KindOfSuffix(*suffix)) {
        found.push_back({std::string(name), kind->kind, kind->id});
      }
    }
  }
  if (errno != 0) return absl::ErrnoToStatus(errno, absl::StrCat("reading directory ", shm_dir_));
  std::sort(found.begin(), found.end(), [](const SessionObject& a, const SessionObject& b) {
    return std::tuple(RemovalRank(a.kind), a.kind, a.id, a.name) <
           std::tuple(RemovalRank(b.kind), b.kind, b.id, b.name);
  });
  return found;
}

}  // namespace handoff

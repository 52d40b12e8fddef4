// SPDX-License-Identifier: Apache-2.0
#include "base/process_id.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace handoff {
namespace {

struct ProcessStat {
  char state;
  uint64_t thread_count;
  uint64_t start_time;
};

// Numbers of fields as proc(5) counts them.
constexpr int kStateField = 3;
constexpr int kThreadCountField = 20;
constexpr int kStartTimeField = 22;

// `text` is the content of /proc/PID/stat. The second field is the program's name in parentheses
// and may hold spaces, parentheses and line ends, so fields are counted from the last ')'.
bool ParseStat(std::string_view text, ProcessStat& out) {
  const size_t end_of_name = text.rfind(") ");
  if (end_of_name == std::string_view::npos) return false;
  text.remove_prefix(end_of_name + 2);
  for (int field = kStateField; field <= kStartTimeField; ++field) {
    const size_t length = text.find(' ');
    if (length == 0 || length == std::string_view::npos) return false;
    uint64_t* number = nullptr;
    if (field == kStateField) out.state = text[0];
    if (field == kThreadCountField) number = &out.thread_count;
    if (field == kStartTimeField) number = &out.start_time;
    if (number != nullptr &&
        std::from_chars(text.data(), text.data() + length, *number).ec != std::errc()) {
      return false;
    }
    text.remove_prefix(length + 1);
  }
  return true;
}

absl::Status Unavailable(const std::string& path, const char* why) {
  return absl::UnavailableError(absl::StrCat(path, ": ", why));
}

// kNotFound only if there is no process `pid`.
absl::StatusOr<ProcessStat> ReadStat(pid_t pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/stat");
  // Larger than any: 52 numbers and a name of at most 64 bytes.
  std::array<char, 2048> buffer;
  ssize_t size = -1;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.valid()) size = ::read(fd.get(), buffer.data(), buffer.size());
  if (size <= 0) {
    const int error = errno;
    // Asked after the failure, since the process may have gone at any time before it.
    if (pid <= 0 || (::kill(pid, 0) != 0 && errno == ESRCH)) {
      return absl::NotFoundError(absl::StrCat("process ", pid, ": does not exist"));
    }
    return Unavailable(path, std::strerror(error));
  }
  ProcessStat stat;
  if (!ParseStat(std::string_view(buffer.data(), static_cast<size_t>(size)), stat)) {
    return Unavailable(path, "does not have the fields expected");
  }
  return stat;
}

}  // namespace

absl::StatusOr<ProcessId> CurrentProcessId() {
  ProcessId id{.pid = ::getpid()};
  const absl::StatusOr<ProcessStat> stat = ReadStat(id.pid);
  if (!stat.ok()) return absl::UnavailableError(stat.status().message());
  id.start_time = stat->start_time;
  const std::string path = "/proc/self/ns/pid";
  struct ::stat pid_namespace;
  if (::stat(path.c_str(), &pid_namespace) != 0) return Unavailable(path, std::strerror(errno));
  id.pid_namespace = pid_namespace.st_ino;
  return id;
}

absl::StatusOr<uint64_t> ProcessStartTime(pid_t pid) {
  const absl::StatusOr<ProcessStat> stat = ReadStat(pid);
  if (!stat.ok()) return stat.status();
  return stat->start_time;
}

bool IsRunning(pid_t pid, uint64_t start_time) {
  const absl::StatusOr<ProcessStat> stat = ReadStat(pid);
  if (!stat.ok()) return !absl::IsNotFound(stat.status());
  if (stat->start_time != start_time) return false;
  // Z is the state of the first thread: with others beside it the process goes on. X is seen only
  // in passing.
  return stat->thread_count > 1 || (stat->state != 'Z' && stat->state != 'X');
}

UniqueFd OpenPidfd(pid_t pid) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace handoff

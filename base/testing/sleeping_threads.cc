// SPDX-License-Identifier: Apache-2.0
#include "base/testing/sleeping_threads.h"

#include <dirent.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include "base/check.h"

namespace handoff {
namespace {

struct Status {
  bool sleeping = false;
  uint64_t switches = 0;
};

// nullopt: the thread has ended.
std::optional<Status> ReadStatus(const std::string& directory) {
  std::ifstream file(directory + "/status");
  std::optional<Status> status;
  for (std::string key; file >> key;) {
    if (key == "State:") {
      std::string state;
      file >> state;
      status.emplace();
      status->sleeping = state == "S";
    } else if (status.has_value() &&
               (key == "voluntary_ctxt_switches:" || key == "nonvoluntary_ctxt_switches:")) {
      uint64_t count = 0;
      file >> count;
      status->switches += count;
    }
  }
  return status;
}

// What the status does not tell: the state of a sleep is set before the thread leaves its
// processor, and it may stay on it. Here the kernel waits until it has left.
bool HasLeftItsProcessor(const std::string& directory) {
  std::ifstream file(directory + "/syscall");
  std::string call;
  return file >> call && call != "running";
}

// nullopt: awake, or ended.
std::optional<uint64_t> SleepOf(const std::string& directory) {
  const std::optional<Status> before = ReadStatus(directory);
  if (!before.has_value() || !before->sleeping || !HasLeftItsProcessor(directory)) {
    return std::nullopt;
  }
  const std::optional<Status> after = ReadStatus(directory);
  if (!after.has_value() || !after->sleeping || after->switches != before->switches) {
    return std::nullopt;
  }
  return after->switches;
}

}  // namespace

std::optional<Sleeps> SleepsOfOtherThreads() {
  static constexpr char kTasks[] = "/proc/self/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(::opendir(kTasks), &::closedir);
  HANDOFF_CHECK(tasks != nullptr) << kTasks << ": " << std::strerror(errno);
  Sleeps sleeps;
  while (const dirent* const entry = ::readdir(tasks.get())) {
    const pid_t thread = static_cast<pid_t>(std::atoi(entry->d_name));
    if (thread == 0 || thread == ::gettid()) continue;
    const std::optional<uint64_t> sleep = SleepOf(std::string(kTasks) + '/' + entry->d_name);
    if (!sleep.has_value()) return std::nullopt;
    sleeps[thread] = *sleep;
  }
  return sleeps;
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/testing/test_session.h"

#include <gtest/gtest.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace handoff {
namespace {

constexpr char kSharedMemoryDirectory[] = "/dev/shm";

std::string MakeName() {
  uint64_t random = 0;
  HANDOFF_CHECK_EQ(::getrandom(&random, sizeof(random), 0), ssize_t{sizeof(random)})
      << std::strerror(errno);
  return absl::StrCat("test_", absl::Hex(random, absl::kZeroPad16));
}

}  // namespace

TestSession::TestSession(const TestSessionOptions& options)
    : owns_directory_(options.own_directory),
      creator_(::getpid()),
      name_(MakeName()),
      directory_(owns_directory_ ? absl::StrCat(kSharedMemoryDirectory, "/", name_)
                                 : kSharedMemoryDirectory) {
  if (owns_directory_) {
    HANDOFF_CHECK_EQ(::mkdir(directory_.c_str(), 0700), 0)
        << directory_ << ": " << std::strerror(errno);
  }
}

TestSession::~TestSession() {
  if (::getpid() != creator_) return;
  std::error_code error;
  for (const std::string& object : Objects()) {
    ADD_FAILURE() << directory_ << "/" << object << " was left behind";
    std::filesystem::remove_all(std::filesystem::path(directory_) / object, error);
    if (error) ADD_FAILURE() << directory_ << "/" << object << ": " << error.message();
  }
  if (owns_directory_ && ::rmdir(directory_.c_str()) != 0) {
    ADD_FAILURE() << directory_ << ": " << std::strerror(errno);
  }
}

std::vector<std::string> TestSession::Objects() const {
  std::vector<std::string> objects;
  for (const std::filesystem::directory_entry& entry :
       std::filesystem::directory_iterator(directory_)) {
    std::string file_name = entry.path().filename().string();
    if (owns_directory_ || file_name.starts_with(name_)) objects.push_back(std::move(file_name));
  }
  std::sort(objects.begin(), objects.end());
  return objects;
}

}  // namespace handoff

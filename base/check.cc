// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace handoff::internal {

void (*on_check_failure)(const std::string& text) = nullptr;

CheckFailure::CheckFailure(const char* file, int line, const char* condition,
                           const std::string* values) {
  stream_ << file << ":" << line << ": check failed: " << condition;
  if (values != nullptr) stream_ << " (" << *values << ")";
  stream_ << " ";
}

CheckFailure::~CheckFailure() {
  stream_ << "\n";
  const std::string text = stream_.str();
  if (on_check_failure != nullptr) on_check_failure(text);
  // One write, so that the lines of several processes do not mix; there is nobody left to tell that
  // it failed.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  std::abort();
}

}  // namespace handoff::internal

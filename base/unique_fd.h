// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_UNIQUE_FD_H_
#define HANDOFF_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace handoff {

// Owns one file descriptor, or none (-1), and closes it.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }

  // Gives up ownership. The caller closes.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

  // Closes what is owned, if anything, and owns `fd`. A close that fails or is interrupted is not
  // repeated: Linux has freed the number by then.
  void reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) ::close(old);
  }

 private:
  int fd_ = -1;
};

}  // namespace handoff

#endif  // HANDOFF_BASE_UNIQUE_FD_H_

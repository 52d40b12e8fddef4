// SPDX-License-Identifier: Apache-2.0
#include "transport/interruption.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace handoff {

absl::Status Interruption::Open() {
  event_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd_.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

void Interruption::Raise() noexcept {
  const int saved_errno = errno;  // of the code that a signal handler runs in
  raised_.store(true, std::memory_order_release);
  MakeReadable();
  errno = saved_errno;
}

void Interruption::MakeReadable() const noexcept {
  const uint64_t one = 1;
  // Fails only if the counter is full: then it is readable.
  [[maybe_unused]] const ssize_t written = write(event_fd_.get(), &one, sizeof(one));
}

bool Interruption::Take() {
  const bool was_raised = raised_.exchange(false, std::memory_order_acq_rel);
  if (was_raised) Drain();
  return was_raised;
}

void Interruption::Drain() const {
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(event_fd_.get(), &count, sizeof(count));
  // That may have been the news of a Raise() after the flag was looked at, and others may sleep on
  // it.
  if (raised()) MakeReadable();
}

}  // namespace handoff

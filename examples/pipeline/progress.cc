// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/progress.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"

namespace handoff::pipeline {

void Progress::SetError(std::string_view who, const absl::Status& status) {
  uint32_t none = 0;
  if (!error_state.compare_exchange_strong(none, 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
    return;
  }
  const std::string text = absl::StrCat(std::string(who), ": ", status.ToString());
  const size_t length = std::min(text.size(), sizeof(error) - 1);
  std::memcpy(error, text.data(), length);
  error[length] = '\0';
  error_state.store(2, std::memory_order_release);
}

absl::StatusOr<Progress*> MakeProgress() {
  void* page =
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", sizeof(Progress), " bytes: ", std::strerror(errno)));
  }
  return new (page) Progress();
}

}  // namespace handoff::pipeline

// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/display.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "absl/strings/str_format.h"

namespace handoff::pipeline {

Display::Display(uint64_t total_bytes)
    : total_bytes_(total_bytes),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_ns_(MonotonicClock().NowNanoseconds()),
      last_ns_(start_ns_) {}

void Display::Show(const Progress& progress) {
  const int64_t now = MonotonicClock().NowNanoseconds();
  const double seconds = static_cast<double>(now - last_ns_) * 1e-9;
  if (seconds < (terminal_ ? 0.1 : 1.0)) return;
  const uint64_t sent = progress.sent_messages.load(std::memory_order_relaxed);
  const uint64_t messages = progress.written_messages.load(std::memory_order_relaxed);
  const uint64_t lost = progress.lost_messages.load(std::memory_order_relaxed);
  const uint64_t bytes = progress.written_bytes.load(std::memory_order_relaxed);
  const double bytes_a_second = static_cast<double>(bytes - last_bytes_) / seconds;
  const double average = static_cast<double>(bytes) / (static_cast<double>(now - start_ns_) * 1e-9);
  std::string left = "?";
  if (average > 0) {
    const uint64_t remaining = total_bytes_ - std::min(total_bytes_, bytes);
    left = absl::StrFormat("%.0f s", std::ceil(static_cast<double>(remaining) / average));
  }
  const std::string line = absl::StrFormat(
      "%9.0f messages/s  %6.2f GB/s  %5d in flight  %5.1f %%  %s left",
      static_cast<double>(messages - last_messages_) / seconds, bytes_a_second * 1e-9,
      static_cast<int64_t>(sent) - static_cast<int64_t>(messages + lost),
      total_bytes_ == 0 ? 100.0
                        : 100.0 * static_cast<double>(bytes) / static_cast<double>(total_bytes_),
      left);
  std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
  std::fflush(stderr);
  line_open_ = terminal_;
  last_ns_ = now;
  last_messages_ = messages;
  last_bytes_ = bytes;
}

void Display::End() {
  if (line_open_) std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
  line_open_ = false;
}

}  // namespace handoff::pipeline

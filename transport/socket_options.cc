// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_options.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace handoff {

namespace {

constexpr uint32_t kMaxHighWaterMark = 1'000'000;
constexpr uint32_t kMaxKernelBufferBytes = uint32_t{1} << 30;
constexpr absl::Duration kLongest = absl::Hours(1);

absl::Status CheckNumber(const char* name, uint32_t value, uint32_t least, uint32_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("socket option ", name, " = ", value, ": from ", least, " to ", most));
}

absl::Status CheckDuration(const char* name, absl::Duration value, absl::Duration least) {
  if (value >= least && value <= kLongest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("socket option ", name, " = ", absl::FormatDuration(value), ": from ",
                   absl::FormatDuration(least), " to ", absl::FormatDuration(kLongest)));
}

}  // namespace

const char* PatternName(Pattern pattern) {
  switch (pattern) {
    case Pattern::kPush:
      return "PUSH";
    case Pattern::kPull:
      return "PULL";
    case Pattern::kPair:
      return "PAIR";
    case Pattern::kRequest:
      return "REQUEST";
    case Pattern::kReply:
      return "REPLY";
    case Pattern::kPublish:
      return "PUBLISH";
    case Pattern::kSubscribe:
      return "SUBSCRIBE";
  }
  HANDOFF_CHECK(false) << "pattern " << static_cast<int>(pattern);
  return "";
}

bool PatternSends(Pattern pattern) {
  return pattern != Pattern::kPull && pattern != Pattern::kSubscribe;
}

bool PatternReceives(Pattern pattern) {
  return pattern != Pattern::kPush && pattern != Pattern::kPublish;
}

absl::Status SocketOptions::Validate() const {
  const absl::Duration longest_pause =
      reconnect_interval_max == absl::ZeroDuration() ? reconnect_interval : reconnect_interval_max;
  for (const absl::Status& status :
       {CheckNumber("send_high_water_mark", send_high_water_mark, 1, kMaxHighWaterMark),
        CheckNumber("receive_high_water_mark", receive_high_water_mark, 1, kMaxHighWaterMark),
        CheckNumber("kernel_send_buffer_bytes", kernel_send_buffer_bytes, 0, kMaxKernelBufferBytes),
        CheckNumber("kernel_receive_buffer_bytes", kernel_receive_buffer_bytes, 0,
                    kMaxKernelBufferBytes),
        CheckDuration("linger", linger, absl::ZeroDuration()),
        CheckDuration("spin", spin, absl::ZeroDuration()),
        CheckDuration("reconnect_interval", reconnect_interval, absl::Milliseconds(1)),
        CheckDuration("reconnect_interval_max", longest_pause, absl::Milliseconds(1))}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace handoff

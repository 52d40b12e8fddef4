// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_options.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"

namespace handoff {

namespace {

constexpr uint32_t kMaxHighWaterMark = 1'000'000;
constexpr uint32_t kMaxKernelBufferBytes = uint32_t{1} << 30;
constexpr uint32_t kMaxBacklog = 65'535;
constexpr absl::Duration kLongest = absl::Hours(1);

absl::Status CheckNumber(const char* name, uint32_t value, uint32_t least, uint32_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("socket option ", name, " = ", value, ": from ", least, " to ", most));
}

// What the text of an option is read into. False: it is no such thing.

bool Parse(const std::string& text, uint32_t* value) { return absl::SimpleAtoi(text, value); }

bool Parse(const std::string& text, bool* value) { return absl::SimpleAtob(text, value); }

bool Parse(const std::string& text, absl::Duration* value) {
  int64_t milliseconds;
  if (absl::SimpleAtoi(text, &milliseconds)) {
    *value = absl::Milliseconds(milliseconds);
    return true;
  }
  return absl::ParseDuration(text, value);
}

bool Parse(const std::string& text, SlowPolicy* value) {
  for (const auto& [name, policy] :
       {std::pair("block", SlowPolicy::kBlock), std::pair("drop-newest", SlowPolicy::kDropNewest),
        std::pair("drop-oldest", SlowPolicy::kDropOldest)}) {
    if (text != name) continue;
    *value = policy;
    return true;
  }
  return false;
}

bool Parse(const std::string& text, std::vector<std::string>* value) {
  *value = absl::StrSplit(text, ',');
  return true;
}

template <auto kField>
bool ParseInto(const std::string& text, SocketOptions* options) {
  return Parse(text, &(options->*kField));
}

struct NamedOption {
  const char* name;
  const char* kind;
  bool (*parse)(const std::string& text, SocketOptions* options);
};

constexpr const char* kNumber = "a number";
constexpr const char* kTime = "a duration, such as 20ms or 1s";
constexpr const char* kSwitch = "true or false";

constexpr NamedOption kNamedOptions[] = {
    {"snd-hwm", kNumber, ParseInto<&SocketOptions::send_high_water_mark>},
    {"rcv-hwm", kNumber, ParseInto<&SocketOptions::receive_high_water_mark>},
    {"snd-kernel-size", kNumber, ParseInto<&SocketOptions::kernel_send_buffer_bytes>},
    {"rcv-kernel-size", kNumber, ParseInto<&SocketOptions::kernel_receive_buffer_bytes>},
    {"linger", kTime, ParseInto<&SocketOptions::linger>},
    {"reconnect-interval", kTime, ParseInto<&SocketOptions::reconnect_interval>},
    {"reconnect-interval-max", kTime, ParseInto<&SocketOptions::reconnect_interval_max>},
    {"backlog", kNumber, ParseInto<&SocketOptions::backlog>},
    {"tcp-keepalive", kSwitch, ParseInto<&SocketOptions::tcp_keepalive>},
    {"ipv6", kSwitch, ParseInto<&SocketOptions::ipv6>},
    {"spin", kTime, ParseInto<&SocketOptions::spin>},
    {"slow-policy", "block, drop-newest or drop-oldest", ParseInto<&SocketOptions::slow_policy>},
    {"topics", "a list", ParseInto<&SocketOptions::topics>},
};

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
        CheckNumber("backlog", backlog, 1, kMaxBacklog),
        CheckDuration("linger", linger, absl::ZeroDuration()),
        CheckDuration("spin", spin, absl::ZeroDuration()),
        CheckDuration("reconnect_interval", reconnect_interval, absl::Milliseconds(1)),
        CheckDuration("reconnect_interval_max", longest_pause, absl::Milliseconds(1))}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SocketOptions::Set(std::string_view name, std::string_view value) {
  const std::string text(value);
  for (const NamedOption& option : kNamedOptions) {
    if (option.name != name) continue;
    SocketOptions changed = *this;
    if (!option.parse(text, &changed)) {
      return absl::InvalidArgumentError(
          absl::StrCat("socket option ", option.name, " = \"", text, "\": not ", option.kind));
    }
    if (absl::Status status = changed.Validate(); !status.ok()) return status;
    *this = std::move(changed);
    return absl::OkStatus();
  }
  std::string names;
  for (const NamedOption& option : kNamedOptions) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", option.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no socket option \"", std::string(name), "\"; there are ", names));
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "transport/address.h"

#include <sys/un.h>

#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace handoff {

namespace {

constexpr std::pair<std::string_view, Scheme> kSchemes[] = {
    {"ring", Scheme::kRing},
    {"ipc", Scheme::kIpc},
    {"tcp", Scheme::kTcp},
    {"inproc", Scheme::kInproc},
};
constexpr char kValid[] = "valid are ring://name, ipc://path, tcp://host:port and inproc://name";

absl::Status Wrong(std::string_view text, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", std::string(text), "\": ", what, "; ", kValid));
}

}  // namespace

absl::StatusOr<Address> Address::Parse(std::string_view text) {
  constexpr std::string_view kSeparator = "://";
  const size_t separator = text.find(kSeparator);
  if (separator == std::string_view::npos) return Wrong(text, "no scheme");
  const std::string_view word = text.substr(0, separator);
  const std::string_view place = text.substr(separator + kSeparator.size());
  for (const auto& [name, scheme] : kSchemes) {
    if (name != word) continue;
    if (place.empty()) return Wrong(text, "nothing behind the scheme");
    if (place.find('\0') != std::string_view::npos) return Wrong(text, "a zero byte in it");
    if (scheme == Scheme::kIpc && place.size() >= sizeof(sockaddr_un::sun_path)) {
      return Wrong(text, absl::StrCat("a path of ", place.size(), " bytes, at most ",
                                      sizeof(sockaddr_un::sun_path) - 1));
    }
    if (scheme == Scheme::kTcp && place.rfind(':') == std::string_view::npos) {
      return Wrong(text, "no port");
    }
    return Address{scheme, std::string(text), std::string(place)};
  }
  return Wrong(text, absl::StrCat("unknown scheme \"", std::string(word), "\""));
}

}  // namespace handoff

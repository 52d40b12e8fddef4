// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_SUPPORT_EXAMPLE_H_
#define HANDOFF_EXAMPLES_SUPPORT_EXAMPLE_H_

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/transport.h"

namespace handoff::example {

// What one process of an example does, in a session that this run has for itself.
using Role = std::function<void(const std::string& session)>;

// Runs each role in a process of its own, forked before anything of the transport is opened, and
// waits for all of them. Returns what main() returns: 0 unless a role has failed; one that kills
// itself by SIGKILL has not.
int RunTogether(std::initializer_list<Role> roles);

// No example waits longer.
inline Deadline Soon() { return Deadline::After(absl::Seconds(20)); }

[[noreturn]] inline void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(EXIT_FAILURE);
}
// Unless that worked, the process ends and says why.
inline void Must(const absl::Status& status) {
  if (!status.ok()) Fail(status.ToString());
}
inline void Must(SocketResult result) {
  if (result != SocketResult::kOk) Fail(DescribeSocketResult(result));
}
template <class T>
T Must(absl::StatusOr<T> value) {
  Must(value.status());
  return *std::move(value);
}

// A message with these bytes. Real programs write them straight into mutable_bytes().
inline Message MakeText(Transport& transport, std::string_view text) {
  Message message = Must(transport.Allocate(text.size(), {.deadline = Soon()}));
  std::memcpy(message.mutable_bytes().data(), text.data(), text.size());
  return message;
}
inline std::string Text(const Message& message) {
  return {reinterpret_cast<const char*>(message.data()), message.size()};
}

// Until so many peers have connected to the socket, or have gone.
void AwaitPeers(const Socket& socket, uint32_t count);

}  // namespace handoff::example

#endif  // HANDOFF_EXAMPLES_SUPPORT_EXAMPLE_H_

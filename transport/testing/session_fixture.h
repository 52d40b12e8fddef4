// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_TESTING_SESSION_FIXTURE_H_
#define HANDOFF_TRANSPORT_TESTING_SESSION_FIXTURE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "allocator/member.h"
#include "base/clock.h"
#include "base/testing/test_session.h"
#include "gtest/gtest.h"
#include "transport/message.h"
#include "transport/socket.h"
#include "transport/socket_options.h"
#include "transport/transport.h"

namespace handoff {

// A session of its own for each test, in a directory of its own, that fails the test if a file of
// it is left.
class SessionFixture : public ::testing::Test {
 protected:
  static constexpr uint64_t kSegmentBytes = 64 << 20;

  // For waits that end a test that has failed.
  static Deadline Soon() { return Deadline::After(absl::Seconds(20)); }

  TransportOptions Options() const;

  // Joins; fails the test if that does not work.
  std::unique_ptr<Transport> OpenTransport() const { return OpenTransport(Options()); }
  static std::unique_ptr<Transport> OpenTransport(const TransportOptions& options);

  // A machine under load takes its time: what was sent is not given up before the test is.
  static SocketOptions PatientOptions() {
    SocketOptions options;
    options.linger = absl::Seconds(5);
    return options;
  }

  static std::unique_ptr<Socket> Bind(Transport& transport, Pattern pattern,
                                      const std::string& address,
                                      const SocketOptions& options = PatientOptions());
  static std::unique_ptr<Socket> Connect(Transport& transport, Pattern pattern,
                                         const std::string& address,
                                         const SocketOptions& options = PatientOptions());

  // An address that nobody else uses, without a file.
  std::string Address(std::string_view name = "a") const;
  // The same with a file in the session's directory.
  std::string FileAddress(std::string_view name) const;

  // A message of that size whose bytes follow from `seed`, and whether a message is that.
  static Message Filled(Transport& transport, size_t size_bytes, uint64_t seed);
  static bool IsFilled(const Message& message, size_t size_bytes, uint64_t seed);

  // Joins as one more member and looks, when the others of the session are at rest or dead: every
  // block of the main segment becomes free, and nothing is out of place.
  void ExpectSegmentWhole() const;

  const TestSession session_{TestSessionOptions{.own_directory = true}};
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_TESTING_SESSION_FIXTURE_H_

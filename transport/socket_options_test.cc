// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_options.h"

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

TEST(SocketOptionsTest, AreValidByDefaultAndAtTheirLimits) {
  EXPECT_TRUE(SocketOptions{}.Validate().ok());
  EXPECT_TRUE((SocketOptions{.send_high_water_mark = 1, .receive_high_water_mark = 1'000'000})
                  .Validate()
                  .ok());
  EXPECT_TRUE((SocketOptions{.linger = absl::ZeroDuration(),
                             .reconnect_interval = absl::Milliseconds(1),
                             .reconnect_interval_max = absl::ZeroDuration()})
                  .Validate()
                  .ok());
}

TEST(SocketOptionsTest, NameWhatIsOutOfRange) {
  const auto expect = [](const SocketOptions& options, const char* text) {
    const absl::Status status = options.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect({.send_high_water_mark = 0}, "send_high_water_mark = 0: from 1 to 1000000");
  expect({.receive_high_water_mark = 1'000'001}, "receive_high_water_mark = 1000001");
  expect({.kernel_send_buffer_bytes = (1u << 30) + 1}, "kernel_send_buffer_bytes");
  expect({.linger = absl::InfiniteDuration()}, "linger = inf: from 0 to 1h");
  expect({.linger = absl::Milliseconds(-1)}, "linger = -1ms");
  expect({.reconnect_interval = absl::ZeroDuration()}, "reconnect_interval = 0");
  expect({.reconnect_interval_max = absl::Hours(2)}, "reconnect_interval_max = 2h");
}

TEST(PatternTest, SaysWhichWayMessagesGo) {
  EXPECT_TRUE(PatternSends(Pattern::kPush) && !PatternReceives(Pattern::kPush));
  EXPECT_TRUE(!PatternSends(Pattern::kPull) && PatternReceives(Pattern::kPull));
  EXPECT_TRUE(PatternSends(Pattern::kPublish) && !PatternReceives(Pattern::kPublish));
  EXPECT_TRUE(!PatternSends(Pattern::kSubscribe) && PatternReceives(Pattern::kSubscribe));
  for (const Pattern both : {Pattern::kPair, Pattern::kRequest, Pattern::kReply}) {
    EXPECT_TRUE(PatternSends(both) && PatternReceives(both)) << PatternName(both);
  }
}

}  // namespace
}  // namespace handoff

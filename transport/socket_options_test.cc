// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_options.h"

#include <string>
#include <utility>
#include <vector>

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

TEST(SocketOptionsTest, AreSetByName) {
  SocketOptions options;
  for (const auto& [name, value] : {std::pair("snd-hwm", "10"),
                                    {"rcv-hwm", "20"},
                                    {"snd-kernel-size", "4096"},
                                    {"rcv-kernel-size", "8192"},
                                    {"linger", "1.5s"},
                                    {"reconnect-interval", "30"},
                                    {"reconnect-interval-max", "2s"},
                                    {"backlog", "500"},
                                    {"tcp-keepalive", "true"},
                                    {"ipv6", "1"},
                                    {"spin", "50us"},
                                    {"slow-policy", "drop-oldest"},
                                    {"topics", "a,b"}}) {
    EXPECT_TRUE(options.Set(name, value).ok()) << options.Set(name, value);
  }
  EXPECT_EQ(options.send_high_water_mark, 10u);
  EXPECT_EQ(options.receive_high_water_mark, 20u);
  EXPECT_EQ(options.kernel_send_buffer_bytes, 4096u);
  EXPECT_EQ(options.kernel_receive_buffer_bytes, 8192u);
  EXPECT_EQ(options.linger, absl::Milliseconds(1500));
  EXPECT_EQ(options.reconnect_interval, absl::Milliseconds(30));
  EXPECT_EQ(options.reconnect_interval_max, absl::Seconds(2));
  EXPECT_EQ(options.backlog, 500u);
  EXPECT_TRUE(options.tcp_keepalive && options.ipv6);
  EXPECT_EQ(options.spin, absl::Microseconds(50));
  EXPECT_EQ(options.slow_policy, SlowPolicy::kDropOldest);
  EXPECT_EQ(options.topics, (std::vector<std::string>{"a", "b"}));
}

TEST(SocketOptionsTest, RefuseNamesAndValuesThatAreNotThereAndStayAsTheyWere) {
  SocketOptions options;
  const auto expect = [&](const char* name, const char* value, const char* text) {
    const absl::Status status = options.Set(name, value);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect("hwm", "1", "no socket option \"hwm\"; there are snd-hwm, rcv-hwm, ");
  expect("", "1", "no socket option");
  expect("rcv-hwm", "many", "rcv-hwm = \"many\": not a number");
  expect("rcv-hwm", "0", "from 1 to 1000000");
  expect("rcv-hwm", "-1", "not a number");
  expect("linger", "soon", "a duration");
  expect("linger", "2h", "from 0 to 1h");
  expect("tcp-keepalive", "perhaps", "true or false");
  expect("slow-policy", "drop", "drop-newest");
  EXPECT_EQ(options.receive_high_water_mark, SocketOptions().receive_high_water_mark);
  EXPECT_EQ(options.linger, absl::Milliseconds(500));
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

// SPDX-License-Identifier: Apache-2.0
#include "transport/address.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

TEST(AddressTest, KnowsItsSchemeAndPlace) {
  struct Case {
    const char* text;
    Scheme scheme;
    const char* place;
  };
  for (const Case& right :
       {Case{"ring://data", Scheme::kRing, "data"},
        Case{"ipc:///tmp/socket", Scheme::kIpc, "/tmp/socket"},
        Case{"ipc://@abstract", Scheme::kIpc, "@abstract"}, Case{"tcp://*:*", Scheme::kTcp, "*:*"},
        Case{"tcp://[::1]:80", Scheme::kTcp, "[::1]:80"},
        Case{"inproc://a://b", Scheme::kInproc, "a://b"}}) {
    const auto address = Address::Parse(right.text);
    ASSERT_TRUE(address.ok()) << address.status().ToString();
    EXPECT_EQ(address->scheme, right.scheme);
    EXPECT_EQ(address->text, right.text);
    EXPECT_EQ(address->place, right.place);
  }
}

TEST(AddressTest, NamesTheValidSchemesWhenItRefuses) {
  for (const std::string text :
       {"", "data", "udp://data", "RING://data", "ring://", "://x", "tcp://host", "ipc:/path"}) {
    const auto address = Address::Parse(text);
    ASSERT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    const std::string message(address.status().message());
    EXPECT_THAT(message, HasSubstr("\"" + text + "\""));
    EXPECT_THAT(message, HasSubstr("ring://name, ipc://path, tcp://host:port and inproc://name"));
  }
}

TEST(AddressTest, RefusesAPathThatNoSocketCanHave) {
  EXPECT_TRUE(Address::Parse("ipc://" + std::string(107, 'x')).ok());
  EXPECT_FALSE(Address::Parse("ipc://" + std::string(108, 'x')).ok());
  EXPECT_FALSE(Address::Parse(std::string("ipc://a\0b", 9)).ok());
}

}  // namespace
}  // namespace handoff

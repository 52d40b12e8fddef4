// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_counters.h"

#include <string>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using Drop = SocketCounters::Drop;

TEST(SocketCountersTest, CountEachThingByItself) {
  SocketCounters counters;
  counters.Sent(10);
  counters.Sent(0);
  counters.Received(7);
  counters.SendBlocked(1000);
  counters.ReceiveBlocked(2000);
  const SocketStatistics statistics = counters.Snapshot();
  EXPECT_EQ(statistics.messages_sent, 2u);
  EXPECT_EQ(statistics.bytes_sent, 10u);
  EXPECT_EQ(statistics.messages_received, 1u);
  EXPECT_EQ(statistics.bytes_received, 7u);
  EXPECT_EQ(statistics.send_blocked, absl::Microseconds(1));
  EXPECT_EQ(statistics.receive_blocked, absl::Microseconds(2));
  EXPECT_TRUE(statistics.refused_peers.empty());
}

TEST(SocketCountersTest, ReportEachPeerOnceWithItsFirstReason) {
  SocketCounters counters;
  counters.Dropped(Drop::kForeign, "a", "other session");
  counters.Dropped(Drop::kBad, "a", "no handle");
  counters.Dropped(Drop::kStale, "b", "stale");
  const SocketStatistics statistics = counters.Snapshot();
  EXPECT_EQ(statistics.foreign_frames, 1u);
  EXPECT_EQ(statistics.bad_frames, 1u);
  EXPECT_EQ(statistics.stale_handles, 1u);
  ASSERT_EQ(statistics.refused_peers.size(), 2u);
  EXPECT_EQ(statistics.refused_peers[0].peer, "a");
  EXPECT_EQ(statistics.refused_peers[0].reason, "other session");
  EXPECT_EQ(statistics.refused_peers[0].frames, 2u);
  EXPECT_EQ(statistics.refused_peers[1].peer, "b");
}

TEST(SocketCountersTest, RememberABoundedNumberOfPeers) {
  SocketCounters counters;
  for (int i = 0; i < 1000; ++i) counters.Dropped(Drop::kBad, std::to_string(i), "no handle");
  const SocketStatistics statistics = counters.Snapshot();
  EXPECT_EQ(statistics.bad_frames, 1000u);
  EXPECT_EQ(statistics.refused_peers.size(), SocketStatistics::kMaxRefusedPeers);
}

}  // namespace
}  // namespace handoff

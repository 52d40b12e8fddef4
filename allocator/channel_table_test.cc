// SPDX-License-Identifier: Apache-2.0
#include "allocator/channel_table.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/sync.h"
#include "control_queue/member_table.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

class ChannelTableTest : public ::testing::Test {
 protected:
  static constexpr MemberId kOne{.slot = 1, .epoch = 5};
  static constexpr MemberId kTwo{.slot = 2, .epoch = 9};

  ChannelTableTest() {
    Live(kOne);
    Live(kTwo);
  }

  std::atomic<uint64_t>& RowOf(MemberId member) {
    auto* rows =
        reinterpret_cast<MemberRow<RealSync>*>(rows_->bytes + sizeof(MemberTableHeader<RealSync>));
    return rows[member.slot].word;
  }
  void Live(MemberId member) {
    RowOf(member) = MemberWord{member.epoch, MemberState::kLive}.Packed();
  }
  void Die(MemberId member) {
    RowOf(member) = MemberWord{member.epoch, MemberState::kDead}.Packed();
  }

  ChannelState StateOf(const Channel& channel) { return one_.Load(channel.id).state(); }

  // A pass over holds that name these channels.
  std::vector<bool> Sweep(const std::vector<uint32_t>& holds, bool memory_is_short) {
    auto pass = std::make_unique<ChannelTable::Pass>();
    two_.Begin(memory_is_short, pass.get());
    std::vector<bool> freed;
    for (const uint32_t channel : holds) {
      freed.push_back(pass->MayFree(channel));
      if (freed.back()) {
        pass->Freed();
      } else {
        pass->Seen(channel);
      }
    }
    two_.End(*pass, /*complete=*/true);
    return freed;
  }

  struct alignas(4096) Rows {
    std::byte bytes[MemberTable<RealSync>::BytesNeeded()] = {};
  };
  struct alignas(4096) Table {
    std::byte bytes[ChannelTable::BytesNeeded()] = {};
  };
  std::unique_ptr<Rows> rows_ = std::make_unique<Rows>();
  std::unique_ptr<Table> table_ = std::make_unique<Table>();
  MemberTable<RealSync> members_{rows_->bytes};
  ChannelTable one_{table_->bytes, kOne, members_};
  ChannelTable two_{table_->bytes, kTwo, members_};
};

TEST_F(ChannelTableTest, GivesEverySocketAChannelOfItsOwnUntilAllAreInUse) {
  std::vector<bool> taken(kMaxChannels);
  for (uint32_t i = 1; i < kMaxChannels; ++i) {
    const auto channel = (i % 2 == 0 ? one_ : two_).Open();
    ASSERT_TRUE(channel.ok()) << i;
    ASSERT_NE(channel->id, 0u);
    ASSERT_FALSE(taken[channel->id]);
    taken[channel->id] = true;
  }
  EXPECT_FALSE(one_.Open().ok());
}

TEST_F(ChannelTableTest, FreesNothingOfOpenAndClosedChannels) {
  two_.AddReceiver();
  const Channel open = *one_.Open();
  const Channel closed = *one_.Open();
  ASSERT_TRUE(one_.Move(closed, ChannelState::kClosed));
  EXPECT_EQ(Sweep({open.id, closed.id}, true), (std::vector<bool>{false, false}));
  EXPECT_EQ(StateOf(closed), ChannelState::kClosed);
}

TEST_F(ChannelTableTest, FreesWhatIsAgedWhenMemoryIsShortAndWhatIsAbandonedAlways) {
  two_.AddReceiver();
  const Channel aged = *one_.Open();
  const Channel abandoned = *one_.Open();
  ASSERT_TRUE(one_.Move(aged, ChannelState::kAged));
  ASSERT_TRUE(one_.Move(abandoned, ChannelState::kAged));
  ASSERT_TRUE(one_.Move(abandoned, ChannelState::kAbandoned));
  EXPECT_TRUE(two_.PassIsDue());
  EXPECT_EQ(Sweep({aged.id, abandoned.id}, false), (std::vector<bool>{false, true}));
  EXPECT_FALSE(two_.PassIsDue());
  EXPECT_EQ(StateOf(abandoned), ChannelState::kFree);
  EXPECT_EQ(StateOf(aged), ChannelState::kAged);
  EXPECT_EQ(Sweep({aged.id}, true), (std::vector<bool>{true}));
  EXPECT_EQ(StateOf(aged), ChannelState::kFree);
  EXPECT_EQ(one_.swept_messages(), 2u);
}

TEST_F(ChannelTableTest, KeepsAChannelThatAHoldStillNames) {
  const Channel aged = *one_.Open();
  ASSERT_TRUE(one_.Move(aged, ChannelState::kAged));
  EXPECT_EQ(Sweep({aged.id}, false), (std::vector<bool>{false}));
  EXPECT_EQ(StateOf(aged), ChannelState::kAged);
  // Incomplete: a hold may have been missed.
  auto pass = std::make_unique<ChannelTable::Pass>();
  two_.Begin(false, pass.get());
  two_.End(*pass, /*complete=*/false);
  EXPECT_EQ(StateOf(aged), ChannelState::kAged);
}

TEST_F(ChannelTableTest, LeavesAChannelInPeaceThatIsInUseAgainWhenALatePassEnds) {
  const Channel first = *one_.Open();
  ASSERT_TRUE(one_.Move(first, ChannelState::kAged));
  auto late = std::make_unique<ChannelTable::Pass>();
  two_.Begin(true, late.get());
  EXPECT_TRUE(Sweep({}, true).empty());  // another pass frees the channel
  const Channel second = *one_.Open();
  ASSERT_EQ(second.id, first.id);
  EXPECT_NE(second.word, first.word);
  // The late one: neither what is posted now nor the channel.
  EXPECT_FALSE(late->MayFree(second.id));
  ASSERT_TRUE(one_.Move(second, ChannelState::kAged));
  two_.End(*late, /*complete=*/true);
  EXPECT_EQ(StateOf(second), ChannelState::kAged);
  // And the former owner of the row has no say any more.
  EXPECT_FALSE(one_.Move(first, ChannelState::kAbandoned));
}

TEST_F(ChannelTableTest, AgesTheChannelsOfAKilledOwnerAndNoOthers) {
  two_.AddReceiver();
  const Channel of_one = *one_.Open();
  const Channel of_two = *two_.Open();
  Die(kOne);
  two_.Reclaim(kOne);
  two_.Reclaim(kOne);
  EXPECT_EQ(StateOf(of_one), ChannelState::kAged);
  EXPECT_EQ(StateOf(of_two), ChannelState::kOpen);
}

TEST_F(ChannelTableTest, AgesClosedChannelsWhenAReceiverDiesAndAbandonsThemWithTheLast) {
  one_.AddReceiver();
  two_.AddReceiver();
  const Channel closed = *one_.Open();
  ASSERT_TRUE(one_.Move(closed, ChannelState::kClosed));
  Die(kTwo);
  one_.Reclaim(kTwo);
  EXPECT_EQ(StateOf(closed), ChannelState::kAged);
  one_.RemoveReceiver();
  EXPECT_EQ(StateOf(closed), ChannelState::kAbandoned);
}

TEST_F(ChannelTableTest, KnowsAReceiverUntilItsLastSocketIsClosed) {
  two_.AddReceiver();
  two_.AddReceiver();
  const Channel closed = *one_.Open();
  ASSERT_TRUE(one_.Move(closed, ChannelState::kClosed));
  two_.RemoveReceiver();
  EXPECT_EQ(StateOf(closed), ChannelState::kAged);  // it may have been for that one
  two_.RemoveReceiver();
  EXPECT_EQ(StateOf(closed), ChannelState::kAbandoned);
}

// What a kill between two steps leaves.

TEST_F(ChannelTableTest, AgesBothChannelsOfAnOwnerKilledWhileItTookAnother) {
  two_.AddReceiver();
  const Channel former = *one_.Open();
  const Channel next = *one_.Open();
  Die(kOne);
  two_.Reclaim(kOne);
  EXPECT_EQ(StateOf(former), ChannelState::kAged);
  EXPECT_EQ(StateOf(next), ChannelState::kAged);
  EXPECT_EQ(Sweep({former.id}, true), (std::vector<bool>{true}));
  EXPECT_EQ(StateOf(next), ChannelState::kFree);
}

TEST_F(ChannelTableTest, IsNotMisledByTheNextTenantOfASlot) {
  two_.AddReceiver();
  const Channel of_old = *one_.Open();
  const MemberId next{.slot = kOne.slot, .epoch = kOne.epoch + 1};
  Live(next);
  ChannelTable tenant(table_->bytes, next, members_);
  const Channel of_new = *tenant.Open();
  tenant.AddReceiver();
  two_.Reclaim(kOne);  // late
  EXPECT_EQ(StateOf(of_old), ChannelState::kAged);
  EXPECT_EQ(StateOf(of_new), ChannelState::kOpen);
  Die(kTwo);
  tenant.Reclaim(kTwo);
  const Channel closed = *tenant.Open();
  ASSERT_TRUE(tenant.Move(closed, ChannelState::kClosed));
  two_.Reclaim(kOne);
  EXPECT_EQ(StateOf(closed), ChannelState::kClosed);  // the tenant receives
}

TEST_F(ChannelTableTest, StaysInBoundsWhateverTheBytes) {
  for (size_t i = 0; i < sizeof(table_->bytes); ++i) {
    table_->bytes[i] = static_cast<std::byte>(i * 131 + i / 251);
  }
  one_.Reclaim(kTwo);
  one_.AddReceiver();
  one_.RemoveReceiver();
  (void)one_.Open();
  (void)one_.PassIsDue();
  std::vector<uint32_t> holds;
  for (uint32_t channel = 0; channel < kMaxChannels; ++channel) holds.push_back(channel);
  Sweep(holds, true);
}

}  // namespace
}  // namespace handoff

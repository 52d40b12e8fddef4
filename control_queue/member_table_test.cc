// SPDX-License-Identifier: Apache-2.0
#include "control_queue/member_table.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/cache_line.h"
#include "base/sync.h"
#include "control_queue/member_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Table = MemberTable<RealSync>;

struct alignas(2 * kCacheLineSize) Bytes {
  std::array<std::byte, Table::BytesNeeded()> bytes;
};

MemberIdentity Named(const std::string& name) {
  MemberIdentity identity = {.pid = 12, .uid = 34, .start_time = 56, .pid_namespace = 78};
  identity.SetName(name);
  return identity;
}

class MemberTableTest : public ::testing::Test {
 protected:
  MemberTableTest() : memory_(std::make_unique<Bytes>()), table_(memory_->bytes) {}

  std::vector<MemberId> Live() const {
    std::vector<MemberId> live;
    table_.ForEachLive([&](MemberId member) { live.push_back(member); });
    return live;
  }

  std::unique_ptr<Bytes> memory_;
  Table table_;
};

TEST_F(MemberTableTest, BeginsEmpty) {
  EXPECT_EQ(table_.SlotsUsed(), 0u);
  EXPECT_THAT(Live(), IsEmpty());
  EXPECT_EQ(table_.NextFree(0), 1u) << "slot 0 belongs to nobody";
  EXPECT_FALSE(table_.Alive({.slot = 1, .epoch = 0}));
}

TEST_F(MemberTableTest, KnowsAMemberFromPublishToMarkDead) {
  const std::optional<MemberId> member = table_.Publish(3, Named("reader"));
  ASSERT_TRUE(member.has_value());
  EXPECT_TRUE(table_.Alive(*member));
  EXPECT_FALSE(table_.Alive({.slot = 3, .epoch = member->epoch + 1}));
  EXPECT_THAT(Live(), ElementsAre(*member));
  const Table::Member row = table_.Load(3);
  EXPECT_EQ(row.word, (MemberWord{member->epoch, MemberState::kLive}));
  EXPECT_EQ(row.identity, Named("reader"));
  EXPECT_EQ(row.identity.NameView(), "reader");

  EXPECT_TRUE(table_.MarkDead(*member));
  EXPECT_FALSE(table_.Alive(*member));
  EXPECT_TRUE(table_.MarkDead(*member)) << "somebody else found it first";
  EXPECT_FALSE(table_.Publish(3, Named("next")).has_value()) << "not reclaimed yet";
  EXPECT_EQ(table_.Load(3).identity.NameView(), "reader") << "for the reclaimer's report";
}

TEST_F(MemberTableTest, GivesTheSlotToTheNextMemberWithAnotherEpoch) {
  const MemberId first = *table_.Publish(3, Named("first"));
  EXPECT_FALSE(table_.Free(first)) << "still live";
  ASSERT_TRUE(table_.MarkDead(first));
  EXPECT_TRUE(table_.Free(first));
  EXPECT_FALSE(table_.Free(first)) << "one caller only";
  const MemberId second = *table_.Publish(3, Named("second"));
  EXPECT_EQ(second.epoch, first.epoch + 1);
  EXPECT_FALSE(table_.Alive(first));
  EXPECT_TRUE(table_.Alive(second));
}

TEST_F(MemberTableTest, DoesNothingToTheNextMemberForALateReclaimer) {
  const MemberId first = *table_.Publish(3, Named("first"));
  ASSERT_TRUE(table_.MarkDead(first));
  ASSERT_TRUE(table_.Free(first));
  const MemberId second = *table_.Publish(3, Named("second"));
  EXPECT_FALSE(table_.MarkDead(first));
  EXPECT_FALSE(table_.Free(first));
  EXPECT_TRUE(table_.Alive(second));
  ASSERT_TRUE(table_.MarkDead(second));
  EXPECT_FALSE(table_.Free(first));
  EXPECT_EQ(table_.Word(3), (MemberWord{second.epoch, MemberState::kDead}));
}

TEST_F(MemberTableTest, RefusesTheSlotOfALiveMember) {
  const MemberId member = *table_.Publish(3, Named("first"));
  EXPECT_EQ(table_.Publish(3, Named("second")), std::nullopt);
  EXPECT_TRUE(table_.Alive(member));
  EXPECT_EQ(table_.Load(3).identity.NameView(), "first");
}

TEST_F(MemberTableTest, HasRoomForEverySlotButTheFirst) {
  for (uint32_t slot = 1; slot < kMaxMembers; ++slot) {
    ASSERT_EQ(table_.NextFree(1), slot);
    ASSERT_TRUE(table_.Publish(slot, Named(std::to_string(slot))).has_value());
  }
  EXPECT_EQ(table_.NextFree(1), std::nullopt);
  EXPECT_EQ(table_.SlotsUsed(), kMaxMembers);
  EXPECT_EQ(Live().size(), kMaxMembers - 1);
  EXPECT_EQ(table_.Load(kMaxMembers - 1).identity.NameView(), "1023");
}

TEST_F(MemberTableTest, ScansOnlySlotsThatWereEverUsed) {
  const MemberId low = *table_.Publish(2, Named("low"));
  EXPECT_EQ(table_.SlotsUsed(), 3u);
  const MemberId high = *table_.Publish(9, Named("high"));
  EXPECT_EQ(table_.SlotsUsed(), 10u);
  ASSERT_TRUE(table_.MarkDead(high));
  ASSERT_TRUE(table_.Free(high));
  EXPECT_EQ(table_.SlotsUsed(), 10u) << "never falls";
  EXPECT_THAT(Live(), ElementsAre(low));
}

TEST_F(MemberTableTest, ShowsDeadRowsToThoseWhoAskForThem) {
  const MemberId dead = *table_.Publish(2, Named("dead"));
  const MemberId live = *table_.Publish(4, Named("live"));
  ASSERT_TRUE(table_.MarkDead(dead));
  std::vector<std::pair<MemberId, MemberState>> found;
  table_.ForEach([&](MemberId member, MemberState state) { found.emplace_back(member, state); });
  EXPECT_THAT(
      found, ElementsAre(std::pair(dead, MemberState::kDead), std::pair(live, MemberState::kLive)));
}

TEST_F(MemberTableTest, CountsEveryChange) {
  uint64_t before = table_.Changes();
  const auto changed = [&] { return std::exchange(before, table_.Changes()) != before; };
  const MemberId member = *table_.Publish(2, Named("member"));
  EXPECT_TRUE(changed());
  ASSERT_TRUE(table_.MarkDead(member));
  EXPECT_TRUE(changed());
  ASSERT_TRUE(table_.MarkDead(member));
  EXPECT_FALSE(changed());
  ASSERT_TRUE(table_.Free(member));
  EXPECT_TRUE(changed());
}

TEST_F(MemberTableTest, CutsLongNames) {
  const std::string name(MemberIdentity::kMaxNameBytes + 1, 'x');
  ASSERT_TRUE(table_.Publish(2, Named(name)).has_value());
  EXPECT_EQ(table_.Load(2).identity.NameView(), name.substr(0, MemberIdentity::kMaxNameBytes));
}

TEST_F(MemberTableTest, IsNotLedAstrayByNumbersOfAPeer) {
  EXPECT_FALSE(table_.Alive({.slot = kNoMember, .epoch = 0}));
  EXPECT_FALSE(table_.Alive({.slot = UINT32_MAX, .epoch = 0}));
  EXPECT_FALSE(table_.MarkDead({.slot = kMaxMembers, .epoch = 0}));
  EXPECT_FALSE(table_.Free({.slot = kMaxMembers, .epoch = 0}));
  reinterpret_cast<MemberTableHeader<RealSync>*>(memory_->bytes.data())->slots_used = UINT64_MAX;
  EXPECT_EQ(table_.SlotsUsed(), kMaxMembers);
  EXPECT_THAT(Live(), IsEmpty());
}

// What a joiner leaves that is killed after its identity and before its row is live.
TEST_F(MemberTableTest, TakesAHalfWrittenRowForFree) {
  auto* rows = reinterpret_cast<MemberRow<RealSync>*>(memory_->bytes.data() +
                                                      sizeof(MemberTableHeader<RealSync>));
  rows[2].pid_and_uid = 99;
  rows[2].name[0] = 0x6465646e75;
  reinterpret_cast<MemberTableHeader<RealSync>*>(memory_->bytes.data())->slots_used = 3;
  EXPECT_THAT(Live(), IsEmpty());
  EXPECT_EQ(table_.NextFree(2), 2u);
  ASSERT_TRUE(table_.Publish(2, Named("next")).has_value());
  EXPECT_EQ(table_.Load(2).identity, Named("next"));
}

// Every field of the identity is a function of the epoch; a torn copy would not be.
TEST_F(MemberTableTest, NeverShowsTheIdentityOfOneMemberWithTheEpochOfAnother) {
  const auto of_epoch = [](uint32_t epoch) {
    MemberIdentity identity = Named(std::to_string(epoch));
    identity.pid = identity.uid = epoch;
    identity.start_time = identity.pid_namespace = identity.joined_at_ns = identity.build_hash =
        epoch;
    return identity;
  };
  std::atomic<bool> done{false};
  std::thread reader([&] {
    for (int rows_seen = 0; rows_seen < 20000 && !HasFailure();) {
      const Table::Member row = table_.Load(5);
      if (row.word.state == MemberState::kFree) continue;
      EXPECT_EQ(row.identity, of_epoch(row.word.epoch));
      ++rows_seen;
    }
    done = true;
  });
  for (uint32_t epoch = 0; !done; ++epoch) {
    const MemberId member = *table_.Publish(5, of_epoch(epoch));
    ASSERT_EQ(member.epoch, epoch);
    ASSERT_TRUE(table_.MarkDead(member));
    ASSERT_TRUE(table_.Free(member));
  }
  reader.join();
}

TEST_F(MemberTableTest, LetsOneOfManyReclaimersFreeTheRow) {
  for (uint32_t turn = 0; turn < 500; ++turn) {
    const MemberId member = *table_.Publish(5, Named("victim"));
    std::atomic<int> freed{0};
    std::vector<std::thread> reclaimers;
    for (int i = 0; i < 3; ++i) {
      reclaimers.emplace_back([&] {
        if (table_.MarkDead(member)) freed += table_.Free(member) ? 1 : 0;
      });
    }
    for (std::thread& reclaimer : reclaimers) reclaimer.join();
    ASSERT_EQ(freed, 1);
  }
}

}  // namespace
}  // namespace handoff

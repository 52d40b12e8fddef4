// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/cache_line.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"
#include "control_queue/testing/interleaving.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using Table = MemberTable<SteppedSync>;
using End = Scenario::End;

constexpr uint32_t kSlot = 1;

// Every field is a function of `number`.
MemberIdentity Identity(uint32_t number) {
  MemberIdentity identity = {.pid = number,
                             .uid = number,
                             .start_time = number,
                             .pid_namespace = number,
                             .joined_at_ns = number,
                             .build_hash = number};
  identity.SetName(std::string(MemberIdentity::kMaxNameBytes, static_cast<char>('a' + number)));
  return identity;
}

struct World {
  void Look() const {
    const Table::Member row = table.Load(kSlot);
    if (row.word.state == MemberState::kFree) return;
    EXPECT_EQ(row.identity, Identity(row.word.epoch));
  }

  alignas(2 * kCacheLineSize) std::array<std::byte, Table::BytesNeeded()> bytes = {};
  Table table{bytes};
};

// A member leaves, the next one joins in its slot, while somebody looks and a reclaimer is late.
TEST(MemberTableInterleavingTest, ShowsEachEpochWithItsOwnIdentity) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 2, .kills = 1}, [] {
    auto world = std::make_shared<World>();
    const MemberId first = *world->table.Publish(kSlot, Identity(0));
    return Scenario{.actors = {[=] {
                                 if (!world->table.MarkDead(first)) return;
                                 if (!world->table.Free(first)) return;
                                 EXPECT_TRUE(world->table.Publish(kSlot, Identity(1)).has_value());
                               },
                               [=] { world->Look(); }},
                    .at_end = [=](const Scenario::Ends&) { world->Look(); }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

TEST(MemberTableInterleavingTest, LetsReclaimersDieAndNeverTouchesTheNextMember) {
  const uint64_t runs = ExploreInterleavings({.preemptions = 3, .kills = 2}, [] {
    auto world = std::make_shared<World>();
    const MemberId victim = *world->table.Publish(kSlot, Identity(0));
    const auto next = std::make_shared<std::optional<MemberId>>();
    const auto reclaim = [=] {
      if (world->table.MarkDead(victim)) (void)world->table.Free(victim);
    };
    return Scenario{.actors = {reclaim, reclaim,
                               [=] {
                                 // Joins as soon as the slot is free.
                                 while (!next->has_value()) {
                                   *next = world->table.Publish(kSlot, Identity(1));
                                   if (!next->has_value()) {
                                     if (world->table.Word(kSlot).state != MemberState::kFree)
                                       return;
                                   }
                                 }
                               }},
                    .at_end = [=](const Scenario::Ends&) {
                      EXPECT_FALSE(world->table.Alive(victim) && next->has_value());
                      if (next->has_value()) {
                        EXPECT_TRUE(world->table.Alive(**next));
                      }
                      reclaim();
                      EXPECT_NE(world->table.Word(kSlot).epoch, victim.epoch);
                    }};
  });
  RecordProperty("runs", static_cast<int>(runs));
}

}  // namespace
}  // namespace handoff

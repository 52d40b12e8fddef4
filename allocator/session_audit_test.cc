// SPDX-License-Identifier: Apache-2.0
#include "allocator/session_audit.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "allocator/channel_table.h"
#include "allocator/hold.h"
#include "allocator/hold_moves.h"
#include "allocator/ring_layout.h"
#include "allocator/testing/member_stage.h"
#include "allocator/testing/ring_ends.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A member with a share group, a bundle and a ring with something unread; then one word of it is
// overwritten.
class SessionAuditTest : public ::testing::Test {
 protected:
  SessionAuditTest()
      : stage_({.name = "audit", .operate = [](MemberStage&) {}}),
        member_(*stage_.survivor),
        names_(member_),
        references_(Shared(member_, 3)),
        bundle_(Bundled(member_)),
        inlet_(std::make_unique<Inlet>(member_, "in")),
        outlet_(Outlet::Open(member_, "in")) {}

  ~SessionAuditTest() override {
    EXPECT_THAT(AuditSession(member_), IsEmpty()) << "the word was put back";
  }

  // What the audit says while the word is `wrong`.
  std::vector<std::string> AuditWith(std::atomic<uint64_t>& word, uint64_t wrong) {
    const uint64_t right = word.exchange(wrong);
    std::vector<std::string> lines = AuditSession(member_);
    word.store(right);
    return lines;
  }

  MemberStage stage_;
  Member& member_;
  const MemberNames names_;
  const std::vector<PartName> references_;
  const PartName bundle_;
  std::unique_ptr<Inlet> inlet_;
  std::unique_ptr<Outlet> outlet_;
};

TEST_F(SessionAuditTest, FindsNothingWhereAllIsWell) {
  ASSERT_TRUE(outlet_->Send(HeldBlock(member_, 100)));
  ASSERT_TRUE(outlet_->Send(bundle_));
  EXPECT_THAT(AuditSession(member_), IsEmpty());
}

TEST_F(SessionAuditTest, FindsAGroupThatNobodyRefersTo) {
  for (const PartName& reference : references_) {
    const HoldWord hold = HoldMoves<RealSync>::Load(*names_.Find(reference));
    names_.Find(reference)->store(hold.Freed().raw());
  }
  EXPECT_THAT(AuditSession(member_), ElementsAre(HasSubstr("nobody refers to it")));
  for (const PartName& reference : references_) {
    names_.Find(reference)->store(
        HoldWord::Of(HoldState::kHeld, reference.generation, member_.self().slot, 0).raw());
  }
}

TEST_F(SessionAuditTest, FindsAGroupThatIsHalfMade) {
  std::atomic<uint64_t>& word = member_.groups().GroupWord(references_[0].group());
  const HoldWord live(word.load());
  const auto lines = AuditWith(
      word, HoldWord::Of(HoldState::kHeld, live.generation(), member_.self().slot, 0).raw());
  EXPECT_THAT(lines, ::testing::Contains(HasSubstr("is half made")));
}

TEST_F(SessionAuditTest, FindsAReferenceOfTheDead) {
  const PartName& reference = references_[1];
  EXPECT_THAT(AuditWith(*names_.Find(reference),
                        HoldWord::Of(HoldState::kHeld, reference.generation, 77, 0).raw()),
              ElementsAre(HasSubstr("is held by 77")));
}

TEST_F(SessionAuditTest, FindsAPartThatIsFree) {
  std::vector<PartName> parts;
  member_.bundles().PartsOf(bundle_.row, &parts);
  EXPECT_THAT(AuditWith(*names_.Find(parts.back()), 0),
              ElementsAre(HasSubstr("which is no part of it")));
}

TEST_F(SessionAuditTest, FindsWhatIsOnItsWayInNoRing) {
  const PartName block = HeldBlock(member_, 100);
  const PartName sent = Mark(member_, block, member_.self().slot);
  EXPECT_THAT(AuditSession(member_), ElementsAre(HasSubstr("in no ring")));
  EXPECT_TRUE(TakeBack(member_, sent).has_value());
}

TEST_F(SessionAuditTest, FindsWhatIsPostedOnAChannelOfNobodyOrByTheDead) {
  const PartName& reference = references_[1];
  const auto posted = [&](uint32_t holder, uint32_t channel) {
    return HoldWord::Of(HoldState::kPosted, reference.generation, holder, channel).raw();
  };
  EXPECT_THAT(AuditWith(*names_.Find(reference), posted(kNobody, 999)),
              ElementsAre(HasSubstr("is posted on channel 999, which nobody has")));
  const auto channel = member_.channels().Open();
  ASSERT_TRUE(channel.ok());
  EXPECT_THAT(AuditWith(*names_.Find(reference), posted(member_.self().slot, channel->id)),
              IsEmpty());
  EXPECT_THAT(AuditWith(*names_.Find(reference), posted(77, channel->id)),
              ElementsAre(HasSubstr("is posted by 77, which does not live")));
  EXPECT_TRUE(member_.channels().Move(*channel, ChannelState::kClosed));
}

TEST_F(SessionAuditTest, FindsARingWithoutItsEndpoint) {
  const auto area = member_.session().OpenArea(AreaKind::kRingTable);
  ASSERT_TRUE(area.ok());
  auto& table = *reinterpret_cast<RingTableLayout*>(area->bytes().data());
  EXPECT_THAT(AuditWith(table.endpoints[inlet_->endpoint().row].word, 0),
              ElementsAre(HasSubstr("has a consumer that has gone")));
}

TEST_F(SessionAuditTest, FindsAnEndpointThatIsHalfMade) {
  const auto area = member_.session().OpenArea(AreaKind::kRingTable);
  ASSERT_TRUE(area.ok());
  auto& table = *reinterpret_cast<RingTableLayout*>(area->bytes().data());
  EXPECT_THAT(AuditWith(table.endpoints[5].word, EndpointWord{}.Claimed(member_.self().slot).raw),
              IsEmpty())
      << "beyond those in use";
  EXPECT_THAT(AuditWith(table.rings[0].header.word, RingWord{}.Claimed(9).raw),
              ElementsAre(HasSubstr("half opened by 9")));
}

}  // namespace
}  // namespace handoff

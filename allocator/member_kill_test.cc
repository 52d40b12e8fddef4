// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "allocator/member.h"
#include "allocator/testing/kill_harness.h"
#include "allocator/testing/member_stage.h"
#include "allocator/testing/ring_ends.h"
#include "base/crash_point.h"
#include "base/mutation.h"

// Each operation of a member of a whole session, killed and stopped everywhere: what
// allocator/kill_test.cc does for one segment. By default at some of the instructions; at every one
// in the target that says so.

namespace handoff {
namespace {

// How many of an operation's kill points are tried by default.
constexpr uint64_t kSamples = 6;

void ReleaseAll(MemberStage& stage) {
  for (const PartName& name : stage.held) Release(*stage.victim, name);
}

// `names` of the survivor become what the victim holds, as if through a ring.
void Send(MemberStage& stage, const std::vector<PartName>& names) {
  for (const PartName& name : names) {
    stage.sent.push_back(Mark(*stage.survivor, name, MemberStage::kVictimSlot));
  }
}
void AcceptAll(MemberStage& stage) {
  for (const PartName& name : stage.sent) {
    const std::optional<PartName> taken = Accept(*stage.victim, name);
    ASSERT_TRUE(taken.has_value());
    stage.held.push_back(*taken);
  }
}

std::vector<MemberScript> Sharing() {
  std::vector<MemberScript> scripts;
  for (const uint32_t count : {3u, 130u}) {
    scripts.push_back(
        {.name = count == 3 ? "Share" : "ShareWithMany",
         .set_up = [](MemberStage& stage) { stage.held = {HeldBlock(*stage.victim, 5000)}; },
         .operate =
             [count](MemberStage& stage) {
               std::vector<Reference> references(count);
               EXPECT_TRUE(stage.victim
                               ->Share(stage.victim->main_segment(),
                                       BlockOf(*stage.victim, stage.held[0]), references)
                               .ok());
             }});
  }
  for (const uint32_t count : {3u, 64u}) {
    scripts.push_back(
        {.name = count == 3 ? "Copy" : "CopyWhereTheGroupIsFull",
         .set_up = [count](MemberStage& stage) { stage.held = Shared(*stage.victim, count); },
         .operate =
             [](MemberStage& stage) {
               Reference reference = ReferenceOf(*stage.victim, stage.held[0]);
               EXPECT_TRUE(stage.victim->Copy(&reference).ok());
             }});
  }
  scripts.push_back({.name = "ReleaseOneReference",
                     .set_up =
                         [](MemberStage& stage) {
                           stage.held = Shared(*stage.victim, 2);
                           stage.held.pop_back();
                         },
                     .operate = ReleaseAll});
  scripts.push_back({.name = "ReleaseTheLastReference",
                     .set_up = [](MemberStage& stage) { stage.held = Shared(*stage.victim, 1); },
                     .operate = ReleaseAll});
  scripts.push_back({.name = "ReleaseAForeignReference",
                     .prepare =
                         [](MemberStage& stage) {
                           stage.kept = Shared(*stage.survivor, 2);
                           Send(stage, {stage.kept.back()});
                           stage.kept.pop_back();
                         },
                     .set_up = AcceptAll,
                     .operate = ReleaseAll});
  scripts.push_back({.name = "ReleaseTheLastForeignReference",
                     .prepare = [](MemberStage& stage) { Send(stage, Shared(*stage.survivor, 1)); },
                     .set_up = AcceptAll,
                     .operate = ReleaseAll});
  scripts.push_back({.name = "ReleaseTheLastReferenceOfAReference",
                     .set_up =
                         [](MemberStage& stage) {
                           stage.held = Shared(*stage.victim, 64);
                           Reference first = ReferenceOf(*stage.victim, stage.held[0]);
                           const auto copy = stage.victim->Copy(&first);
                           ASSERT_TRUE(copy.ok());
                           stage.held[0] = Named(first);
                           stage.held.push_back(Named(*copy));
                           // All but the two that stand for one of the first group.
                           for (size_t i = 1; i < 64; ++i) Release(*stage.victim, stage.held[i]);
                           stage.held = {stage.held.front(), stage.held.back()};
                         },
                     .operate = ReleaseAll});
  scripts.push_back({.name = "AcceptAReference",
                     .prepare = [](MemberStage& stage) { Send(stage, Shared(*stage.survivor, 2)); },
                     .operate = AcceptAll});
  scripts.push_back({.name = "TakeBackAReference",
                     .prepare = [](MemberStage&) {},
                     .set_up =
                         [](MemberStage& stage) {
                           for (const PartName& name : Shared(*stage.victim, 2)) {
                             stage.held.push_back(Mark(*stage.victim, name, 1));
                           }
                         },
                     .operate =
                         [](MemberStage& stage) {
                           for (const PartName& name : stage.held) {
                             EXPECT_TRUE(TakeBack(*stage.victim, name).has_value());
                           }
                         }});
  return scripts;
}

std::vector<MemberScript> Bundling() {
  std::vector<MemberScript> scripts;
  scripts.push_back(
      {.name = "Bundle",
       .set_up =
           [](MemberStage& stage) {
             std::vector<PartName> parts;
             EXPECT_TRUE(
                 stage.victim->Unpack(BundleOf(*stage.victim, Bundled(*stage.victim)), &parts));
             stage.held = parts;
           },
       .operate = [](MemberStage& stage) { EXPECT_TRUE(stage.victim->Bundle(stage.held).ok()); }});
  scripts.push_back({.name = "AcceptABundle",
                     .prepare = [](MemberStage& stage) { Send(stage, {Bundled(*stage.survivor)}); },
                     .operate = AcceptAll});
  const auto unpack = [](MemberStage& stage) {
    std::vector<PartName> parts;
    EXPECT_TRUE(stage.victim->Unpack(BundleOf(*stage.victim, stage.held[0]), &parts));
  };
  scripts.push_back({.name = "Unpack",
                     .set_up = [](MemberStage& stage) { stage.held = {Bundled(*stage.victim)}; },
                     .operate = unpack});
  scripts.push_back({.name = "UnpackAForeignBundle",
                     .prepare = [](MemberStage& stage) { Send(stage, {Bundled(*stage.survivor)}); },
                     .set_up = AcceptAll,
                     .operate = unpack});
  scripts.push_back({.name = "ReleaseABundleUnread",
                     .set_up = [](MemberStage& stage) { stage.held = {Bundled(*stage.victim)}; },
                     .operate = ReleaseAll});
  scripts.push_back({.name = "ReleaseAForeignBundleUnread",
                     .prepare = [](MemberStage& stage) { Send(stage, {Bundled(*stage.survivor)}); },
                     .set_up = AcceptAll,
                     .operate = ReleaseAll});
  return scripts;
}

// What travels: a block, a reference, a bundle.
std::vector<PartName> Cargo(Member& owner) {
  std::vector<PartName> cargo = Shared(owner, 1);
  cargo.push_back(HeldBlock(owner, 100));
  cargo.push_back(Bundled(owner));
  return cargo;
}

std::vector<MemberScript> OverRings() {
  const auto make_inlet = [](MemberStage& stage) {
    stage.survivors_inlet = std::make_unique<Inlet>(*stage.survivor, "in");
  };
  const auto make_outlet = [](MemberStage& stage) {
    stage.outlet = Outlet::Open(*stage.victim, "in");
    ASSERT_NE(stage.outlet, nullptr);
    stage.held = Cargo(*stage.victim);
  };
  const auto send_all = [](MemberStage& stage) {
    for (const PartName& name : stage.held) EXPECT_TRUE(stage.outlet->Send(name));
  };
  const auto send_to_victim = [](MemberStage& stage) {
    stage.SendOnceVictimListens(Cargo(*stage.survivor));
  };
  // Makes an inlet, and waits until the survivor has sent everything.
  const auto listen = [](MemberStage& stage) {
    stage.inlet = std::make_unique<Inlet>(*stage.victim, "back");
    const RingTable& rings = stage.victim->rings();
    for (uint64_t published = 0; published < 3;) {
      for (uint32_t row = 0; row < rings.rings_used(); ++row) {
        const auto info = rings.LookAtRing(row);
        if (!info.has_value() || info->consumer != stage.inlet->endpoint()) continue;
        published = 0;
        while (published < 3 && rings.Ring(row, info->entries).ReadPublished(published)) {
          ++published;
        }
      }
    }
  };
  std::vector<MemberScript> scripts;
  scripts.push_back({.name = "AddAnEndpoint", .operate = [](MemberStage& stage) {
                       EndpointOptions options;
                       options.name = "any";
                       EXPECT_TRUE(stage.victim->rings().Add(options).ok());
                     }});
  scripts.push_back({.name = "OpenARing", .prepare = make_inlet, .operate = [](MemberStage& stage) {
                       stage.outlet = Outlet::Open(*stage.victim, "in");
                       EXPECT_NE(stage.outlet, nullptr);
                     }});
  scripts.push_back({.name = "SendThroughARing",
                     .prepare = make_inlet,
                     .set_up = make_outlet,
                     .operate = send_all});
  scripts.push_back({.name = "ReceiveFromARing",
                     .prepare = send_to_victim,
                     .set_up = listen,
                     .operate = [](MemberStage& stage) {
                       for (int i = 0; i < 3; ++i) {
                         const auto taken = stage.inlet->Receive();
                         ASSERT_TRUE(taken.has_value());
                         Release(*stage.victim, *taken);
                       }
                     }});
  scripts.push_back({.name = "CloseTheSendersEnd",
                     .prepare = make_inlet,
                     .set_up =
                         [=](MemberStage& stage) {
                           make_outlet(stage);
                           send_all(stage);
                         },
                     .operate = [](MemberStage& stage) { stage.outlet->Close(); }});
  scripts.push_back({.name = "CloseTheReceiversEnd",
                     .prepare = send_to_victim,
                     .set_up = listen,
                     .operate = [](MemberStage& stage) { stage.inlet->Close(); }});
  scripts.push_back({.name = "CloseTheReceiversEndAfterTheSender",
                     .set_up =
                         [=](MemberStage& stage) {
                           stage.inlet = std::make_unique<Inlet>(*stage.victim, "in");
                           make_outlet(stage);
                           send_all(stage);
                           stage.outlet->Close();
                         },
                     .operate = [](MemberStage& stage) { stage.inlet->Close(); }});
  scripts.push_back({.name = "TakeBackWhatNobodyReceives",
                     .set_up =
                         [=](MemberStage& stage) {
                           stage.inlet = std::make_unique<Inlet>(*stage.victim, "in");
                           make_outlet(stage);
                           send_all(stage);
                           stage.inlet->Close();
                         },
                     .operate =
                         [](MemberStage& stage) {
                           EXPECT_EQ(stage.outlet->TakeBackAll().size(), 3u);
                           stage.outlet->Close();
                         }});
  return scripts;
}

// All kinds of things that a member may have.
void HaveEverything(Member& member) {
  for (uint64_t size_bytes : {64, 9000, 100000}) (void)HeldBlock(member, size_bytes);
  (void)Shared(member, 3);
  (void)Bundled(member);
  (void)Mark(member, HeldBlock(member, 100), 1);
}

std::vector<MemberScript> Membership() {
  const auto join = [](MemberStage& stage) { stage.victim = stage.Join(); };
  const auto leave = [](MemberStage& stage) {
    stage.outlet.reset();
    stage.victim.reset();
  };
  const auto have_everything = [](MemberStage& stage) { HaveEverything(*stage.victim); };
  std::vector<MemberScript> scripts;
  scripts.push_back(
      {.name = "JoinAsTheFirst", .alone = true, .joins = false, .is_long = true, .operate = join});
  scripts.push_back({.name = "Join", .joins = false, .is_long = true, .operate = join});
  scripts.push_back({.name = "LeaveOneOfSeveral",
                     .prepare =
                         [](MemberStage& stage) {
                           stage.survivors_inlet = std::make_unique<Inlet>(*stage.survivor, "in");
                         },
                     .set_up =
                         [=](MemberStage& stage) {
                           have_everything(stage);
                           stage.outlet = Outlet::Open(*stage.victim, "in");
                           EXPECT_TRUE(stage.outlet->Send(Bundled(*stage.victim)));
                         },
                     .operate = leave});
  scripts.push_back({.name = "LeaveAsTheLast",
                     .alone = true,
                     .is_long = true,
                     .set_up = have_everything,
                     .operate = leave});
  scripts.push_back(
      {.name = "CreateASegment", .operate = [](MemberStage& stage) {
         EXPECT_TRUE(
             stage.victim->CreateSegment({.id = 2, .size_bytes = MemberStage::kSegmentBytes}).ok());
       }});
  scripts.push_back(
      {.name = "RemoveASegment",
       .set_up =
           [](MemberStage& stage) {
             const auto segment =
                 stage.victim->CreateSegment({.id = 2, .size_bytes = MemberStage::kSegmentBytes});
             ASSERT_TRUE(segment.ok());
             Block block;
             EXPECT_EQ((*segment)->TryAllocate(100, 64, &block), AllocateResult::kOk);
           },
       .operate =
           [](MemberStage& stage) { EXPECT_TRUE(stage.victim->session().RemoveSegment(2).ok()); }});
  return scripts;
}

std::vector<MemberScript> Reclaims() {
  // A member with everything, that has died. Its row says so when the victim begins; nobody's watch
  // takes it up within the next second.
  const auto let_one_die = [](MemberStage& stage) {
    stage.survivors_inlet = std::make_unique<Inlet>(*stage.survivor, "in");
    stage.dead = stage.Join();
    HaveEverything(*stage.dead);
    // A ring with unread messages each way.
    stage.deads_inlet = std::make_unique<Inlet>(*stage.dead, "back");
    stage.deads_outlet = Outlet::Open(*stage.dead, "in");
    for (const PartName& name : Cargo(*stage.dead)) EXPECT_TRUE(stage.deads_outlet->Send(name));
    stage.SendOnceVictimListens(Cargo(*stage.survivor));
  };
  std::vector<MemberScript> scripts;
  scripts.push_back({.name = "Reclaim",
                     .others_may_be_faster = true,
                     .prepare = let_one_die,
                     .set_up =
                         [](MemberStage& stage) {
                           EXPECT_TRUE(
                               stage.victim->session().members().MarkDead(stage.dead->self()));
                         },
                     .operate = [](MemberStage& stage) { (void)stage.victim->ReclaimDead(); }});
  scripts.push_back(
      {.name = "AllocateWhereNothingIsLeftButTheDeads",
       .is_long = true,
       .others_may_be_faster = true,
       .prepare = let_one_die,
       .set_up =
           [](MemberStage& stage) {
             EXPECT_TRUE(stage.victim->session().members().MarkDead(stage.dead->self()));
           },
       .operate =
           [](MemberStage& stage) {
             Block block;
             (void)stage.victim->main_segment().TryAllocate(MemberStage::kSegmentBytes, 64, &block);
           }});
  return scripts;
}

std::vector<MemberScript> Scripts() {
  std::vector<MemberScript> scripts;
  for (const auto& part : {Sharing(), Bundling(), OverRings(), Membership(), Reclaims()}) {
    scripts.insert(scripts.end(), part.begin(), part.end());
  }
  return scripts;
}

class MemberKillTest : public ::testing::TestWithParam<MemberScript> {
 protected:
  static KillStageFactory Make() {
    return [] { return std::make_unique<MemberStage>(GetParam()); };
  }
  // Stepping through an operation takes long: once for all tests of it.
  static InstructionTrace* Trace() {
    static std::map<std::string, InstructionTrace> traces;
    return &traces[GetParam().name];
  }
  static void Report(const char* what, const KillReport& report) {
    handoff::Report(GetParam().name, what, report);
  }
};

TEST_P(MemberKillTest, LeavesNothingBehindAfterARealKill) {
  if (GetParam().is_long && !TriesEveryInstruction()) GTEST_SKIP() << "takes long";
  Report("instructions to be killed after", ExpectWholeAfterKills(Make(), kSamples, Trace()));
}

TEST_P(MemberKillTest, LeavesNothingBehindAfterAKillAtACrashPoint) {
  Report("passes of crash points", ExpectWholeAfterCrashPoints(Make(), 2));
}

TEST_P(MemberKillTest, DelaysNobodyWhileItStandsStill) {
  if (GetParam().is_long && !TriesEveryInstruction()) GTEST_SKIP() << "takes long";
  Report("instructions to stand still after", ExpectWholeAfterStops(Make(), kSamples / 2, Trace()));
}

INSTANTIATE_TEST_SUITE_P(Session, MemberKillTest, ::testing::ValuesIn(Scripts()),
                         [](const auto& script) { return script.param.name; });

// The tests above can fail: they do where a step is wrong.
class MemberKillTestItself : public ::testing::TestWithParam<WrongStep> {};

TEST_P(MemberKillTestItself, FailsIfAStepIsWrong) {
  if (!kCrashPointsCompiledIn) GTEST_SKIP() << "no wrong steps in this build";
  for (const MemberScript& script : Scripts()) {
    if (script.name != GetParam().script) continue;
    ExpectSeen(GetParam(), [&script] { return std::make_unique<MemberStage>(script); });
    return;
  }
  FAIL() << "no operation " << GetParam().script;
}

INSTANTIATE_TEST_SUITE_P(Session, MemberKillTestItself,
                         ::testing::Values(WrongStep{"NoRelabel", Mutation::kNoRelabel,
                                                     "SendThroughARing", true, "is lost"},
                                           WrongStep{"BundleWordOnly", Mutation::kBundleWordOnly,
                                                     "AcceptABundle", true, "in use"},
                                           WrongStep{"NoGroupSweep", Mutation::kNoGroupSweep,
                                                     "ReleaseTheLastReference", false, "in use"},
                                           WrongStep{"GroupFreedFirst", Mutation::kGroupFreedFirst,
                                                     "ReleaseTheLastReference", false, "in use"},
                                           WrongStep{"ShareBeforeLive", Mutation::kShareBeforeLive,
                                                     "Share", false, "in use"}),
                         [](const auto& step) { return step.param.name; });

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/member_stage.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/segment_usage.h"
#include "allocator/session.h"
#include "allocator/session_audit.h"
#include "base/check.h"
#include "base/testing/wait_for.h"

namespace handoff {

namespace {

// Far more than anything here takes, also under load.
constexpr absl::Duration kPromptly = absl::Seconds(20);

// `held` of `from`, through a ring, in the hands of `to`.
PartName HandOver(Outlet& outlet, Inlet& inlet, const PartName& held) {
  EXPECT_TRUE(outlet.Send(held));
  const std::optional<PartName> taken = inlet.Receive();
  EXPECT_TRUE(taken.has_value());
  return taken.value_or(PartName{});
}

}  // namespace

std::vector<PartName> Shared(Member& owner, uint32_t count) {
  std::vector<Reference> references(count);
  const PartName block = HeldBlock(owner, 5000);
  HANDOFF_CHECK(block.kind == PartKind::kBlock);
  const absl::Status status = owner.Share(owner.main_segment(), BlockOf(owner, block), references);
  HANDOFF_CHECK(status.ok()) << status.ToString();
  std::vector<PartName> names;
  for (const Reference& reference : references) names.push_back(Named(reference));
  return names;
}

PartName Bundled(Member& owner) {
  std::vector<PartName> parts = Shared(owner, 2);
  Release(owner, parts.back());
  parts.back() = PartName{};
  for (uint64_t size_bytes : {64, 9000, 100000}) parts.push_back(HeldBlock(owner, size_bytes));
  const auto bundle = owner.Bundle(parts);
  HANDOFF_CHECK(bundle.ok()) << bundle.status().ToString();
  return Named(*bundle);
}

MemberStage::MemberStage(const MemberScript& script) : script_(script) {
  if (!script_.alone) survivor = Join();
  script_.prepare(*this);
}

MemberStage::~MemberStage() {
  EndSending();
  // Without the check that everything is whole: a victim that was alone has left its session.
  if (!session_.Objects().empty() && survivor == nullptr) survivor = Join();
  survivors_outlet_.reset();
  survivors_inlet.reset();
  ForgetTheDead();
  survivor.reset();
}

std::unique_ptr<Member> MemberStage::Join() const {
  SessionOptions options;
  options.names.session = session_.name();
  options.names.shm_dir = session_.directory();
  options.member_name = "stage";
  options.main_segment_bytes = kSegmentBytes;
  options.watch_period = absl::Seconds(1);
  options.join_deadline = kPromptly;
  absl::StatusOr<std::unique_ptr<Member>> member = Member::Join(std::move(options));
  HANDOFF_CHECK(member.ok()) << member.status().ToString();
  return *std::move(member);
}

void MemberStage::SendOnceVictimListens(std::vector<PartName> names) {
  sender_ = std::thread([this, names = std::move(names)] {
    // The victim is forked while this sleeps, and so holds no lock.
    EXPECT_TRUE(victim_has_started_.Wait(absl::InfiniteDuration()));
    while (survivors_outlet_ == nullptr && !end_sending_.load(std::memory_order_acquire)) {
      survivors_outlet_ = Outlet::Open(*survivor, "back");
      if (survivors_outlet_ == nullptr) absl::SleepFor(absl::Microseconds(50));
    }
    for (const PartName& name : names) {
      if (survivors_outlet_ == nullptr || !survivors_outlet_->Send(name)) Release(*survivor, name);
    }
  });
}

void MemberStage::EndSending() {
  end_sending_.store(true, std::memory_order_release);
  victim_has_started_.Signal();
  if (sender_.joinable()) sender_.join();
}

void MemberStage::ForgetTheDead() {
  if (deads_inlet != nullptr) deads_inlet->Abandon();
  if (deads_outlet != nullptr) deads_outlet->Abandon();
  deads_inlet.reset();
  deads_outlet.reset();
  dead.reset();
}

void MemberStage::SetUpVictim() {
  victim_has_started_.Signal();
  if (script_.joins) {
    const size_t pidfds = PidfdCount();
    victim = Join();
    // The first turn of its watch is over, the next one begins in a second: what the operation
    // passes must not depend on what a tick has found in between.
    EXPECT_TRUE(survivor == nullptr || WaitFor([&] { return PidfdCount() > pidfds; }));
  }
  script_.set_up(*this);
}

void MemberStage::Operate() { script_.operate(*this); }

void MemberStage::UseWhileStopped() {
  if (survivor == nullptr) return;
  const absl::Time begin = absl::Now();
  survivor->ReclaimDead();
  survivor->rings().Tick(MemberNames(*survivor));
  survivor->main_segment().Tick();
  for (uint64_t size_bytes : {uint64_t{64}, uint64_t{5000}, uint64_t{100000}}) {
    const PartName block = HeldBlock(*survivor, size_bytes);
    if (block.kind == PartKind::kBlock) Release(*survivor, block);
  }
  const PartName bundle = Bundled(*survivor);
  Release(*survivor, bundle);
  for (const PartName& reference : Shared(*survivor, 3)) Release(*survivor, reference);
  Inlet inlet_of_survivor(*survivor, "mine");
  const std::unique_ptr<Outlet> outlet_of_survivor = Outlet::Open(*survivor, "mine");
  Release(*survivor, HandOver(*outlet_of_survivor, inlet_of_survivor, HeldBlock(*survivor, 100)));
  EXPECT_LT(absl::Now() - begin, kPromptly);
}

void MemberStage::ExpectWhole() {
  const absl::Time begin = absl::Now();
  EndSending();
  if (survivor == nullptr) survivor = Join();
  // Until everybody else is gone, but not what the survivor itself has.
  EXPECT_TRUE(WaitFor([&] {
    survivor->ReclaimDead();
    uint32_t members = 0;
    survivor->session().members().ForEach([&](MemberId, MemberState) { ++members; });
    return members == 1;
  })) << "the dead were not reclaimed";
  ForgetTheDead();
  for (const PartName& name : sent) {
    const std::optional<PartName> back = TakeBack(*survivor, name);
    if (back.has_value()) Release(*survivor, *back);
  }
  for (const PartName& name : kept) Release(*survivor, name);
  survivors_outlet_.reset();
  if (survivors_inlet != nullptr) {
    while (const std::optional<PartName> taken = survivors_inlet->Receive()) {
      Release(*survivor, *taken);
    }
    EXPECT_EQ(survivors_inlet->stale(), 0u) << "what a dead sender had published is lost";
    survivors_inlet.reset();
  }
  ExpectAllFree();
  if (::testing::Test::HasFailure()) return;
  UseEverything();
  ExpectAllFree();
  EXPECT_LT(absl::Now() - begin, kPromptly);
  survivor.reset();
  EXPECT_TRUE(session_.Objects().empty());
}

void MemberStage::ExpectAllFree() {
  Segment& segment = survivor->main_segment();
  std::vector<std::string> problems;
  const bool well = WaitFor(
      [&] {
        survivor->ReclaimDead();
        survivor->rings().Tick(MemberNames(*survivor));
        segment.Tick();
        problems = AuditSession(*survivor);
        for (const auto& [what, view] : {std::pair("blocks", segment.view()),
                                         std::pair("groups", survivor->group_rows().view()),
                                         std::pair("bundles", survivor->bundle_rows().view())}) {
          const uint64_t used = ScanUsage(view).used_blocks;
          if (used != 0) problems.push_back(std::to_string(used) + " " + what + " are in use");
        }
        for (uint32_t row = 0; row < survivor->rings().rings_used(); ++row) {
          if (survivor->rings().LookAtRing(row).has_value()) problems.push_back("a ring is open");
        }
        for (uint32_t row = 0; row < survivor->rings().endpoints_used(); ++row) {
          if (survivor->rings().Look(row).has_value()) problems.push_back("an endpoint is there");
        }
        return problems.empty();
      },
      absl::Seconds(5));
  if (!well) {
    for (const std::string& line : problems) ADD_FAILURE() << line;
  }
  segment.Trim();
  Block all;
  EXPECT_EQ(segment.TryAllocate(kSegmentBytes, 64, &all), AllocateResult::kOk)
      << DescribeShortage(segment.Usage(), kSegmentBytes);
  if (all.data != nullptr) segment.Release(all);
  segment.Trim();
}

// Each operation, between the survivor and a member that joins, and then leaves with everything it
// still has.
void MemberStage::UseEverything() {
  Member& first = *survivor;
  const std::unique_ptr<Member> second = Join();
  Inlet to_first(first, "in");
  Inlet to_second(*second, "back");
  const std::unique_ptr<Outlet> from_second = Outlet::Open(*second, "in");
  const std::unique_ptr<Outlet> from_first = Outlet::Open(first, "back");
  ASSERT_TRUE(from_second != nullptr && from_first != nullptr);
  for (uint64_t size_bytes : {64, 3000, 40000, 200000}) {
    PartName block = HandOver(*from_second, to_first, HeldBlock(*second, size_bytes));
    Block smaller = BlockOf(first, block);
    EXPECT_EQ(first.main_segment().Shrink(&smaller, size_bytes / 2), ShrinkResult::kOk);
    block = HandOver(*from_first, to_second, block);
    Release(*second, block);
    (void)HeldBlock(*second, size_bytes / 2);
  }
  std::vector<PartName> references = Shared(*second, 3);
  Reference one = ReferenceOf(*second, references[0]);
  const absl::StatusOr<Reference> copy = second->Copy(&one);
  ASSERT_TRUE(copy.ok());
  references[0] = Named(one);
  Release(*second, references[0]);
  references[1] = HandOver(*from_second, to_first, references[1]);
  EXPECT_TRUE(first.View(ReferenceOf(first, references[1])).has_value());
  Release(first, references[1]);
  const PartName bundle = HandOver(*from_second, to_first, Bundled(*second));
  std::vector<PartName> parts;
  EXPECT_TRUE(first.Unpack(BundleOf(first, bundle), &parts));
  EXPECT_EQ(parts.size(), 5u);
  for (const PartName& part : parts) Release(first, part);
  EXPECT_TRUE(from_first->Send(HeldBlock(first, 100)));
  EXPECT_TRUE(from_second->Send(Bundled(*second)));
  (void)Bundled(*second);
  (void)first.session().RemoveSegment(2);  // what the victim may have made
  EXPECT_TRUE(second->CreateSegment({.id = 3, .size_bytes = kSegmentBytes}).ok());
  EXPECT_TRUE(first.FindSegment(3).ok());
  EXPECT_TRUE(second->session().RemoveSegment(3).ok());
}

}  // namespace handoff

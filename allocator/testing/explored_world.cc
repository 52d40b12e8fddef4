// SPDX-License-Identifier: Apache-2.0
#include "allocator/testing/explored_world.h"

#include <atomic>
#include <cstdio>
#include <new>
#include <span>
#include <vector>

#include "allocator/testing/explored_actor.h"
#include "gtest/gtest.h"

namespace handoff {

namespace {

using Pages = PageMap<ExploredSync>;

}  // namespace

ExploredMoves::Word* ExploredWorld::Names::Find(const PartName& name) const {
  switch (name.kind) {
    case PartKind::kBlock: {
      const auto location = world_->view_.Locate(name.row);
      return location.has_value() ? location->hold : nullptr;
    }
    case PartKind::kReference:
      return world_->groups_.Find(name.group(), name.reference());
    case PartKind::kBundle:
      return world_->bundles_.Find(name.row);
    case PartKind::kEmpty:
      break;
  }
  return nullptr;
}

void ExploredWorld::Names::Freed(const PartName& name) const {
  if (name.kind == PartKind::kBlock) {
    Pages::FreeOwnerless(world_->view_, 0, world_->view_.LoadPage(0));
  }
}
void ExploredWorld::Names::FreedGroup(uint32_t row) const {
  Pages::FreeOwnerless(world_->group_view_, row, world_->group_view_.LoadPage(row));
}
void ExploredWorld::Names::FreedBundle(uint32_t row) const {
  Pages::FreeOwnerless(world_->bundle_view_, row, world_->bundle_view_.LoadPage(row));
}
bool ExploredWorld::Names::ReleaseReference(const PartName& name, HoldWord seen) const {
  return world_->groups_.ReleaseOfNobody(name.group(), name.reference(), seen);
}
bool ExploredWorld::Names::Release(const PartName& name, HoldWord seen) const {
  switch (name.kind) {
    case PartKind::kBlock: {
      ExploredMoves::Word* word = Find(name);
      if (word == nullptr || !ExploredMoves::Swap(*word, seen, seen.Freed())) return false;
      Freed(name);
      return true;
    }
    case PartKind::kReference:
      return ReleaseReference(name, seen);
    case PartKind::kBundle:
      world_->bundles_.Free(name.row, seen);
      return true;
    case PartKind::kEmpty:
      break;
  }
  return false;
}

alignas(kPageBytes) std::byte ExploredWorld::memory_[sizeof(Shared)];

ExploredWorld::ExploredWorld(const ExploredBudget& budget)
    : budget_(budget),
      shared_(*new (memory_) Shared),
      view_(shared_.segment, kPages),
      group_view_(shared_.group_table, 1),
      bundle_view_(shared_.bundle_table, 1),
      members_(shared_.session.members()),
      groups_(group_view_, &shared_.target, Names(*this)),
      bundles_(bundle_view_, shared_.bundle_list, Names(*this)) {
  const auto members = static_cast<size_t>(budget_.members);
  for (size_t actor = 0; actor < members; ++actor) {
    selves_[actor] = shared_.session.Join(actor, static_cast<uint32_t>(actor) + 1);
  }
  view_.header().backed_pages.store(1, std::memory_order_relaxed);
  (void)Pages::Claim(view_, 0, 1, 1, kClass);
  if (budget_.shares > 0) {
    group_view_.header().backed_pages.store(1, std::memory_order_relaxed);
    (void)Pages::Claim(group_view_, 0, 1, 1, kLargeClass);
  }
  if (budget_.bundles > 0) {
    bundle_view_.header().backed_pages.store(1, std::memory_order_relaxed);
    (void)Pages::Claim(bundle_view_, 0, 1, 1, kLargeClass);
  }
  for (uint32_t k = 0; k < kRings; ++k) {
    const auto& ends = kExploredTopology[k];
    if (!Has(k)) continue;
    Ring ring = RingAt(k);
    (void)ring.Open(ends[0], {selves_[ends[0] - 1], selves_[ends[1] - 1], budget_.recalls > 0});
  }
  Counters& left = shared_.left;
  left.allocations.Set(budget_.allocations);
  left.claims.Set(budget_.claims);
  left.gives.Set(budget_.gives);
  left.closes.Set(budget_.closes);
  left.recalls.Set(budget_.recalls);
  left.shares.Set(budget_.shares);
  left.copies.Set(budget_.copies);
  left.sweeps.Set(budget_.sweeps);
  left.bundles.Set(budget_.bundles);
}

uint32_t ExploredWorld::ThingOf(const PartName& name) {
  switch (name.kind) {
    case PartKind::kBlock:
      if (name.row < kBlocks) return name.row;
      break;
    case PartKind::kReference:
      if (name.group() == 0 && name.reference() < kReferences) return kBlocks + name.reference();
      break;
    case PartKind::kBundle:
      return kThings - 1;
    case PartKind::kEmpty:
      break;
  }
  Violate("a name that was never given");
  return 0;
}

HoldWord ExploredWorld::ThingHold(uint32_t thing) {
  if (thing < kBlocks) return BlockHold(thing);
  if (thing == kThings - 1) return BundleHold();
  return ExploredMoves::Load(groups_.ReferenceWord(0, thing - kBlocks));
}

void ExploredWorld::Own(size_t actor, uint32_t thing, HoldWord hold) {
  if (shared_.owner[thing].Get() != 0) Violate("two members have one message");
  shared_.owner[thing].Set(static_cast<uint32_t>(actor) + 1);
  shared_.owners_hold[thing].Set(hold.raw());
}

void ExploredWorld::OnKill(size_t actor) {
  for (auto& owner : shared_.owner) {
    if (owner.Get() == actor + 1) owner.Set(0);
  }
  shared_.session.Kill(actor);
}

void ExploredWorld::Check() {
  shared_.session.CheckRows();
  for (uint32_t thing = 0; thing < kThings; ++thing) CheckThing(thing);
}

void ExploredWorld::CheckThing(uint32_t thing) {
  const HoldWord hold = ThingHold(thing);
  const bool owned = shared_.owner[thing].Get() != 0;
  if (owned && hold.raw() != shared_.owners_hold[thing].Get()) {
    return Violate("a message was taken from the living member that holds it");
  }
  bool unread = false;
  if (const uint64_t in = shared_.published_in[thing].Get(); in != 0) {
    const auto k = static_cast<uint32_t>(in & 0xFF) - 1;
    const auto look = RingAt(k).Look();
    // With its ring, or its reader, the message may go.
    unread = (shared_.closing.Get() >> k & 1) == 0 && look.has_value() &&
             look->word.generation() == in >> 8 && !look->word.consumer_gone() &&
             shared_.session.IsReallyAlive(look->ends.consumer);
    const HoldWord as(shared_.published_as[thing].Get());
    if (unread && (!hold.IsSentTo(as.receiver()) || hold.generation() != as.generation())) {
      return Violate("a published message was freed under its living receiver");
    }
  }
  if (!owned && !unread) return;
  if (thing < kBlocks) {
    const PageWord page = view_.LoadPage(0);
    if (!page.IsHead() || page.IsPending()) Violate("the page of a block in use was freed");
  } else if (thing < kThings - 1) {
    const std::optional<PartName> target = groups_.Target(0);
    if (!target.has_value()) return Violate("a group was freed in use");
    const HoldWord block = BlockHold(target->row);
    if (block.state() != HoldState::kShared || block.generation() != target->generation) {
      Violate("a shared block was freed in use");
    }
  } else {
    std::vector<PartName> parts;
    bundles_.PartsOf(0, &parts);
    for (const PartName& part : parts) {
      const HoldWord word = BlockHold(part.row);
      if (word.state() != HoldState::kBundled || word.generation() != part.generation) {
        return Violate("a part of a message is not there");
      }
    }
  }
}

void ExploredWorld::CheckAtRest() {
  if (!shared_.session.AnybodyAlive()) return;
  shared_.session.CheckRowsAtRest();
  for (uint32_t thing = 0; thing < kThings; ++thing) {
    if (!ThingHold(thing).IsFree()) return Violate("a message is lost");
  }
  if (!GroupHold().IsFree()) return Violate("a group is lost");
  for (const ExploredView* view : {&view_, &group_view_, &bundle_view_}) {
    const PageWord page = view->LoadPage(0);
    const bool owned =
        page.state() == PageState::kOwned && !page.IsPending() &&
        shared_.session.IsReallyAlive({page.owner(), members_.Word(page.owner()).epoch});
    if (!page.IsFree() && !owned) return Violate("a page is lost");
  }
  for (uint32_t k = 0; k < kRings; ++k) {
    if (RingAt(k).Word().free()) continue;
    const auto look = RingAt(k).Look();
    if (!look.has_value() || !shared_.session.IsReallyAlive(look->ends.producer) ||
        !shared_.session.IsReallyAlive(look->ends.consumer)) {
      return Violate("a ring is lost");
    }
  }
}

StateSpaceResult ExploredWorld::Explore(Mutation mutation) {
  StateSpaceScenario scenario;
  scenario.shared = std::as_writable_bytes(std::span(&shared_, 1));
  const auto members = static_cast<size_t>(budget_.members);
  for (size_t id = 0; id < members; ++id) {
    scenario.actors.push_back([this, id] {
      Actor actor(*this, id, selves_[id]);
      actor.TakeWhatIsThere();
      actor.Live();
    });
  }
  if (budget_.newcomers > 0) {
    scenario.actors.push_back([this, members] {
      constexpr uint32_t kNever = 0;
      const uint32_t slot = AwaitAny([this] {
        uint64_t options = uint64_t{1} << kNever;
        for (uint32_t i = 1; i <= kExploredSlots; ++i) {
          if (members_.Word(i) == MemberWord{1, MemberState::kFree}) options |= uint64_t{1} << i;
        }
        return options;
      });
      if (slot == kNever) return;
      Actor(*this, members, shared_.session.Join(members, slot)).Live();
    });
  }
  scenario.mortals = budget_.mortals;
  scenario.on_kill = [this](size_t actor) { OnKill(actor); };
  scenario.check = [this] { Check(); };
  scenario.at_rest = [this] { CheckAtRest(); };
  return ExploreStates({.kills = budget_.kills, .mutation = mutation}, scenario);
}

namespace {

StateSpaceResult Explore(const ExploredBudget& budget, Mutation mutation) {
  const StateSpaceResult result = ExploredWorld(budget).Explore(mutation);
  std::printf(
      "  %llu states, %llu steps, %llu rests; %s\n", static_cast<unsigned long long>(result.states),
      static_cast<unsigned long long>(result.steps), static_cast<unsigned long long>(result.rests),
      result.violation.empty() ? "all right"
                               : result.violation.substr(0, result.violation.find(';')).c_str());
  return result;
}

}  // namespace

void ExpectRight(const ExploredBudget& budget) {
  const StateSpaceResult result = Explore(budget, Mutation::kNone);
  EXPECT_EQ(result.violation, "");
  EXPECT_TRUE(result.complete) << "more states than memory";
}

void ExpectWrong(Mutation mutation, const ExploredBudget& budget) {
  EXPECT_NE(Explore(budget, mutation).violation, "");
}

}  // namespace handoff

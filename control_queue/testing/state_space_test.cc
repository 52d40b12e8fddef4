// SPDX-License-Identifier: Apache-2.0
#include "control_queue/testing/state_space.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Shared {
  ExploredSync::Atomic<uint64_t> counter;
  ExploredSync::Atomic<uint64_t> flag;
  Ghost<uint64_t> killed;

  std::span<std::byte> bytes() { return std::as_writable_bytes(std::span(this, 1)); }
  uint64_t count() const { return counter.load(std::memory_order_relaxed); }
};

void Add(Shared& shared) {
  const uint64_t value = shared.counter.load(std::memory_order_relaxed);
  shared.counter.store(value + 1, std::memory_order_relaxed);
}

// `actors` that each add one, `times`, by a load and a store.
StateSpaceScenario Adders(Shared& shared, int actors, int times) {
  StateSpaceScenario scenario;
  scenario.shared = shared.bytes();
  for (int i = 0; i < actors; ++i) {
    scenario.actors.push_back([&shared, times] {
      for (int n = 0; n < times; ++n) Add(shared);
    });
  }
  scenario.on_kill = [&shared](size_t) { shared.killed.Set(shared.killed.Get() + 1); };
  return scenario;
}

TEST(StateSpaceTest, FindsEveryResultOfARace) {
  Shared shared;
  std::set<uint64_t> results;
  StateSpaceScenario scenario = Adders(shared, 3, 2);
  scenario.at_rest = [&] { results.insert(shared.count()); };
  const StateSpaceResult result = ExploreStates({}, scenario);
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(results, ElementsAre(2, 3, 4, 5, 6));
  EXPECT_EQ(shared.count(), 0u) << "as before";
}

TEST(StateSpaceTest, KillsAfterEveryWriteAndBeforeTheFirstStep) {
  Shared shared;
  std::set<uint64_t> results;
  StateSpaceScenario scenario = Adders(shared, 2, 2);
  scenario.at_rest = [&] {
    if (shared.killed.Get() == 2) results.insert(shared.count());
  };
  EXPECT_TRUE(ExploreStates({.kills = 2}, scenario).complete);
  EXPECT_THAT(results, ElementsAre(0, 1, 2, 3, 4));
}

TEST(StateSpaceTest, VisitsAStateOnceHoweverItWasReached) {
  Shared shared;
  StateSpaceScenario scenario;
  scenario.shared = shared.bytes();
  // Two that watch each other for ever.
  for (int i = 0; i < 2; ++i) {
    scenario.actors.push_back([&shared] {
      for (;;) {
        shared.flag.store(1 - shared.flag.load(std::memory_order_relaxed),
                          std::memory_order_relaxed);
      }
    });
  }
  const StateSpaceResult result = ExploreStates({}, scenario);
  EXPECT_TRUE(result.complete);
  EXPECT_LT(result.states, 100u);
}

TEST(StateSpaceTest, MakesNoStepOfWhatNobodyElseTouches) {
  Shared shared;
  StateSpaceScenario scenario;
  scenario.shared = shared.bytes();
  scenario.actors = {[&] {
                       for (int i = 0; i < 1000; ++i) Add(shared);
                     },
                     [&] { shared.flag.store(1, std::memory_order_relaxed); }};
  const StateSpaceResult result = ExploreStates({}, scenario);
  EXPECT_TRUE(result.complete);
  EXPECT_EQ(result.states, 1u);
}

TEST(StateSpaceTest, TriesEveryOptionThatIsThereAndRestsWhenNoneIs) {
  Shared shared;
  std::set<uint64_t> results;
  StateSpaceScenario scenario;
  scenario.shared = shared.bytes();
  scenario.actors = {[&] {
                       const uint32_t option = AwaitAny([&] {
                         return static_cast<uint32_t>(shared.flag.load(std::memory_order_relaxed));
                       });
                       shared.counter.store(10 + option, std::memory_order_relaxed);
                       AwaitAny([] { return 0u; });
                     },
                     [&] { shared.flag.store(0b101, std::memory_order_relaxed); }};
  scenario.at_rest = [&] { results.insert(shared.count()); };
  EXPECT_TRUE(ExploreStates({}, scenario).complete);
  EXPECT_THAT(results, ElementsAre(10, 12));
}

TEST(StateSpaceTest, ReportsAViolationWithTheStepsThatLedThere) {
  Shared shared;
  StateSpaceScenario scenario = Adders(shared, 2, 1);
  scenario.at_rest = [&] {
    if (shared.count() != 2) Violate("lost an addition");
  };
  const StateSpaceResult result = ExploreStates({}, scenario);
  EXPECT_FALSE(result.complete);
  EXPECT_THAT(result.violation, HasSubstr("lost an addition"));
  EXPECT_THAT(result.violation, HasSubstr("actor 1"));
}

TEST(StateSpaceTest, ReportsAFailedCheckOfAnActor) {
  Shared shared;
  StateSpaceScenario scenario = Adders(shared, 1, 1);
  scenario.actors.push_back(
      [&] { HANDOFF_CHECK_EQ(shared.count(), 0u) << "as " << std::string("expected"); });
  EXPECT_THAT(ExploreStates({}, scenario).violation, HasSubstr("1 vs. 0"));
}

TEST(StateSpaceTest, CountsWhatAnActorHasOnTheHeapAsItsState) {
  Shared shared;
  std::set<uint64_t> results;
  StateSpaceScenario scenario = Adders(shared, 1, 3);
  scenario.actors.push_back([&] {
    std::vector<uint64_t> seen;
    for (int i = 0; i < 2; ++i) seen.push_back(shared.count());
    shared.flag.store(seen[0] * 10 + seen[1], std::memory_order_relaxed);
  });
  scenario.at_rest = [&] { results.insert(shared.flag.load(std::memory_order_relaxed)); };
  EXPECT_TRUE(ExploreStates({}, scenario).complete);
  EXPECT_THAT(results, ElementsAre(0, 1, 2, 3, 11, 12, 13, 22, 23, 33));
}

TEST(StateSpaceTest, MergesTheOrdersOfIndependentSteps) {
  Shared shared;
  StateSpaceScenario scenario;
  scenario.shared = shared.bytes();
  const auto count = [](auto& word) {
    for (int i = 0; i < 10; ++i)
      word.store(word.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  };
  scenario.actors = {
      [&] { count(shared.counter); }, [&] { count(shared.flag); },
      [&] {
        AwaitAny([&] {
          return shared.count() + shared.flag.load(std::memory_order_relaxed) == 99 ? 1u : 0u;
        });
      }};
  const StateSpaceResult result = ExploreStates({}, scenario);
  EXPECT_TRUE(result.complete);
  // Each of the two is before one of its ten stores, or at its end.
  EXPECT_EQ(result.states, 11u * 11u);
}

}  // namespace
}  // namespace handoff

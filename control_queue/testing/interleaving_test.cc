// SPDX-License-Identifier: Apache-2.0
#include "control_queue/testing/interleaving.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using Counter = SteppedSync::Atomic<uint32_t>;

// `actors` actors that each add one by a load and a store.
std::function<Scenario()> Adders(int actors, std::set<uint32_t>* results) {
  return [=] {
    auto counter = std::make_shared<Counter>();
    Scenario scenario;
    for (int i = 0; i < actors; ++i) {
      scenario.actors.push_back([counter] {
        const uint32_t value = counter->load(std::memory_order_relaxed);
        counter->store(value + 1, std::memory_order_relaxed);
      });
    }
    scenario.at_end = [counter, results](const Scenario::Ends&) {
      results->insert(counter->load(std::memory_order_relaxed));
    };
    return scenario;
  };
}

TEST(InterleavingTest, FindsEveryResultOfARace) {
  std::set<uint32_t> results;
  ExploreInterleavings({.preemptions = 2}, Adders(3, &results));
  EXPECT_THAT(results, ElementsAre(1, 2, 3));
}

TEST(InterleavingTest, TriesNoPreemptionBeyondTheBound) {
  std::set<uint32_t> results;
  // 3! orders of actors that each run through.
  EXPECT_EQ(ExploreInterleavings({.preemptions = 0}, Adders(3, &results)), 6u);
  EXPECT_THAT(results, ElementsAre(3));
}

TEST(InterleavingTest, KillsBetweenAnyTwoSteps) {
  std::set<uint32_t> results;
  ExploreInterleavings({.preemptions = 0, .kills = 1}, Adders(1, &results));
  EXPECT_THAT(results, ElementsAre(0, 1));
}

TEST(InterleavingTest, KillsNoMoreThanAllowed) {
  size_t most = 0;
  ExploreInterleavings({.preemptions = 2, .kills = 2}, [&] {
    std::set<uint32_t> unused;
    Scenario scenario = Adders(3, &unused)();
    scenario.at_end = [&](const Scenario::Ends& ends) {
      most = std::max<size_t>(most, std::count(ends.begin(), ends.end(), Scenario::End::kKilled));
    };
    return scenario;
  });
  EXPECT_EQ(most, 2u);
}

TEST(InterleavingTest, LetsWaitersWaitUntilSomethingHasChanged) {
  std::set<uint32_t> results;
  ExploreInterleavings({.preemptions = 2}, [&] {
    auto flag = std::make_shared<Counter>();
    return Scenario{.actors = {[flag] {
                                 while (flag->load(std::memory_order_relaxed) == 0) {
                                   SteppedSync::Pause();
                                 }
                                 flag->store(2, std::memory_order_relaxed);
                               },
                               [flag] { flag->store(1, std::memory_order_relaxed); }},
                    .at_end = [flag, &results](const Scenario::Ends&) {
                      results.insert(flag->load(std::memory_order_relaxed));
                    }};
  });
  EXPECT_THAT(results, ElementsAre(2));
}

TEST(InterleavingTest, ReportsThatAllWait) {
  EXPECT_NONFATAL_FAILURE(
      {
        ExploreInterleavings({}, [] {
          auto flag = std::make_shared<Counter>();
          return Scenario{.actors = {[flag] {
                            while (flag->load(std::memory_order_relaxed) == 0) {
                              SteppedSync::Pause();
                            }
                          }},
                          .at_end = [](const Scenario::Ends&) {}};
        });
      },
      "wait for each other");
}

}  // namespace
}  // namespace handoff

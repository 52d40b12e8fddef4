// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_TESTING_INTERLEAVING_H_
#define HANDOFF_CONTROL_QUEUE_TESTING_INTERLEAVING_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

namespace handoff {

// Runs a few actors in every order of their atomic steps, and kills them between any two.
//
//   const uint64_t runs = ExploreInterleavings({.preemptions = 3, .kills = 1}, [&] {
//     auto ring = std::make_shared<TestRing>();
//     return Scenario{.actors = {[ring] { Produce(*ring); }, [ring] { Consume(*ring); }},
//                     .at_end = [ring](const Scenario::Ends& ends) { EXPECT_...; }};
//   });
//
// The actors are coroutines of the calling thread and use SteppedSync for all they share. Memory is
// sequentially consistent here: an order that only weaker processors show is not found.
struct Scenario {
  enum class End { kReturned, kKilled };
  using Ends = std::vector<End>;

  // What an actor keeps on the heap is lost when it is killed: it should use what the scenario
  // owns.
  std::vector<std::function<void()>> actors;
  // After all actors have returned or were killed. May use SteppedSync, too.
  std::function<void(const Ends&)> at_end;
};

struct InterleavingOptions {
  // How often another actor may go on although the running one could. Every order within this
  // bound is tried; few bugs need more than two.
  int preemptions = 2;
  // How many actors are killed, at most.
  int kills = 0;
};

// Makes and runs the scenario once for each order. Returns how many there were. Stops at the first
// failure of the running test, and prints the order that led to it. All actors waiting in Pause()
// is a failure, too.
uint64_t ExploreInterleavings(const InterleavingOptions& options,
                              const std::function<Scenario()>& make);

namespace internal {
// Before a step of an actor: others may go on first. Does nothing outside of actors.
void BeforeStep();
// After a step that may have changed something.
void AfterWrite();
// The running actor has found nothing to do: others go on until one has written something.
void WaitForOthers();
}  // namespace internal

// The Sync (base/sync.h) of code under exploration.
struct SteppedSync {
  template <class T>
  class Atomic {
   public:
    Atomic() = default;
    explicit Atomic(T value) : value_(value) {}
    Atomic(const Atomic&) = delete;
    Atomic& operator=(const Atomic&) = delete;

    T load(std::memory_order) const {
      internal::BeforeStep();
      return value_;
    }
    void store(T value, std::memory_order) {
      Write([&](T) { return value; });
    }
    T exchange(T value, std::memory_order) {
      return Write([&](T) { return value; });
    }
    T fetch_add(T value, std::memory_order) {
      return Write([&](T old) { return static_cast<T>(old + value); });
    }
    T fetch_or(T value, std::memory_order) {
      return Write([&](T old) { return static_cast<T>(old | value); });
    }
    T fetch_and(T value, std::memory_order) {
      return Write([&](T old) { return static_cast<T>(old & value); });
    }
    bool compare_exchange_strong(T& expected, T value, std::memory_order, std::memory_order) {
      internal::BeforeStep();
      if (value_ != expected) {
        expected = value_;
        return false;
      }
      value_ = value;
      internal::AfterWrite();
      return true;
    }
    bool compare_exchange_weak(T& expected, T value, std::memory_order success,
                               std::memory_order failure) {
      return compare_exchange_strong(expected, value, success, failure);
    }

   private:
    template <class Change>
    T Write(Change change) {
      internal::BeforeStep();
      const T old = value_;
      value_ = change(old);
      internal::AfterWrite();
      return old;
    }

    T value_{};
  };

  static void FullFence() {}
  static void AcquireFence() {}
  static void ReleaseFence() {}
  static void CompilerFence() {}
  // Every loop that waits for another actor must call it.
  static void Pause() { internal::WaitForOthers(); }
};

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_TESTING_INTERLEAVING_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_TESTING_STATE_SPACE_H_
#define HANDOFF_CONTROL_QUEUE_TESTING_STATE_SPACE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/mutation.h"

namespace handoff {

// Takes a few actors through *every* order of their atomic steps, with a kill after any of them, by
// visiting every state once. A state is all shared words and what each actor has on its stack; two
// histories that lead to one state are continued once, so that loops end and no bound on
// preemptions is needed. (ExploreInterleavings() of interleaving.h tries orders, not states: for
// short actors.)
//
//   static Shared shared;                          // every Atomic of the actors lies in there
//   const StateSpaceResult result = ExploreStates({.kills = 2}, {
//       .shared = AsWritableBytes(shared),
//       .actors = {[] { Send(shared); }, [] { Receive(shared); }},
//       .on_kill = [](size_t actor) { shared.lives[actor].Set(0); },
//       .at_rest = [] { if (Lost(shared)) Violate("lost"); }});
//   EXPECT_EQ(result.violation, "");
//
// The actors are coroutines of the calling thread and use ExploredSync and Ghost for all they
// share. They must be deterministic; what they keep on the heap is theirs alone and lost with a
// kill. Memory is sequentially consistent here: an order that only weaker processors show is not
// found. Nor is a livelock, only a rest that should not be one.
//
// Two reductions, both exact. A step on a word that no other actor ever writes (or, for a write,
// ever touches) is made together with the one before; which words these are is found by trying, and
// the search begins anew whenever one proves wrong. And an actor is killed only right after it has
// written, or at its start: dying later without a further write is the same for all others. States
// are told apart by 64 bits of hash.
struct StateSpaceScenario {
  std::span<std::byte> shared;                // set up by the caller; is as before after the search
  std::vector<std::function<void()>> actors;  // at most 7
  uint32_t mortals = ~uint32_t{0};            // a bit for each actor that may be killed
  std::function<void(size_t actor)> on_kill = [](size_t) {};
  // After each step that has written something.
  std::function<void()> check = [] {};
  // When every living actor has ended or waits in AwaitAny() for what is not there.
  std::function<void()> at_rest = [] {};
};

struct StateSpaceOptions {
  int kills = 0;  // at most so many actors are killed
  Mutation mutation = Mutation::kNone;
  uint64_t most_states = uint64_t{1} << 28;
};

struct StateSpaceResult {
  uint64_t states = 0;
  uint64_t steps = 0;     // transitions between them
  uint64_t rests = 0;     // states that were looked at by `at_rest`
  bool complete = false;  // every state was visited
  // What was first found to be wrong, and the steps that led there; empty: nothing. Failed checks
  // (base/check.h) of an actor count.
  std::string violation;
};

StateSpaceResult ExploreStates(const StateSpaceOptions& options,
                               const StateSpaceScenario& scenario);

// Something is wrong: ends the search. Does not return to an actor.
void Violate(const std::string& what);

namespace internal {

enum class AccessKind : uint8_t { kRead, kWrite, kSwap };

// Which actors were seen to read and to write a word; bit 7 stands for `on_kill`.
struct WordUse {
  uint8_t readers = 0;
  uint8_t writers = 0;
};

struct Exploring {
  std::byte* base = nullptr;
  size_t size = 0;
  WordUse* uses = nullptr;
  uint8_t actor_bit = 0;   // who runs; 0: nobody whose accesses count
  uint8_t trial_bits = 0;  // not 0: every access is a step
  bool stepping = false;   // an actor runs, and its accesses are steps
  bool grown = false;      // a use was seen that was not known
  Mutation mutation = Mutation::kNone;

  void* schedulers_stack = nullptr;
  void* actors_stack = nullptr;
  // What the running actor stopped at: a step, or until an option is there.
  const void* parked_at = nullptr;
  AccessKind parked_for = AccessKind::kRead;
  uint64_t (*await)(const void*) = nullptr;
  uint32_t option = 0;
};
extern Exploring exploring;

extern "C" void HandoffSwitchActor(void** save, void* load);
[[noreturn]] void OutsideOfShared(const void* word);
void LogWrite(void* word, size_t size, uint64_t old_value, uint64_t new_value);

// To the scheduler and back. Its stack is another one, so that nothing of it remains on the
// actor's.
inline void Park(const void* word, AccessKind kind) {
  exploring.parked_at = word;
  exploring.parked_for = kind;
  HandoffSwitchActor(&exploring.actors_stack, exploring.schedulers_stack);
}

inline void BeforeAccess(const void* word, AccessKind kind) {
  Exploring& now = exploring;
  if (now.actor_bit == 0) return;
  const size_t offset = static_cast<size_t>(static_cast<const std::byte*>(word) - now.base);
  if (offset >= now.size) OutsideOfShared(word);
  WordUse& use = now.uses[offset / 4];
  const WordUse before = use;
  const auto bit = now.actor_bit;
  uint8_t others = before.writers | now.trial_bits;
  if (kind != AccessKind::kWrite) use.readers |= bit;
  if (kind != AccessKind::kRead) {
    use.writers |= bit;
    others |= before.readers;
  }
  if (use.readers != before.readers || use.writers != before.writers) now.grown = true;
  if (now.stepping && (others & ~bit) != 0) Park(word, kind);
}

}  // namespace internal

// A word of the scenario's own bookkeeping: part of the state, but no step.
template <class T>
class Ghost {
 public:
  T Get() const { return value_; }
  void Set(T value) {
    internal::LogWrite(&value_, sizeof(T), Bits(value_), Bits(value));
    value_ = value;
  }

 private:
  static uint64_t Bits(T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
  }
  static_assert(sizeof(T) <= 8);
  T value_{};
};

// By an actor: goes on as soon as a bit of `enabled()` is set, and returns its number; every bit
// that is set is tried. `enabled` looks at the shared words as they are and changes nothing.
template <class Enabled>
uint32_t AwaitAny(const Enabled& enabled) {
  internal::exploring.await = [](const void* context) -> uint64_t {
    return (*static_cast<const Enabled*>(context))();
  };
  internal::Park(&enabled, internal::AccessKind::kRead);
  return internal::exploring.option;
}

// The Sync (base/sync.h) of code under exploration.
struct ExploredSync {
  template <class T>
  class Atomic {
   public:
    T load(std::memory_order) const {
      internal::BeforeAccess(&value_, internal::AccessKind::kRead);
      return value_;
    }
    void store(T value, std::memory_order) {
      internal::BeforeAccess(&value_, internal::AccessKind::kWrite);
      Set(value);
    }
    T exchange(T value, std::memory_order) {
      internal::BeforeAccess(&value_, internal::AccessKind::kSwap);
      const T old = value_;
      Set(value);
      return old;
    }
    T fetch_add(T value, std::memory_order) {
      internal::BeforeAccess(&value_, internal::AccessKind::kSwap);
      const T old = value_;
      Set(static_cast<T>(old + value));
      return old;
    }
    bool compare_exchange_strong(T& expected, T value, std::memory_order, std::memory_order) {
      internal::BeforeAccess(&value_, internal::AccessKind::kSwap);
      if (value_ != expected) {
        expected = value_;
        return false;
      }
      Set(value);
      return true;
    }
    bool compare_exchange_weak(T& expected, T value, std::memory_order success,
                               std::memory_order failure) {
      return compare_exchange_strong(expected, value, success, failure);
    }

   private:
    void Set(T value) {
      internal::LogWrite(&value_, sizeof(T), static_cast<uint64_t>(value_),
                         static_cast<uint64_t>(value));
      value_ = value;
    }

    T value_{};
  };

  static void FullFence() {}
  static void AcquireFence() {}
  static void ReleaseFence() {}
  static void CompilerFence() {}
  static void RareBarrier() {}
  static bool Mutated(Mutation mutation) { return internal::exploring.mutation == mutation; }
};

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_TESTING_STATE_SPACE_H_

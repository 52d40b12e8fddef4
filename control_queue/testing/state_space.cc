// SPDX-License-Identifier: Apache-2.0
#include "control_queue/testing/state_space.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <utility>

#include "base/check.h"
#include "control_queue/testing/visited_states.h"

namespace handoff {

namespace internal {
Exploring exploring;
}  // namespace internal

namespace {

using internal::AccessKind;
using internal::exploring;
using internal::HandoffSwitchActor;
using internal::HashOf;
using internal::Mix;
using internal::VisitedStates;

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr size_t kHeapBytes = size_t{16} << 10;
constexpr size_t kMostActors = 7;
constexpr uint8_t kKillBit = 0x80;

// Random runs that find out who uses which word, before the search begins.
constexpr int kTrialRuns = 4000;
constexpr int kMostTrialSteps = 3000;

// What the next step of a run is.
struct Move {
  enum Kind : uint8_t { kStep, kStepAndDie, kDie, kOption };
  uint8_t actor;
  Kind kind;
  uint8_t option;
};

class Explorer {
 public:
  Explorer(const StateSpaceOptions& options, const StateSpaceScenario& scenario)
      : options_(options),
        scenario_(scenario),
        actors_(scenario.actors.size()),
        uses_(scenario.shared.size() / 4 + 1) {
    HANDOFF_CHECK(actors_.size() <= kMostActors);
    for (Actor& actor : actors_) actor.memory = std::make_unique<std::byte[]>(kActorBytes);
  }

  StateSpaceResult Run();

  void Log(void* word, size_t size, uint64_t old_value, uint64_t new_value);
  void Violate(const std::string& what);
  [[noreturn]] void Start();

  void* Allocate(size_t bytes);
  bool Free(void* memory);  // false: it is not an actor's

 private:
  static constexpr size_t kActorBytes = kStackBytes + kHeapBytes;

  struct Actor {
    std::unique_ptr<std::byte[]> memory;  // stack, then heap
    void* stack_pointer = nullptr;
    size_t heap_bytes = 0;
    size_t live_allocations = 0;
    const void* parked_at = nullptr;
    AccessKind parked_for = AccessKind::kRead;
    uint64_t (*await)(const void*) = nullptr;  // null: it is about to make a step
    uint32_t option = 0;
    bool moved = false;
    bool done = false;
    bool killed = false;
    uint64_t hash = 0;

    std::byte* heap() const { return memory.get() + kStackBytes; }
    uint8_t bit(const Actor* first) const { return static_cast<uint8_t>(1u << (this - first)); }
  };
  struct Choice {
    size_t taken = 0;
    std::vector<Move> moves;
  };
  struct Change {
    void* word;
    uint64_t old_value;
    uint8_t size;
  };

  void Begin();
  void Try(std::mt19937& random);
  bool Search();  // false: begin anew
  void RunOnce();
  bool NextPath();
  bool Make(Move move);
  void Resume(Actor& actor);
  void TraceStop(const Actor& actor);
  [[noreturn]] void Leave();
  void Moves(std::vector<Move>* moves, bool* rest);
  uint64_t Key() const;
  std::string Trace();

  const StateSpaceOptions options_;
  const StateSpaceScenario& scenario_;
  std::vector<Actor> actors_;
  std::vector<internal::WordUse> uses_;
  std::vector<Change> changes_;  // since the beginning of the run
  uint64_t memory_hash_ = 0;
  int kills_left_ = 0;
  bool wrote_ = false;

  std::vector<Choice> path_;
  size_t path_size_ = 0;  // `path_` keeps what it has allocated
  size_t depth_ = 0;
  bool replays_ = false;
  bool tracing_ = false;
  std::string trace_;

  Actor* running_ = nullptr;
  VisitedStates visited_;
  StateSpaceResult result_;
};

Explorer* current = nullptr;

// Whether what is allocated now is the running actor's.
bool actor_allocates = false;

class ExplorersOwn {
 public:
  ~ExplorersOwn() { actor_allocates = before_; }

 private:
  const bool before_ = std::exchange(actor_allocates, false);
};

void StartActor() { current->Start(); }

void OnCheckFailure(const std::string& text) {
  if (current != nullptr) current->Violate(text);
}

StateSpaceResult Explorer::Run() {
  exploring = {.base = scenario_.shared.data(),
               .size = scenario_.shared.size(),
               .uses = uses_.data(),
               .mutation = options_.mutation};
  std::mt19937 random(1);
  exploring.trial_bits = 0xFF;
  for (int i = 0; i < kTrialRuns && result_.violation.empty(); ++i) Try(random);
  exploring.trial_bits = 0;
  while (result_.violation.empty() && !Search()) {
  }
  Begin();
  exploring = {};
  return result_;
}

// Everything as before the first step.
void Explorer::Begin() {
  for (size_t i = changes_.size(); i-- > 0;) {
    std::memcpy(changes_[i].word, &changes_[i].old_value, changes_[i].size);
  }
  changes_.clear();
  memory_hash_ = 0;
  kills_left_ = options_.kills;
  depth_ = 0;
  for (Actor& actor : actors_) {
    auto* top = reinterpret_cast<uint64_t*>(actor.memory.get() + kStackBytes);
    std::fill(top - 512, top, 0);
    top[-2] = reinterpret_cast<uint64_t>(&StartActor);
    actor.stack_pointer = top - 2 - 6;
    actor.heap_bytes = actor.live_allocations = 0;
    actor.await = nullptr;
    actor.moved = actor.done = actor.killed = false;
  }
}

// Lets an actor go on to its next step, the next time it waits, or its end; and further, where the
// path was gone before.
void Explorer::Resume(Actor& actor) {
  constexpr size_t kScrubBytes = 1536;
  running_ = &actor;
  exploring.actor_bit = actor.bit(actors_.data());
  exploring.option = actor.option;
  for (;;) {
    exploring.stepping = true;
    exploring.await = nullptr;
    exploring.actors_stack = actor.stack_pointer;
    actor_allocates = true;
    HandoffSwitchActor(&exploring.schedulers_stack, actor.stack_pointer);
    actor_allocates = false;
    exploring.stepping = false;
    actor.stack_pointer = exploring.actors_stack;
    actor.parked_at = exploring.parked_at;
    actor.parked_for = exploring.parked_for;
    actor.await = exploring.await;
    // What calls that are over have left there.
    std::memset(static_cast<std::byte*>(actor.stack_pointer) - kScrubBytes, 0, kScrubBytes);
    if (tracing_ && actor.await == nullptr) TraceStop(actor);
    if (!replays_ || depth_ >= path_size_ || actor.done) break;
    const Choice& choice = path_[depth_];
    const Move move = choice.moves[choice.taken];
    if (move.kind != Move::kStep || &actors_[move.actor] != running_ || depth_ + 1 == path_size_) {
      break;
    }
    ++depth_;
    actor.moved = true;
  }
  exploring.actor_bit = 0;
  running_ = nullptr;
}

void Explorer::TraceStop(const Actor& actor) {
  static constexpr const char* kKinds[] = {" reads ", " writes ", " swaps "};
  trace_ += "\n  ... actor " + std::to_string(&actor - actors_.data()) +
            kKinds[static_cast<size_t>(actor.parked_for)] +
            std::to_string(static_cast<const std::byte*>(actor.parked_at) - exploring.base) +
            " next";
}

void Explorer::Start() {
  scenario_.actors[static_cast<size_t>(running_ - actors_.data())]();
  running_->done = true;
  Leave();
}

// From an actor, for good.
void Explorer::Leave() {
  HandoffSwitchActor(&exploring.actors_stack, exploring.schedulers_stack);
  std::abort();
}

void Explorer::Log(void* word, size_t size, uint64_t old_value, uint64_t new_value) {
  if (old_value == new_value) return;
  const ExplorersOwn own;
  changes_.push_back({word, old_value, static_cast<uint8_t>(size)});
  const auto offset = static_cast<uint64_t>(static_cast<std::byte*>(word) - exploring.base);
  HANDOFF_CHECK_LT(offset, exploring.size) << "a word that is not shared";
  memory_hash_ ^= Mix((offset + 1) * 0x9E3779B97F4A7C15 ^ Mix(old_value)) ^
                  Mix((offset + 1) * 0x9E3779B97F4A7C15 ^ Mix(new_value));
  wrote_ = true;
  if (tracing_) {
    char text[96];
    std::snprintf(text, sizeof(text), "\n      %zu: %llx -> %llx", static_cast<size_t>(offset),
                  static_cast<unsigned long long>(old_value),
                  static_cast<unsigned long long>(new_value));
    trace_ += text;
  }
}

void Explorer::Violate(const std::string& what) {
  {
    const ExplorersOwn own;
    if (result_.violation.empty()) result_.violation.assign(what.c_str());
  }
  if (running_ == nullptr) return;
  // `what` may lie on the actor's heap, which stays until the next run.
  Leave();
}

void* Explorer::Allocate(size_t bytes) {
  bytes = (bytes + 15) & ~size_t{15};
  Actor& actor = *running_;
  if (actor.heap_bytes + bytes > kHeapBytes) std::abort();
  std::byte* const memory = actor.heap() + actor.heap_bytes;
  std::memset(memory, 0, bytes);
  actor.heap_bytes += bytes;
  ++actor.live_allocations;
  return memory;
}

bool Explorer::Free(void* memory) {
  for (Actor& actor : actors_) {
    if (memory < actor.memory.get() || memory >= actor.memory.get() + kActorBytes) continue;
    if (--actor.live_allocations == 0) actor.heap_bytes = 0;
    return true;
  }
  return false;
}

uint64_t Explorer::Key() const {
  uint64_t key = memory_hash_ + static_cast<uint64_t>(kills_left_);
  for (size_t i = 0; i < actors_.size(); ++i) key += Mix(actors_[i].hash + i * 0x632BE59BD9B4E019);
  return Mix(key);
}

void Explorer::Moves(std::vector<Move>* moves, bool* rest) {
  moves->clear();
  *rest = true;
  for (size_t i = 0; i < actors_.size(); ++i) {
    Actor& actor = actors_[i];
    if (actor.done || actor.killed) continue;
    const auto id = static_cast<uint8_t>(i);
    const bool mortal = kills_left_ > 0 && (scenario_.mortals >> i & 1) != 0;
    if (actor.await != nullptr) {
      exploring.actor_bit = actor.bit(actors_.data());
      const uint64_t enabled = actor.await(actor.parked_at);
      exploring.actor_bit = 0;
      for (uint8_t option = 0; option < 64; ++option) {
        if ((enabled >> option & 1) == 0) continue;
        moves->push_back({id, Move::kOption, option});
        *rest = false;
      }
    } else {
      moves->push_back({id, Move::kStep, 0});
      *rest = false;
      if (mortal && actor.parked_for != AccessKind::kRead) {
        moves->push_back({id, Move::kStepAndDie, 0});
      }
    }
    if (mortal && !actor.moved) moves->push_back({id, Move::kDie, 0});
  }
}

// False: what comes is the same as after another move.
bool Explorer::Make(Move move) {
  Actor& actor = actors_[move.actor];
  wrote_ = false;
  if (tracing_) {
    static constexpr const char* kKinds[] = {"step", "step, dies", "dies", "option"};
    trace_ += "\nactor " + std::to_string(move.actor) + ": " + kKinds[move.kind] + " " +
              std::to_string(move.option);
  }
  if (move.kind != Move::kDie) {
    actor.option = move.option;
    actor.moved = true;
    Resume(actor);
    if (!result_.violation.empty()) return true;
  }
  if (move.kind == Move::kStepAndDie && !wrote_) return false;
  if (move.kind == Move::kStepAndDie || move.kind == Move::kDie) {
    --kills_left_;
    actor.killed = true;
    exploring.actor_bit = kKillBit;
    scenario_.on_kill(move.actor);
    exploring.actor_bit = 0;
  }
  return true;
}

void Explorer::Try(std::mt19937& random) {
  replays_ = false;
  Begin();
  for (Actor& actor : actors_) Resume(actor);
  std::vector<Move> moves;
  for (int steps = 0; steps < kMostTrialSteps && result_.violation.empty(); ++steps) {
    bool rest = false;
    Moves(&moves, &rest);
    if (moves.empty()) break;
    // Few kills, late ones too.
    Move move = moves[random() % moves.size()];
    if ((move.kind == Move::kStepAndDie || move.kind == Move::kDie) && random() % 16 != 0) continue;
    if (!Make(move)) break;
  }
  // The search is to find it again, with its path.
  result_.violation.clear();
}

bool Explorer::Search() {
  result_ = {};
  visited_.Clear();
  path_size_ = 0;
  exploring.grown = false;
  replays_ = true;
  do {
    RunOnce();
    if (!result_.violation.empty()) {
      const std::string what = result_.violation;
      result_.violation = what + "; the steps:" + Trace();
      return true;
    }
    if (exploring.grown) return false;
    if (result_.states > options_.most_states) return true;
  } while (NextPath());
  result_.complete = true;
  return true;
}

void Explorer::RunOnce() {
  Begin();
  for (Actor& actor : actors_) {
    Resume(actor);
    if (!result_.violation.empty()) return;
  }
  bool fresh = false;  // a state of this run is new
  for (;;) {
    if (depth_ == path_size_) {
      if (exploring.grown) return;
      if (fresh && wrote_) scenario_.check();
      for (Actor& actor : actors_) {
        actor.hash = actor.killed ? 1
                     : actor.done ? 2
                                  : HashOf(static_cast<const std::byte*>(actor.stack_pointer),
                                           actor.heap() + actor.heap_bytes) +
                                        (actor.moved ? 1 : 0);
      }
      if (!result_.violation.empty() || !visited_.Insert(Key())) return;
      ++result_.states;
      if (path_.size() == path_size_) path_.emplace_back();
      Choice& choice = path_[path_size_];
      bool rest = false;
      Moves(&choice.moves, &rest);
      if (rest) {
        ++result_.rests;
        scenario_.at_rest();
        if (!result_.violation.empty()) return;
      }
      if (choice.moves.empty()) return;
      choice.taken = 0;
      ++path_size_;
    }
    const Choice& choice = path_[depth_];
    const Move move = choice.moves[choice.taken];
    ++depth_;
    if (depth_ == path_size_) {
      fresh = true;
      ++result_.steps;
    }
    if (!Make(move) || !result_.violation.empty()) return;
  }
}

bool Explorer::NextPath() {
  while (path_size_ > 0) {
    Choice& last = path_[path_size_ - 1];
    if (++last.taken < last.moves.size()) return true;
    --path_size_;
  }
  return false;
}

// The steps that led to the violation, made once more.
std::string Explorer::Trace() {
  replays_ = false;
  tracing_ = true;
  trace_.clear();
  Begin();
  for (Actor& actor : actors_) Resume(actor);
  result_.violation.clear();
  for (size_t i = 0; i < path_size_ && result_.violation.empty(); ++i) {
    const Choice& choice = path_[i];
    if (!Make(choice.moves[choice.taken])) break;
  }
  tracing_ = false;
  return trace_;
}

}  // namespace

StateSpaceResult ExploreStates(const StateSpaceOptions& options,
                               const StateSpaceScenario& scenario) {
  HANDOFF_CHECK(current == nullptr) << "one exploration at a time";
  Explorer explorer(options, scenario);
  current = &explorer;
  internal::on_check_failure = &OnCheckFailure;
  StateSpaceResult result = explorer.Run();
  internal::on_check_failure = nullptr;
  current = nullptr;
  return result;
}

void Violate(const std::string& what) { current->Violate(what); }

namespace internal {

void OutsideOfShared(const void* word) {
  exploring.actor_bit = 0;
  HANDOFF_CHECK(current == nullptr) << "an atomic at " << word << " is not in the shared bytes";
  std::abort();
}

void LogWrite(void* word, size_t size, uint64_t old_value, uint64_t new_value) {
  if (current != nullptr) current->Log(word, size, old_value, new_value);
}

}  // namespace internal
}  // namespace handoff

// What an actor takes from the heap is part of its state, too: it lies behind its stack, and goes
// with it.
void* operator new(size_t bytes) {
  if (handoff::actor_allocates) return handoff::current->Allocate(bytes);
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  if (handoff::current != nullptr && handoff::current->Free(memory)) return;
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { ::operator delete(memory); }

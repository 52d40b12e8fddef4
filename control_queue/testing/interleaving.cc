// SPDX-License-Identifier: Apache-2.0
#include "control_queue/testing/interleaving.h"

#include <ucontext.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;

// What the next step of a run is. The first of several that are possible is tried first, so the
// first run has no preemption.
struct Move {
  size_t actor;
  bool kill;  // it is killed instead
};

// One point of a run at which there was a choice.
struct Choice {
  size_t taken;
  std::vector<Move> moves;
};

class Explorer {
 public:
  Explorer(const InterleavingOptions& options, const std::function<Scenario()>& make)
      : options_(options), make_(make) {}

  uint64_t Run() {
    uint64_t runs = 0;
    do {
      RunOnce();
      ++runs;
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "in run " << runs << ", whose steps were made by the actors" << steps_;
        break;
      }
    } while (NextPath());
    return runs;
  }

  void Step() {
    if (running_ != kNobody) Yield();  // otherwise the scenario's setup or end
  }

  void Wrote() {
    if (running_ == kNobody) return;
    for (Actor& actor : actors_) actor.news = actor.news || &actor != &actors_[running_];
  }

  void Wait() {
    Actor& actor = actors_[running_];
    // What was written since its last wait it may not have seen yet.
    if (!std::exchange(actor.news, false)) {
      actor.waits = true;
      Yield();
      actor.waits = actor.news = false;
    }
  }

  void Start() {
    actors_[running_].body();
    actors_[running_].done = true;
    Yield();
  }

 private:
  static constexpr size_t kNobody = SIZE_MAX;

  struct Actor {
    std::function<void()> body;
    ucontext_t context;
    std::unique_ptr<std::byte[]> stack;
    bool waits = false;  // for news
    bool news = false;   // another one has written something since its last wait
    bool done = false;
    bool killed = false;

    bool CanGoOn() const { return (!waits || news) && !done && !killed; }
  };

  void Yield() { HANDOFF_CHECK_EQ(::swapcontext(&actors_[running_].context, &scheduler_), 0); }

  // Lets an actor run up to its next step, its next wait or its end.
  void Resume(size_t actor) {
    running_ = actor;
    HANDOFF_CHECK_EQ(::swapcontext(&scheduler_, &actors_[actor].context), 0);
    running_ = kNobody;
  }

  void RunOnce();
  std::vector<Move> Moves(size_t last, int preemptions, int kills) const;
  bool NextPath();

  const InterleavingOptions options_;
  const std::function<Scenario()>& make_;
  std::vector<Choice> path_;
  std::vector<Actor> actors_;
  ucontext_t scheduler_;
  size_t running_ = kNobody;
  std::string steps_;
};

Explorer* current = nullptr;

void StartActor() { current->Start(); }

// Apart, because getcontext() returns twice for all that the compiler knows.
[[gnu::noinline]] void MakeContext(ucontext_t* context, std::byte* stack) {
  HANDOFF_CHECK_EQ(::getcontext(context), 0);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  ::makecontext(context, &StartActor, 0);
}

void Explorer::RunOnce() {
  const Scenario scenario = make_();
  actors_.resize(scenario.actors.size());
  for (size_t i = 0; i < actors_.size(); ++i) {
    Actor& actor = actors_[i];
    actor.body = scenario.actors[i];
    actor.waits = actor.news = actor.done = actor.killed = false;
    if (actor.stack == nullptr) actor.stack = std::make_unique<std::byte[]>(kStackBytes);
    MakeContext(&actor.context, actor.stack.get());
  }
  // What is before the first step is nobody's business.
  for (size_t i = 0; i < actors_.size(); ++i) Resume(i);
  steps_.clear();
  int preemptions = options_.preemptions;
  int kills = options_.kills;
  size_t last = kNobody;
  for (size_t depth = 0;; ++depth) {
    std::vector<Move> moves = Moves(last, preemptions, kills);
    if (moves.empty()) break;
    if (depth == path_.size()) path_.push_back({.taken = 0, .moves = std::move(moves)});
    const Move move = path_[depth].moves[path_[depth].taken];
    steps_ += ' ' + std::to_string(move.actor);
    if (move.kill) {
      steps_ += " (killed)";
      --kills;
      actors_[move.actor].killed = true;
      continue;
    }
    if (last != kNobody && last != move.actor && actors_[last].CanGoOn()) --preemptions;
    last = move.actor;
    Resume(last);
  }
  Scenario::Ends ends;
  for (const Actor& actor : actors_) {
    EXPECT_TRUE(actor.done || actor.killed) << "all who live wait for each other";
    ends.push_back(actor.killed ? Scenario::End::kKilled : Scenario::End::kReturned);
  }
  if (!::testing::Test::HasFailure()) scenario.at_end(ends);
}

std::vector<Move> Explorer::Moves(size_t last, int preemptions, int kills) const {
  std::vector<Move> moves;
  const bool last_can = last != kNobody && actors_[last].CanGoOn();
  if (last_can) moves.push_back({.actor = last, .kill = false});
  for (size_t i = 0; i < actors_.size(); ++i) {
    if (i != last && actors_[i].CanGoOn() && (!last_can || preemptions > 0)) {
      moves.push_back({.actor = i, .kill = false});
    }
  }
  // Whoever just made a step dies after it; the others die where they were left, which is the same
  // as having died then.
  if (kills > 0 && last != kNobody && !actors_[last].done && !actors_[last].killed) {
    moves.push_back({.actor = last, .kill = true});
  }
  return moves;
}

bool Explorer::NextPath() {
  while (!path_.empty() && path_.back().taken + 1 == path_.back().moves.size()) path_.pop_back();
  if (path_.empty()) return false;
  ++path_.back().taken;
  return true;
}

}  // namespace

uint64_t ExploreInterleavings(const InterleavingOptions& options,
                              const std::function<Scenario()>& make) {
  HANDOFF_CHECK(current == nullptr) << "one exploration at a time";
  Explorer explorer(options, make);
  current = &explorer;
  const uint64_t runs = explorer.Run();
  current = nullptr;
  return runs;
}

namespace internal {

void BeforeStep() {
  if (current != nullptr) current->Step();
}

void AfterWrite() {
  if (current != nullptr) current->Wrote();
}

void WaitForOthers() {
  HANDOFF_CHECK(current != nullptr) << "only an actor can wait";
  current->Wait();
}

}  // namespace internal
}  // namespace handoff

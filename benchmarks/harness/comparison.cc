// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/comparison.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/cache_line.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/sync.h"

namespace handoff {

namespace {

constexpr uint64_t kEnd = ~uint64_t{0};
constexpr uint64_t kProbeTurns = 100;
constexpr int kProbes = 3;
constexpr int kWarmUpRounds = 3;

// What both processes see.
struct Shared {
  // How many meetings each side has reached.
  alignas(kCacheLineSize) std::atomic<uint64_t> reached[2][kCacheLineSize / sizeof(uint64_t)];
  // The line of the probe.
  alignas(kCacheLineSize) std::atomic<uint64_t> ball;
  // Written by A before a meeting and read by B after it.
  alignas(kCacheLineSize) std::atomic<uint64_t> contender;
  std::atomic<uint64_t> messages;
  // Likewise by B.
  std::atomic<uint64_t> preempted;
};

int64_t NowNs() { return MonotonicClock().NowNanoseconds(); }

// Involuntary context switches of this thread so far.
long Preemptions() {
  rusage usage{};
  HANDOFF_CHECK_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
  return usage.ru_nivcsw;
}

// The cores that this process may use.
std::vector<int> Cores() {
  cpu_set_t set;
  HANDOFF_CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void Pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  HANDOFF_CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
}

class MappedPage {
 public:
  MappedPage() {
    void* page =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HANDOFF_CHECK(page != MAP_FAILED);
    shared_ = new (page) Shared();
  }
  ~MappedPage() { munmap(shared_, sizeof(Shared)); }
  MappedPage(const MappedPage&) = delete;
  MappedPage& operator=(const MappedPage&) = delete;

  Shared& shared() { return *shared_; }

 private:
  Shared* shared_;
};

// One process of a comparison.
class Player {
 public:
  // `child` is the other process where this one is side A.
  Player(Shared& shared, Side side, pid_t child)
      : shared_(shared),
        side_(side),
        own_(shared.reached[side == Side::kA ? 0 : 1][0]),
        other_(shared.reached[side == Side::kA ? 1 : 0][0]),
        child_(child) {}

  // Returns when the other side is here, too.
  void Meet() {
    own_.store(++meetings_, std::memory_order_release);
    WaitUntil([&] { return other_.load(std::memory_order_acquire) >= meetings_; });
  }

  // Both sides at once. The nanoseconds that a line takes to the other core and back, on side A.
  double Probe() {
    Meet();
    double least_ns = 0;
    for (int i = 0; i < kProbes; ++i) {
      const int64_t begin_ns = NowNs();
      for (uint64_t turn = 0; turn < kProbeTurns; ++turn) {
        const uint64_t mine = ++balls_ * 2 - (side_ == Side::kA ? 1 : 0);
        if (side_ == Side::kA) shared_.ball.store(mine, std::memory_order_release);
        const uint64_t awaited = side_ == Side::kA ? mine + 1 : mine - 1;
        WaitUntil([&] { return shared_.ball.load(std::memory_order_acquire) == awaited; });
        if (side_ == Side::kB) shared_.ball.store(mine, std::memory_order_release);
      }
      const double ns = static_cast<double>(NowNs() - begin_ns) / kProbeTurns;
      least_ns = i == 0 ? ns : std::min(least_ns, ns);
    }
    return least_ns;
  }

  // One burst of this side, between two meetings. True if this side had to wait for its core.
  bool Play(const Burst& burst, uint64_t messages, std::vector<double>& latencies_ns) {
    Meet();
    const long preemptions = Preemptions();
    begin_ns_ = NowNs();
    burst(messages, latencies_ns);
    const bool preempted = Preemptions() != preemptions;
    if (side_ == Side::kB) shared_.preempted.store(preempted, std::memory_order_relaxed);
    Meet();
    end_ns_ = NowNs();
    return preempted || shared_.preempted.load(std::memory_order_relaxed) != 0;
  }
  // Of the last burst, from the common start to the end of the later side.
  double last_ns() const { return static_cast<double>(end_ns_ - begin_ns_); }

 private:
  template <class Condition>
  void WaitUntil(Condition condition) {
    // Long before somebody who shares this core has waited for a whole slice.
    constexpr uint32_t kTurnsAwake = 2000;
    constexpr uint32_t kTurnsBetweenLooks = 1 << 16;
    for (uint32_t turn = 1; !condition(); ++turn) {
      if (turn < kTurnsAwake) {
        RealSync::Pause();
        continue;
      }
      sched_yield();
      if (turn % kTurnsBetweenLooks == 0 && side_ == Side::kA) {
        HANDOFF_CHECK_EQ(waitpid(child_, nullptr, WNOHANG), 0) << "side B has ended";
      }
    }
  }

  Shared& shared_;
  const Side side_;
  std::atomic<uint64_t>& own_;
  std::atomic<uint64_t>& other_;
  const pid_t child_;
  uint64_t meetings_ = 0;
  uint64_t balls_ = 0;
  int64_t begin_ns_ = 0;
  int64_t end_ns_ = 0;
};

// Side B does what A says.
void PlaySideB(const std::vector<Contender>& contenders, Player& player, Shared& shared) {
  std::vector<Burst> bursts;
  player.Meet();
  for (const Contender& contender : contenders) bursts.push_back(contender.open(Side::kB));
  player.Meet();
  std::vector<double> latencies_ns;
  for (;;) {
    player.Meet();
    const uint64_t contender = shared.contender.load(std::memory_order_relaxed);
    if (contender == kEnd) break;
    const uint64_t messages = shared.messages.load(std::memory_order_relaxed);
    player.Probe();
    player.Play(bursts[contender], messages, latencies_ns);
    player.Probe();
    latencies_ns.clear();
  }
  bursts.clear();
}

class SideA {
 public:
  SideA(const std::vector<Contender>& contenders, const ComparisonOptions& options, Player& player,
        Shared& shared)
      : contenders_(contenders), options_(options), player_(player), shared_(shared) {}

  std::vector<Measured> Run() {
    // One after the other, so that B finds what A has made.
    for (const Contender& contender : contenders_) bursts_.push_back(contender.open(Side::kA));
    player_.Meet();
    player_.Meet();
    std::vector<Measured> all(contenders_.size());
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].name = contenders_[i].name;
      all[i].messages = FindCount(i);
    }
    for (int round = 0; round < kWarmUpRounds + options_.rounds; ++round) {
      for (size_t i = 0; i < all.size(); ++i) {
        Measured nobody;
        Turn(i, all[i].messages, round < kWarmUpRounds ? nobody : all[i]);
      }
    }
    shared_.contender.store(kEnd, std::memory_order_relaxed);
    player_.Meet();
    return all;
  }

 private:
  // How many messages take about as long as a burst shall.
  uint64_t FindCount(size_t contender) {
    const double wanted_ns = absl::ToDoubleNanoseconds(options_.burst);
    const uint64_t most = contenders_[contender].most_messages;
    Measured nobody;
    Turn(contender, std::min(contenders_[contender].warm_up_messages, most), nobody);
    for (uint64_t messages = std::min(contenders_[contender].least_messages, most);;
         messages = std::min(messages * 2, most)) {
      double ns = wanted_ns;
      // The faster one, so that one interruption does not end the search.
      for (int i = 0; i < 2; ++i) {
        Turn(contender, messages, nobody);
        ns = std::min(ns, player_.last_ns());
      }
      if (messages == most || ns >= wanted_ns) return messages;
      if (ns < wanted_ns / 2) continue;
      return std::min(most, static_cast<uint64_t>(static_cast<double>(messages) * wanted_ns / ns));
    }
  }

  void Turn(size_t contender, uint64_t messages, Measured& measured) {
    shared_.contender.store(contender, std::memory_order_relaxed);
    shared_.messages.store(messages, std::memory_order_relaxed);
    player_.Meet();
    const double before_ns = player_.Probe();
    latencies_ns_.clear();
    const bool preempted = player_.Play(bursts_[contender], messages, latencies_ns_);
    const double after_ns = player_.Probe();
    const Placement placement = Classify(before_ns, after_ns);
    if (preempted && !contenders_[contender].yields) {
      ++measured.preempted;
      return;
    }
    if (placement == Placement::kMoved) {
      ++measured.moved;
      return;
    }
    const auto kind = static_cast<size_t>(placement);
    measured.message_ns[kind].Add(player_.last_ns() / static_cast<double>(messages));
    measured.latency_ns[kind].Add(latencies_ns_);
    measured.probe_ns[kind].Add((before_ns + after_ns) / 2);
  }

  const std::vector<Contender>& contenders_;
  const ComparisonOptions& options_;
  Player& player_;
  Shared& shared_;
  std::vector<Burst> bursts_;
  std::vector<double> latencies_ns_;
};

}  // namespace

std::vector<Measured> Compare(const std::vector<Contender>& contenders,
                              const ComparisonOptions& options) {
  MappedPage page;
  const std::vector<int> cores = Cores();
  std::fflush(nullptr);
  const pid_t self = getpid();
  const pid_t child = fork();
  HANDOFF_CHECK(child >= 0) << "fork";
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) std::_Exit(1);
    Pin(cores.back());
    Player player(page.shared(), Side::kB, 0);
    PlaySideB(contenders, player, page.shared());
    std::fflush(nullptr);
    std::_Exit(0);
  }
  // Threads that the contenders start are pinned with it; so is B's side.
  cpu_set_t before;
  HANDOFF_CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  Pin(cores.front());
  Player player(page.shared(), Side::kA, child);
  auto side_a = std::make_unique<SideA>(contenders, options, player, page.shared());
  std::vector<Measured> measured = side_a->Run();
  int status = 0;
  HANDOFF_CHECK_EQ(waitpid(child, &status, 0), child);
  HANDOFF_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "side B failed";
  side_a.reset();
  HANDOFF_CHECK_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  return measured;
}

}  // namespace handoff

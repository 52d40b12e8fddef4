// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/session_costs.h"

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/member.h"
#include "base/check.h"
#include "base/clock.h"
#include "benchmarks/heaps.h"
#include "control_queue/life_lock.h"
#include "transport/transport.h"

namespace handoff {

namespace {

int64_t NowNs() { return MonotonicClock().NowNanoseconds(); }

double MillisecondsSince(int64_t begin_ns) { return static_cast<double>(NowNs() - begin_ns) / 1e6; }

// What two processes tell each other.
struct Board {
  std::atomic<int> step{0};
  std::atomic<double> milliseconds{0};
  std::atomic<uint32_t> slot{0};
  std::atomic<int64_t> released_ns{0};

  void Await(int wanted) const {
    while (step.load(std::memory_order_acquire) < wanted) sched_yield();
  }
  void Reach(int reached) { step.store(reached, std::memory_order_release); }
};

std::shared_ptr<Board> MapBoard() {
  void* bytes =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  HANDOFF_CHECK(bytes != MAP_FAILED);
  return {new (bytes) Board(), [](Board* board) { munmap(board, sizeof(*board)); }};
}

pid_t Fork(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t self = getpid();
  const pid_t child = fork();
  HANDOFF_CHECK(child >= 0) << "fork";
  if (child != 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != self) std::_Exit(1);
  body();
  std::_Exit(0);
}

void Reap(pid_t child) { HANDOFF_CHECK_EQ(waitpid(child, nullptr, 0), child); }

std::unique_ptr<Transport> MustOpen(const std::string& session, uint64_t segment_bytes) {
  auto transport = Transport::Open({.session = session, .segment_size_bytes = segment_bytes});
  HANDOFF_CHECK(transport.ok()) << transport.status().ToString();
  return *std::move(transport);
}

// Bytes that a file has taken.
uint64_t BytesOf(const std::string& path) {
  struct stat info = {};
  HANDOFF_CHECK_EQ(stat(path.c_str(), &info), 0) << path;
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

}  // namespace

OpenTimes TimeOpen(uint64_t segment_bytes, int times) {
  OpenTimes result;
  const auto board = MapBoard();
  for (int i = 0; i < times; ++i) {
    const std::string session = BenchmarkSession();
    const int64_t begin_ns = NowNs();
    const auto transport = MustOpen(session, segment_bytes);
    result.create_ms.Add(MillisecondsSince(begin_ns));
    Reap(Fork([&] {
      const int64_t join_ns = NowNs();
      const auto joined = MustOpen(session, segment_bytes);
      board->milliseconds.store(MillisecondsSince(join_ns), std::memory_order_relaxed);
    }));
    result.join_ms.Add(board->milliseconds.load(std::memory_order_relaxed));
  }
  return result;
}

Samples TimeReclaim(uint32_t blocks, int times) {
  Samples result;
  const uint64_t segment_bytes = std::max<uint64_t>(uint64_t{blocks} * 128, 8 << 20);
  for (int i = 0; i < times; ++i) {
    const auto board = MapBoard();
    const std::string session = BenchmarkSession();
    // First, so that no thread is forked.
    const pid_t child = Fork([&] {
      SegmentHeap heap(session, segment_bytes);
      for (uint32_t j = 0; j < blocks; ++j) (void)heap.Allocate(64);
      board->slot.store(heap.segment().self().slot, std::memory_order_relaxed);
      board->Reach(1);
      for (;;) pause();
    });
    board->Await(1);
    SegmentHeap heap(session, segment_bytes);
    const uint32_t slot = board->slot.load(std::memory_order_relaxed);
    const auto& members = heap.member().session().members();
    auto lock = LifeLock::Open(heap.member().session().names().LockFilePath());
    HANDOFF_CHECK(lock.ok()) << lock.status().ToString();
    kill(child, SIGKILL);
    while ((*lock)->IsHeld(slot).value_or(true)) {
    }
    const int64_t free_ns = NowNs();
    while (members.Word(slot).state != MemberState::kFree) sched_yield();
    result.Add(MillisecondsSince(free_ns));
    HANDOFF_CHECK_EQ(heap.segment().Usage().used_blocks, uint64_t{0});
    Reap(child);
  }
  return result;
}

namespace {

// Holds all memory until the other one waits for it; then waits itself. `first` begins as holder.
void TakeTurns(SegmentHeap& heap, Board& board, bool first, int times, Samples* waits_ms) {
  Segment& segment = heap.segment();
  for (int i = 0; i < times; ++i) {
    const int begin = 3 * (i + 1);
    const bool holds = (i % 2 == 0) == first;
    if (holds) {
      const Block all =
          segment
              .Allocate(segment.size_bytes(), kBlockAlignment, Deadline::After(absl::Seconds(10)))
              .value();
      board.Reach(begin + 1);
      board.Await(begin + 2);
      // By now it sleeps, most likely; where it does not, it is only faster.
      while (segment.view().header().waiters.load(std::memory_order_relaxed) == 0) sched_yield();
      absl::SleepFor(absl::Microseconds(500));
      board.released_ns.store(NowNs(), std::memory_order_relaxed);
      segment.Release(all);
      board.Await(begin + 3);
    } else {
      board.Await(begin + 1);
      board.Reach(begin + 2);
      const auto all = segment.Allocate(segment.size_bytes(), kBlockAlignment,
                                        Deadline::After(absl::Seconds(10)));
      const int64_t now_ns = NowNs();
      HANDOFF_CHECK(all.ok()) << all.status().ToString();
      const int64_t released_ns = board.released_ns.load(std::memory_order_relaxed);
      if (waits_ms != nullptr) waits_ms->Add(static_cast<double>(now_ns - released_ns) / 1e6);
      segment.Release(*all);
      segment.Trim();
      board.Reach(begin + 3);
    }
  }
}

}  // namespace

Samples TimeWakes(int times) {
  constexpr uint64_t kSegmentBytes = 8 << 20;
  Samples result;
  const auto board = MapBoard();
  const std::string session = BenchmarkSession();
  const pid_t child = Fork([&] {
    board->Await(1);
    SegmentHeap heap(session, kSegmentBytes);
    board->Reach(2);
    board->Await(3);
    TakeTurns(heap, *board, /*first=*/false, times, nullptr);
  });
  SegmentHeap heap(session, kSegmentBytes);
  board->Reach(1);
  board->Await(2);
  board->Reach(3);
  TakeTurns(heap, *board, /*first=*/true, times, &result);
  Reap(child);
  return result;
}

Bookkeeping MeasureBookkeeping(uint32_t blocks) {
  SegmentHeap heap(BenchmarkSession(), std::max<uint64_t>(uint64_t{blocks} * 128, 8 << 20));
  const auto& names = heap.member().session().names();
  std::vector<Block> held;
  held.reserve(blocks);
  heap.Release(heap.Allocate(64));
  const auto private_bytes = [] {
    const auto info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  const uint64_t shared_before = BytesOf(names.ManagementPath());
  const uint64_t private_before = private_bytes();
  for (uint32_t i = 0; i < blocks; ++i) held.push_back(heap.Allocate(64));
  const double count = blocks;
  const Bookkeeping result = {
      .shared_bytes = static_cast<double>(BytesOf(names.ManagementPath()) - shared_before) / count,
      .private_bytes = static_cast<double>(private_bytes() - private_before) / count};
  for (const Block& block : held) heap.Release(block);
  return result;
}

}  // namespace handoff

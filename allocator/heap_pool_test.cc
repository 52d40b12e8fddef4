// SPDX-License-Identifier: Apache-2.0
#include "allocator/heap_pool.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "allocator/page_source.h"
#include "allocator/segment_backing.h"
#include "allocator/testing/plain_segment.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

class NoBacking : public SegmentBacking {
 public:
  absl::Status ReservePayload(uint64_t, uint64_t) override { return absl::OkStatus(); }
  absl::Status ReserveArea(uint64_t, uint64_t) override { return absl::OkStatus(); }
};

TEST(HeapPoolTest, AForkedChildExitsThoughAnotherThreadWasLookingAtTheHeaps) {
  PlainSegmentMemory memory(1 << 20);
  NoBacking backing;
  std::vector<std::byte> payload(1 << 20);
  PageSource source(memory.view(), payload.data(), backing, /*member=*/1);
  const auto pool = std::make_shared<HeapPool>(
      source, LocalHeapLimits{.retained_bytes = 1 << 16, .rotation_bytes = 1 << 14});
  LocalHeap& heap = pool->ThisThreads();
  ProcessSignal begins;
  heap.lock.OwnerLock();
  std::thread other([&] {
    begins.Signal();
    pool->Trim(0, 0, /*only_idle=*/false);  // has the pool's lock, and waits for the heap's
  });
  EXPECT_TRUE(begins.Wait());
  // Some of them while it does.
  for (int i = 0; i < 20; ++i) {
    std::fflush(nullptr);
    // Not a ChildProcess, which waits until no other thread runs.
    const pid_t child = fork();
    if (child == 0) std::exit(0);
    int status = 0;
    const bool ended = WaitFor([&] { return waitpid(child, &status, WNOHANG) == child; });
    if (!ended) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
    }
    EXPECT_TRUE(ended && WIFEXITED(status) && WEXITSTATUS(status) == 0) << i;
    if (HasFailure()) break;
  }
  heap.lock.OwnerUnlock();
  other.join();
}

}  // namespace
}  // namespace handoff

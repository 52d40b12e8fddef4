// SPDX-License-Identifier: Apache-2.0
#include "allocator/heap_pool.h"

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
  ASSERT_TRUE(begins.Wait());
  // Some of them while it does.
  for (int i = 0; i < 20; ++i) {
    std::fflush(nullptr);
    ChildProcess child = ChildProcess::Start([]() -> int { std::exit(0); });
    EXPECT_EQ(child.Wait(), ChildExit::Code(0));
    if (HasFailure()) break;
  }
  heap.lock.OwnerUnlock();
  other.join();
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_HEAP_POOL_H_
#define HANDOFF_ALLOCATOR_HEAP_POOL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "allocator/local_heap.h"
#include "base/fork_guard.h"

namespace handoff {

// The heaps of one segment in this process: one for each thread that has allocated. When a thread
// ends, its heap waits for the next new thread, with all it owns.
class HeapPool : public std::enable_shared_from_this<HeapPool> {
 public:
  // `source` must outlive every use; after Close() nothing is used any more.
  HeapPool(PageSource& source, const LocalHeapLimits& limits);

  // The heap of the calling thread.
  LocalHeap& ThisThreads() {
    LocalHeap* heap = Known();
    return __builtin_expect(heap != nullptr, 1) ? *heap : Find();
  }
  // The same without a call, for the shortest of paths: null if it must be looked for.
  LocalHeap* Known() const {
    const LastUsed& last = last_used[serial_ % kLastUsedCount];
    return __builtin_expect(last.serial == serial_, 1) ? last.heap : nullptr;
  }

  // Gives back wholly free spans of all heaps, of each down to `keep_bytes`. Heaps that have
  // allocated since the last call with `only_idle` are left alone. Any thread that holds no heap's
  // lock.
  uint64_t Trim(uint64_t keep_bytes, size_t look_at, bool only_idle);

  // From here on every allocation goes by OwnerLock(). Any thread that holds no heap's lock.
  void KeepSlow();

 private:
  friend class ThreadHeaps;
  struct LastUsed {
    uint64_t serial = 0;
    LocalHeap* heap = nullptr;
  };
  // A thread may allocate from some segments and tables in turn.
  static constexpr size_t kLastUsedCount = 8;
  static constinit thread_local std::array<LastUsed, kLastUsedCount> last_used;

  LocalHeap& Find();
  LocalHeap& FindLast();
  LocalHeap* Take();
  // In a forked child nothing: another thread of the parent may have had the lock.
  void Return(LocalHeap* heap);
  void Remember(LocalHeap* heap) const { last_used[serial_ % kLastUsedCount] = {serial_, heap}; }

  PageSource& source_;
  const LocalHeapLimits limits_;
  const uint64_t serial_;  // of this pool in the process, never used again
  const uint32_t fork_generation_ = ForkGeneration();
  absl::Mutex mutex_;  // before any heap's lock
  std::vector<std::unique_ptr<LocalHeap>> heaps_ ABSL_GUARDED_BY(mutex_);
  std::vector<LocalHeap*> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_HEAP_POOL_H_

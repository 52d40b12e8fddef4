// SPDX-License-Identifier: Apache-2.0
#include "allocator/heap_pool.h"

#include <atomic>

namespace handoff {

// The heaps that the calling thread has, of all segments; its destructor runs when the thread ends.
class ThreadHeaps {
 public:
  ~ThreadHeaps() {
    HeapPool::last_used = {};
    for (const Owned& owned : owned_) {
      if (const std::shared_ptr<HeapPool> pool = owned.pool.lock()) pool->Return(owned.heap);
    }
  }

  LocalHeap* Find(uint64_t serial) const {
    for (const Owned& owned : owned_) {
      if (owned.serial == serial) return owned.heap;
    }
    return nullptr;
  }

  void Add(uint64_t serial, const std::shared_ptr<HeapPool>& pool, LocalHeap* heap) {
    std::erase_if(owned_, [](const Owned& owned) { return owned.pool.expired(); });
    owned_.push_back({serial, pool, heap});
  }

 private:
  struct Owned {
    uint64_t serial;
    std::weak_ptr<HeapPool> pool;
    LocalHeap* heap;
  };
  std::vector<Owned> owned_;
};

namespace {

thread_local ThreadHeaps thread_heaps;

uint64_t NextSerial() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

constinit thread_local HeapPool::LastUsed HeapPool::last_used;

HeapPool::HeapPool(PageSource& source, const LocalHeapLimits& limits)
    : source_(source), limits_(limits), serial_(NextSerial()) {}

LocalHeap& HeapPool::Find() {
  LocalHeap* heap = thread_heaps.Find(serial_);
  if (heap == nullptr) {
    heap = Take();
    thread_heaps.Add(serial_, shared_from_this(), heap);
  }
  last_used = {serial_, heap};
  return *heap;
}

LocalHeap* HeapPool::Take() {
  absl::MutexLock lock(&mutex_);
  if (!idle_.empty()) {
    LocalHeap* heap = idle_.back();
    idle_.pop_back();
    return heap;
  }
  return heaps_.emplace_back(Entry{std::make_unique<LocalHeap>(source_, limits_), 0}).heap.get();
}

void HeapPool::Return(LocalHeap* heap) {
  absl::MutexLock lock(&mutex_);
  idle_.push_back(heap);
}

uint64_t HeapPool::Trim(uint64_t keep_bytes, size_t look_at, bool only_idle) {
  uint64_t given_back = 0;
  absl::MutexLock lock(&mutex_);
  for (Entry& entry : heaps_) {
    if (only_idle) {
      const uint64_t allocations = entry.heap->allocations();
      const bool busy = allocations != entry.allocations_seen;
      entry.allocations_seen = allocations;
      if (busy) continue;
    }
    entry.heap->lock.OtherLock();
    given_back += entry.heap->Trim(keep_bytes, look_at);
    entry.heap->lock.OtherUnlock();
  }
  return given_back;
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/heap_pool.h"

#include <atomic>

namespace handoff {

namespace {

// Other objects of an ending thread may be destroyed after its ThreadHeaps, and release or even
// allocate blocks: static objects do when the program ends. For them the thread takes heaps again,
// and keeps them. No destructors here.
constinit thread_local bool thread_ends = false;

}  // namespace

// The heaps that the calling thread has, of all segments; its destructor runs when the thread ends.
class ThreadHeaps {
 public:
  ~ThreadHeaps() {
    HeapPool::last_used = {};
    thread_ends = true;
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

constexpr size_t kMostLastHeaps = 8;

uint64_t NextSerial() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

constinit thread_local std::array<HeapPool::LastUsed, HeapPool::kLastUsedCount> HeapPool::last_used;

HeapPool::HeapPool(PageSource& source, const LocalHeapLimits& limits)
    : source_(source), limits_(limits), serial_(NextSerial()) {}

LocalHeap& HeapPool::Find() {
  if (thread_ends) return FindLast();
  LocalHeap* heap = thread_heaps.Find(serial_);
  if (heap == nullptr) {
    heap = Take();
    thread_heaps.Add(serial_, shared_from_this(), heap);
  }
  Remember(heap);
  return *heap;
}

LocalHeap& HeapPool::FindLast() {
  static constinit thread_local std::array<LastUsed, kMostLastHeaps> last_heaps;
  static constinit thread_local size_t oldest = 0;
  for (const LastUsed& last : last_heaps) {
    if (last.serial == serial_) {
      Remember(last.heap);
      return *last.heap;
    }
  }
  LocalHeap* heap = Take();
  Remember(heap);
  // The heap that is forgotten here still belongs to its pool, but nobody allocates from it any
  // more.
  last_heaps[oldest++ % kMostLastHeaps] = {serial_, heap};
  return *heap;
}

LocalHeap* HeapPool::Take() {
  absl::MutexLock lock(&mutex_);
  if (!idle_.empty()) {
    LocalHeap* heap = idle_.back();
    idle_.pop_back();
    return heap;
  }
  const size_t number = heaps_.size() + 1;
  return heaps_
      .emplace_back(std::make_unique<LocalHeap>(
          source_, limits_, static_cast<uint8_t>(number <= kLastHeapNumber ? number : 0)))
      .get();
}

void HeapPool::Return(LocalHeap* heap) {
  if (ForkGeneration() != fork_generation_) return;
  absl::MutexLock lock(&mutex_);
  idle_.push_back(heap);
}

void HeapPool::KeepSlow() {
  absl::MutexLock lock(&mutex_);
  for (const std::unique_ptr<LocalHeap>& heap : heaps_) heap->lock.KeepOwnerSlow();
}

uint64_t HeapPool::Trim(uint64_t keep_bytes, size_t look_at, bool only_idle) {
  uint64_t given_back = 0;
  absl::MutexLock lock(&mutex_);
  for (const std::unique_ptr<LocalHeap>& heap : heaps_) {
    if (only_idle && heap->WasUsed()) continue;
    heap->lock.OtherLock();
    given_back += heap->Trim(keep_bytes, look_at);
    heap->lock.OtherUnlock();
  }
  return given_back;
}

}  // namespace handoff

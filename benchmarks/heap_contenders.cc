// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/heap_contenders.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "allocator/block.h"
#include "allocator/hold.h"
#include "base/cache_line.h"
#include "base/check.h"
#include "base/sync.h"
#include "benchmarks/heaps.h"

namespace handoff {

namespace {

// Each side's part, for a heap that both sides have.
template <class Heap>
Burst Turns(std::shared_ptr<Heap> heap, Side side, AtWork who, size_t size_bytes) {
  return [heap, idle = side == Side::kB && who == AtWork::kOne, size_bytes](uint64_t messages,
                                                                            std::vector<double>&) {
    if (idle) return;
    Heap& mine = *heap;
    for (uint64_t i = 0; i < messages; ++i) {
      auto piece = mine.Allocate(size_bytes);
      asm volatile("" : : "g"(&piece) : "memory");
      mine.Release(piece);
    }
  };
}

std::string NameOf(const char* heap, AtWork who) {
  return absl::StrCat(heap, who == AtWork::kOne ? ", one process" : ", two processes");
}

template <class Heap>
Contender BoostTurns(const char* name, AtWork who, size_t size_bytes, uint64_t segment_bytes) {
  auto heap = std::make_shared<Heap>(segment_bytes);
  return {.name = NameOf(name, who), .open = [heap, who, size_bytes](Side side) -> Burst {
            return Turns(heap, side, who, size_bytes);
          }};
}

// A ring between two processes: no more than is needed to hand something on.
template <class T>
class PlainRing {
 public:
  static constexpr uint64_t kMostEntries = 1024;

  // In shared memory. At most `entries` are under way.
  static std::shared_ptr<PlainRing> Map(uint64_t entries) {
    void* bytes =
        mmap(nullptr, sizeof(PlainRing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HANDOFF_CHECK(bytes != MAP_FAILED);
    return {new (bytes) PlainRing(entries), [](PlainRing* ring) { munmap(ring, sizeof(*ring)); }};
  }

  void Push(const T& value) {
    while (tail_ - seen_head_ == entries_) {
      seen_head_ = head_.load(std::memory_order_acquire);
      if (tail_ - seen_head_ == entries_) RealSync::Pause();
    }
    values_[tail_ % kMostEntries] = value;
    published_.store(++tail_, std::memory_order_release);
  }
  // What Pop() will give after `ahead` others, if that is known to be there; else null.
  const T* Peek(uint64_t ahead) const {
    const uint64_t index = head_.load(std::memory_order_relaxed) + ahead;
    return index < seen_tail_ ? &values_[index % kMostEntries] : nullptr;
  }
  T Pop() {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    while (head == seen_tail_) {
      seen_tail_ = published_.load(std::memory_order_acquire);
      if (head == seen_tail_) RealSync::Pause();
    }
    const T value = values_[head % kMostEntries];
    head_.store(head + 1, std::memory_order_release);
    return value;
  }

 private:
  explicit PlainRing(uint64_t entries) : entries_(entries) {}

  const uint64_t entries_;
  alignas(kCacheLineSize) uint64_t tail_ = 0;  // the producer's
  uint64_t seen_head_ = 0;
  alignas(kCacheLineSize) std::atomic<uint64_t> published_{0};
  alignas(kCacheLineSize) std::atomic<uint64_t> head_{0};
  alignas(kCacheLineSize) uint64_t seen_tail_ = 0;  // the consumer's
  alignas(kCacheLineSize) std::array<T, kMostEntries> values_;
};

uint64_t EntriesFor(size_t size_bytes, uint64_t segment_bytes) {
  return std::clamp<uint64_t>(segment_bytes / 4 / size_bytes, 1, PlainRing<int>::kMostEntries);
}

// The first burst is not measured: with it go as many more messages as bring all memory into use
// and into rotation, so that the next ones find things as they stay.
class WarmUp {
 public:
  uint64_t More(uint64_t messages) { return messages + std::exchange(more_, 0); }

 private:
  uint64_t more_ = 8 * PlainRing<int>::kMostEntries;
};

template <class Heap>
Contender BoostPair(const char* name, size_t size_bytes, uint64_t segment_bytes) {
  auto heap = std::make_shared<Heap>(segment_bytes);
  auto ring = PlainRing<void*>::Map(EntriesFor(size_bytes, segment_bytes));
  return {.name = name, .open = [heap, ring, size_bytes](Side side) -> Burst {
            if (side == Side::kA) {
              return [heap, ring, size_bytes, warm_up = WarmUp()](uint64_t messages,
                                                                  std::vector<double>&) mutable {
                for (uint64_t i = warm_up.More(messages); i > 0; --i) {
                  ring->Push(heap->Allocate(size_bytes));
                }
              };
            }
            return
                [heap, ring, warm_up = WarmUp()](uint64_t messages, std::vector<double>&) mutable {
                  for (uint64_t i = warm_up.More(messages); i > 0; --i) heap->Release(ring->Pop());
                };
          }};
}

// What names a block on its way.
struct Handle {
  uint64_t generation;
  BlockId id;
};

}  // namespace

Contender SegmentTurns(AtWork who, size_t size_bytes, uint64_t segment_bytes) {
  const std::string session = BenchmarkSession();
  return {.name = NameOf("segment", who), .open = [=](Side side) -> Burst {
            return Turns(std::make_shared<SegmentHeap>(session, segment_bytes), side, who,
                         size_bytes);
          }};
}
Contender BestFitTurns(AtWork who, size_t size_bytes, uint64_t segment_bytes) {
  return BoostTurns<BestFitHeap>("rbtree_best_fit", who, size_bytes, segment_bytes);
}
Contender SeqFitTurns(AtWork who, size_t size_bytes, uint64_t segment_bytes) {
  return BoostTurns<SeqFitHeap>("simple_seq_fit", who, size_bytes, segment_bytes);
}
Contender MallocTurns(AtWork who, size_t size_bytes) {
  return {.name = NameOf("malloc", who), .open = [who, size_bytes](Side side) -> Burst {
            return Turns(std::make_shared<MallocHeap>(), side, who, size_bytes);
          }};
}

Contender SegmentPair(size_t size_bytes, uint64_t segment_bytes) {
  const std::string session = BenchmarkSession();
  auto ring = PlainRing<Handle>::Map(EntriesFor(size_bytes, segment_bytes));
  // The slots of A and B, before the first burst.
  auto slots = PlainRing<uint32_t>::Map(1);
  auto back = PlainRing<uint32_t>::Map(1);
  return {.name = "segment", .open = [=](Side side) -> Burst {
            auto heap = std::make_shared<SegmentHeap>(session, segment_bytes);
            (side == Side::kA ? slots : back)->Push(heap->segment().self().slot);
            auto other = std::make_shared<std::optional<uint32_t>>();
            if (side == Side::kA) {
              return [=, warm_up = WarmUp()](uint64_t messages, std::vector<double>&) mutable {
                if (!other->has_value()) *other = back->Pop();
                const uint32_t receiver = **other;
                Segment& segment = heap->segment();
                for (uint64_t i = warm_up.More(messages); i > 0; --i) {
                  const Block block = heap->Allocate(size_bytes);
                  ring->Push({segment.Mark(block, receiver).generation(), block.id});
                }
              };
            }
            return [=, warm_up = WarmUp()](uint64_t messages, std::vector<double>&) mutable {
              if (!other->has_value()) *other = slots->Pop();
              Segment& segment = heap->segment();
              const HoldWord sent = HoldWord::Of(HoldState::kSent, 0, **other, segment.self().slot);
              for (uint64_t i = warm_up.More(messages); i > 0; --i) {
                // As the receiver of a carrier does.
                constexpr uint64_t kFetchedAhead = 8;
                if (const Handle* next = ring->Peek(kFetchedAhead); next != nullptr) {
                  segment.PrefetchHold(next->id);
                }
                const Handle handle = ring->Pop();
                Block block;
                HANDOFF_CHECK(
                    segment.AcceptFrom(sent, handle.id, handle.generation, size_bytes, &block))
                    << handle.id;
                segment.Release(block);
              }
            };
          }};
}
Contender BestFitPair(size_t size_bytes, uint64_t segment_bytes) {
  return BoostPair<BestFitHeap>("rbtree_best_fit", size_bytes, segment_bytes);
}
Contender SeqFitPair(size_t size_bytes, uint64_t segment_bytes) {
  return BoostPair<SeqFitHeap>("simple_seq_fit", size_bytes, segment_bytes);
}

}  // namespace handoff

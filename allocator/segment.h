// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_SEGMENT_H_
#define HANDOFF_ALLOCATOR_SEGMENT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allocator/block.h"
#include "allocator/heap_pool.h"
#include "allocator/page_source.h"
#include "allocator/reclaim.h"
#include "allocator/segment_backing.h"
#include "allocator/segment_usage.h"
#include "allocator/segment_view.h"
#include "base/clock.h"
#include "base/crash_point.h"
#include "base/fork_guard.h"
#include "base/prefetch.h"
#include "control_queue/member_table.h"

namespace handoff {

// What a segment is made of, in the address space of this process. All of it outlives the Segment,
// but for `backing`.
struct SegmentParts {
  uint32_t id = 0;
  uint32_t row = 0;              // of the session's segment table: what handles name
  std::string name;              // for errors
  std::span<std::byte> payload;  // mapped at a multiple of kMaxAlignment
  std::span<std::byte> area;     // SegmentAreaBytes(payload.size())
  std::unique_ptr<SegmentBacking> backing;
  MemberId self;
  const MemberTable<RealSync>* members = nullptr;
  // Where not zero, this session cannot use membarrier: frequent sides fence. Null: it can.
  const std::atomic<uint32_t>* fences = nullptr;
};

enum class [[nodiscard]] AllocateResult{
    kOk,
    kFull,        // no room now
    kTooLarge,    // never: larger than the segment, or alignment not a power of two up to
                  // kMaxAlignment
    kFileSystem,  // the file system of the segment is full
    kUnusable,    // this process is no member, or none any more
};

enum class [[nodiscard]] ShrinkResult{
    kOk,
    kShared,  // other references exist: nothing was changed
    kLarger,  // the new size is larger than the block
};

// One segment, as a member uses it: a heap of blocks in shared memory. Every block in use has one
// owner, named by its hold (hold.h); this class makes the moves of the calling member.
//
// Any thread may call any function; one block is for one thread at a time. Threads allocate from
// spans of their own, without a lock between them. Nothing here may be called in a forked child.
class Segment {
 public:
  // Starts to use a segment, or a new one, whose area is all zeros or has been used by others.
  // kInvalidArgument, kFailedPrecondition: sizes of payload and area do not fit, or the area is of
  // another payload.
  static absl::StatusOr<std::unique_ptr<Segment>> Attach(SegmentParts parts);

  // Writes what others read when they attach, into a new area. kResourceExhausted: the file system
  // is full.
  static absl::Status Initialize(std::span<std::byte> area, uint64_t payload_bytes,
                                 SegmentBacking& backing);

  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  uint32_t id() const { return id_; }
  uint32_t row() const { return row_; }
  MemberId self() const { return self_; }
  const std::string& name() const { return name_; }
  uint64_t size_bytes() const { return view_.page_count() * kPageBytes; }
  const SegmentView<RealSync>& view() const { return view_; }
  std::byte* payload() const { return payload_; }
  // Whether this is the copy that a forked child has: no move may be made through it.
  bool InForkedChild() const { return ForkGeneration() != fork_generation_; }

  // A block of at least `size_bytes` (not zero), at a multiple of `alignment` from the start of the
  // payload and in every mapping: a power of two up to kMaxAlignment; less than 64 means 64. Never
  // waits. Failed, it has changed nothing.
  AllocateResult TryAllocate(uint64_t size_bytes, uint64_t alignment, Block* out) {
    if (__builtin_expect(size_bytes - 1 < kMaxSmallBytes && alignment <= kBlockAlignment, 1)) {
      LocalHeap* heap = heaps_->Known();
      if (__builtin_expect(heap != nullptr && heap->lock.OwnerTryLock(), 1)) {
        const bool done = heap->AllocateKnown(SmallClassFor(size_bytes), out);
        heap->lock.OwnerUnlockQuickly();
        if (__builtin_expect(done, 1)) return AllocateResult::kOk;
      }
      return AllocateUnknown(size_bytes, alignment, out);
    }
    return TryAllocateLarge(size_bytes, alignment, out);
  }

  // The same, but waits for memory until the deadline; an expired one means not to wait. Woken by
  // the next release. kInvalidArgument: never possible, with both numbers. kResourceExhausted: no
  // room, with what was asked, what is free, the largest free block and who holds most; or the file
  // system. kCancelled: `interrupted` became true. kFailedPrecondition: after Stop().
  absl::StatusOr<Block> Allocate(uint64_t size_bytes, uint64_t alignment, const Deadline& deadline,
                                 const std::atomic<bool>* interrupted = nullptr);

  // Gives up a block that this member holds. Wakes those who wait for memory.
  void Release(const Block& block) {
    // Only this thread makes a span its own or gives up one of its own, so what it finds in the
    // tables is so. Others may give a span back for it if that is wholly free; it has our block.
    const uint16_t tag = source_.TagOf(block.id / kWordsPerPage);
    if (tag != 0) return ReleaseTagged(tag, block);
    // A span of another process is in no heap of this one.
    ReleaseForeign(block);
  }

  // Makes a held block smaller in place; pages that it no longer needs go back to the segment.
  // `size_bytes` is not zero.
  ShrinkResult Shrink(Block* block, uint64_t size_bytes);

  // held -> sent(self -> receiver): from here on the block belongs to the way to `receiver`.
  // Returns the hold under which it is published.
  HoldWord Mark(const Block& block, uint32_t receiver) {
    return HoldMoves<RealSync>::Mark(HoldOf(block), block.hold, receiver);
  }
  // held -> posted(self -> channel).
  HoldWord Post(const Block& block, uint32_t channel) {
    return HoldMoves<RealSync>::Post(HoldOf(block), block.hold, channel);
  }
  // What a handle names, if it was sent to this member and not taken yet; else nothing, whatever
  // the numbers: a stale or forged handle. `used_bytes` must not exceed the block.
  std::optional<Block> Accept(BlockId id, uint64_t generation, uint64_t used_bytes);
  // The same for who can guess the sender, so that the line of the hold is fetched once. False: the
  // guess was wrong, or Accept() will fail as well.
  // `sent` is sent(sender -> self) of generation 0.
  [[gnu::always_inline]] bool AcceptFrom(HoldWord sent, BlockId id, uint64_t generation,
                                         uint64_t used_bytes, Block* out) {
    const PageWord page = view_.PageOf(id);
    HoldMoves<RealSync>::Word* hold;
    if (__builtin_expect(page.IsBelowClass(kSmallClassCount), 1)) {
      hold = &view_.small_hold(id);
    } else {
      hold = view_.FindHold(id, page);
      if (hold == nullptr) return false;
    }
    const HoldWord held = held_.WithGeneration(generation);
    sent = sent.WithGeneration(generation);
    if (__builtin_expect(!HoldMoves<RealSync>::Swap(*hold, sent, held), 0)) return false;
    HANDOFF_CRASH_POINT("segment.accept.after_hold");
    // Now that the block is ours its span stays as it is.
    BlockLocation<RealSync> location;
    if (__builtin_expect(view_.LoadPage(id / kWordsPerPage) != page ||
                             !view_.FindPlace(id, page, &location) ||
                             used_bytes > location.size_bytes,
                         0)) {
      return Taken(id, *hold, held, used_bytes, out);
    }
    out->data = payload_ + location.offset_bytes;
    out->size_bytes = location.size_bytes;
    out->hold = held;
    out->id = id;
    out->span = location.span;
    return true;
  }
  std::optional<Block> AcceptPosted(BlockId id, uint64_t generation, uint32_t channel,
                                    uint64_t used_bytes);
  // Begins to fetch the hold of a block that is soon to be accepted, however wrong the id.
  void PrefetchHold(BlockId id) const {
    if (id % kWordsPerPage == 0) {
      // Most likely large. The word of its page, which lies far from all others, is fetched too
      // instead of being waited for here.
      const uint32_t page = id / kWordsPerPage;
      if (page >= view_.page_count()) return;
      __builtin_prefetch(&view_.page_word(page));
      PrefetchForWrite(&view_.large_hold(page));
      return;
    }
    if (auto* const hold = view_.FindHold(id, view_.PageOf(id)); hold != nullptr) {
      PrefetchForWrite(hold);
    }
  }
  // Takes back what this member has sent and nobody has accepted; nothing when somebody has.
  std::optional<Block> TakeBack(BlockId id, uint64_t generation);

  // The hold of a block however wrong the id: null when there can be none. For those who free words
  // of others.
  HoldMoves<RealSync>::Word* Find(BlockId id) const {
    const auto location = view_.Locate(id);
    return location.has_value() ? location->hold : nullptr;
  }
  // After the hold of a block was freed by a locked operation of this member: gives back its span
  // if that was the last one of it, wakes those who wait.
  void LookAfterFreed(BlockId id);

  // Gives back what this member does not need now, and frees what dead members have left ownerless.
  // Called regularly by one thread of the process.
  void Tick();
  // Gives back all wholly free spans of this process.
  void Trim();

  // No allocation of this member succeeds any more: it has left, or was declared dead, and what it
  // owned may be others' soon. Any thread; returns when none is under way.
  void Stop();

  // Takes back what a dead member had here; its row is dead. Any thread; may be done by several at
  // once.
  bool Reclaim(MemberId victim, ReclaimCount* count);

  // Wakes those who wait for memory.
  void SignalMemory();

  // What to do before an allocation fails: look for members that have died, and reclaim them. True
  // if there were any.
  void set_reclaim_dead(std::function<bool()> reclaim_dead) {
    reclaim_dead_ = std::move(reclaim_dead);
  }

  // The size of the last allocation of this process that found no room, since this was asked last;
  // 0: none.
  uint64_t TakeShortage() { return shortage_bytes_.exchange(0, std::memory_order_relaxed); }

  SegmentUsage Usage() const { return ScanUsage(view_); }

 private:
  Segment(SegmentParts parts, const LocalHeapLimits& limits);

  HoldMoves<RealSync>::Word& HoldOf(const Block& block) const {
    return view_.HoldOf(block.id, block.span);
  }
  // The block whose hold a locked operation has just made ours. False: there is no such block, and
  // the hold is free again.
  bool Taken(BlockId id, HoldMoves<RealSync>::Word& hold, HoldWord held, uint64_t used_bytes,
             Block* out);
  std::optional<Block> Taken(BlockId id, HoldMoves<RealSync>::Word& hold,
                             std::optional<HoldWord> held, uint64_t used_bytes) {
    Block block;
    if (!held.has_value() || !Taken(id, hold, *held, used_bytes, &block)) return std::nullopt;
    return block;
  }
  bool IsPossible(uint64_t size_bytes, uint64_t alignment) const;
  AllocateResult TryAllocateLarge(uint64_t size_bytes, uint64_t alignment, Block* out);
  // After the short ways have found nothing.
  AllocateResult AllocateUnknown(uint64_t size_bytes, uint64_t alignment, Block* out);
  AllocateResult AllocateSlowly(uint64_t size_bytes, uint64_t alignment, bool reclaim, Block* out,
                                absl::Status* why);
  AllocateResult AllocateOnce(uint64_t size_bytes, uint64_t alignment, Block* out,
                              absl::Status* why);
  absl::Status Shortage(uint64_t size_bytes, const absl::Status& why) const;
  // Of a span that a heap of this process has, or has had.
  [[gnu::noinline]] void ReleaseTagged(uint16_t tag, const Block& block) {
    LocalHeap* const heap = heaps_->Known();
    if (__builtin_expect(heap != nullptr && tag >> 8 == heap->number() && heap->lock.OwnerTryLock(),
                         1)) {
      const uint32_t list = tag & 0xFF;
      bool done = true;
      if (__builtin_expect(list < kSmallClassCount, 1)) {
        heap->ReleaseSmall(list, block);
      } else {
        done = heap->ReleaseLarge(list - kSmallClassCount, block);
      }
      heap->lock.OwnerUnlockQuickly();
      if (__builtin_expect(done, 1)) return OwnMemoryCameBack();
    }
    if (!ReleaseOwn(source_.For(block.id / kWordsPerPage), block)) ReleaseForeign(block);
  }
  void ReleaseForeign(const Block& block) {
    HoldMoves<RealSync>::Release(HoldOf(block), block.hold);
    HANDOFF_CRASH_POINT("segment.release.after_free");
    FrequentFence();
    LookAfter(block.span.head_page());
  }
  // False: it is no span of the calling thread's heap.
  bool ReleaseOwn(LocalSpan* span, const Block& block);
  void OwnMemoryCameBack() {
    FrequentFence();
    if (__builtin_expect(view_.header().waiters.load(std::memory_order_relaxed) != 0, 0)) {
      MemoryCameBack(true);
    }
  }
  // After a block of the span was freed, and a fence.
  void LookAfter(uint32_t head_page) {
    // Pairs with the barrier of the reclaimer that made the page ownerless: one of us sees the
    // other.
    const PageWord head = view_.LoadPage(head_page);
    if (__builtin_expect(head.state() == PageState::kOwnerless ||
                             view_.header().waiters.load(std::memory_order_relaxed) != 0,
                         0)) {
      LookAfter(head_page, head);
    }
  }
  void LookAfter(uint32_t head_page, PageWord head);
  void MemoryCameBack(bool own_span);
  void StopWaiting();
  // Between the store of a frequent side and its look at what a rare side stores.
  void FrequentFence() const {
    if (__builtin_expect(fences_->load(std::memory_order_relaxed) != 0, 0)) {
      RealSync::FullFence();
    } else {
      RealSync::CompilerFence();
    }
  }

  const uint32_t id_;
  const uint32_t row_;
  const std::string name_;
  const SegmentView<RealSync> view_;
  std::byte* const payload_;
  const std::unique_ptr<SegmentBacking> backing_;
  const MemberId self_;
  const HoldWord held_;  // held(self) of generation 0
  const MemberTable<RealSync>& members_;
  const std::atomic<uint32_t>* const fences_;
  std::function<bool()> reclaim_dead_;
  // Set before the heaps' locks are taken and given back; looked at with such a lock.
  std::atomic<bool> stopped_{false};
  std::atomic<uint64_t> shortage_bytes_{0};  // for people
  PageSource source_;
  std::shared_ptr<HeapPool> heaps_;
  const uint32_t fork_generation_ = ForkGeneration();
  absl::Mutex waiting_mutex_;
  // All of them share the member's byte in the segment's header.
  int waiting_threads_ ABSL_GUARDED_BY(waiting_mutex_) = 0;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_SEGMENT_H_

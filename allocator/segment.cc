// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/barrier.h"
#include "base/byte_size.h"
#include "base/check.h"
#include "base/futex.h"

namespace handoff {

namespace {

// An idle heap keeps this part of the segment; a tick looks at so many of its spans.
constexpr uint64_t kIdleRetainedPart = 64;
constexpr size_t kSpansATick = 256;
constexpr absl::Duration kWaitSlice = absl::Milliseconds(50);

constinit std::atomic<uint32_t> no_fences{0};

LocalHeapLimits LimitsFor(uint64_t size_bytes) {
  return {.retained_bytes = std::min(size_bytes / 4, uint64_t{512} << 20),
          .rotation_bytes = std::min(size_bytes / 32, uint64_t{16} << 20)};
}

}  // namespace

absl::Status Segment::Initialize(std::span<std::byte> area, uint64_t payload_bytes,
                                 SegmentBacking& backing) {
  absl::Status status = backing.ReserveArea(0, kPageBytes);
  if (!status.ok()) return status;
  auto* header = reinterpret_cast<SegmentHeader<RealSync>*>(area.data());
  header->size_bytes = payload_bytes;
  header->page_count = payload_bytes / kPageBytes;
  header->magic = kSegmentMagic;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Segment>> Segment::Attach(SegmentParts parts) {
  const uint64_t bytes = parts.payload.size();
  if (bytes == 0 || bytes % kPageBytes != 0 || bytes > kMaxSegmentBytes ||
      parts.area.size() < SegmentAreaBytes(bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "segment ", parts.name, ": payload of ", bytes, " bytes (a multiple of ", kPageBytes,
        ", at most ", kMaxSegmentBytes, ") with an area of ", parts.area.size(), " bytes"));
  }
  const auto* header = reinterpret_cast<const SegmentHeader<RealSync>*>(parts.area.data());
  if (header->magic != kSegmentMagic || header->size_bytes != bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("segment ", parts.name, ": its tables are those of ", header->size_bytes,
                     " bytes, its payload has ", bytes));
  }
  const LocalHeapLimits limits = LimitsFor(bytes);
  return std::unique_ptr<Segment>(new Segment(std::move(parts), limits));
}

Segment::Segment(SegmentParts parts, const LocalHeapLimits& limits)
    : id_(parts.id),
      row_(parts.row),
      name_(std::move(parts.name)),
      view_(parts.area.data(), parts.payload.size() / kPageBytes),
      payload_(parts.payload.data()),
      backing_(std::move(parts.backing)),
      self_(parts.self),
      held_(HoldWord::Of(HoldState::kHeld, 0, self_.slot, 0)),
      members_(*parts.members),
      fences_(parts.fences != nullptr ? parts.fences : &no_fences),
      source_(view_, payload_, *backing_, self_.slot),
      heaps_(std::make_shared<HeapPool>(source_, limits)) {}

Segment::~Segment() = default;

bool Segment::IsPossible(uint64_t size_bytes, uint64_t alignment) const {
  return size_bytes > 0 && size_bytes <= this->size_bytes() && (alignment & (alignment - 1)) == 0 &&
         alignment <= kMaxAlignment;
}

AllocateResult Segment::TryAllocateLarge(uint64_t size_bytes, uint64_t alignment, Block* out) {
  LocalHeap* heap = heaps_->Known();
  if (__builtin_expect(heap != nullptr && heap->lock.OwnerTryLock(), 1)) {
    bool done = false;
    if (size_bytes - 1 < this->size_bytes() && size_bytes > kMaxSmallBytes &&
        alignment <= kPageBytes && (alignment & (alignment - 1)) == 0) {
      const auto pages = static_cast<uint32_t>((size_bytes + kPageBytes - 1) / kPageBytes);
      done = heap->AllocateKnownLarge(pages, size_bytes, out);
    }
    heap->lock.OwnerUnlockQuickly();
    if (__builtin_expect(done, 1)) return AllocateResult::kOk;
  }
  return AllocateUnknown(size_bytes, alignment, out);
}

AllocateResult Segment::AllocateUnknown(uint64_t size_bytes, uint64_t alignment, Block* out) {
  const uint64_t aligned = std::max<uint64_t>(alignment, kBlockAlignment);
  if (!IsPossible(size_bytes, aligned)) return AllocateResult::kTooLarge;
  absl::Status why;
  const AllocateResult result = AllocateOnce(size_bytes, aligned, out, &why);
  if (result == AllocateResult::kOk || result == AllocateResult::kUnusable) return result;
  return AllocateSlowly(size_bytes, aligned, /*reclaim=*/true, out, &why);
}

AllocateResult Segment::AllocateOnce(uint64_t size_bytes, uint64_t alignment, Block* out,
                                     absl::Status* why) {
  LocalHeap& heap = heaps_->ThisThreads();
  *why = absl::OkStatus();
  heap.lock.OwnerLock();
  const bool stopped = stopped_.load(std::memory_order_acquire);
  const bool done = !stopped && heap.Allocate(size_bytes, alignment, out, why);
  heap.lock.OwnerUnlock();
  if (done) return AllocateResult::kOk;
  if (stopped) return AllocateResult::kUnusable;
  return why->ok() ? AllocateResult::kFull : AllocateResult::kFileSystem;
}

AllocateResult Segment::AllocateSlowly(uint64_t size_bytes, uint64_t alignment, bool reclaim,
                                       Block* out, absl::Status* why) {
  if (stopped_.load(std::memory_order_acquire)) return AllocateResult::kUnusable;
  // What this process keeps, first; then what nobody owns; then what the dead had.
  Trim();
  AllocateResult result = AllocateOnce(size_bytes, alignment, out, why);
  if (result == AllocateResult::kOk) return result;
  SegmentReclaim<RealSync>(view_, members_).Sweep();
  if (reclaim && reclaim_dead_ != nullptr && reclaim_dead_()) Trim();
  result = AllocateOnce(size_bytes, alignment, out, why);
  if (result != AllocateResult::kOk) {
    view_.header().failed_allocations.fetch_add(1, std::memory_order_relaxed);
    shortage_bytes_.store(size_bytes, std::memory_order_relaxed);
  }
  return result;
}

absl::StatusOr<Block> Segment::Allocate(uint64_t size_bytes, uint64_t alignment,
                                        const Deadline& deadline,
                                        const std::atomic<bool>* interrupted) {
  Block block;
  const uint64_t aligned = std::max<uint64_t>(alignment, kBlockAlignment);
  if (!IsPossible(size_bytes, aligned)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "segment ", name_, ": requested ", size_bytes, " bytes aligned to ", alignment, "; it has ",
        this->size_bytes(), " bytes and aligns to powers of two up to ", kMaxAlignment));
  }
  absl::Status why;
  AllocateResult result = AllocateOnce(size_bytes, aligned, &block, &why);
  if (result == AllocateResult::kOk) return block;
  result = AllocateSlowly(size_bytes, aligned, /*reclaim=*/true, &block, &why);
  SegmentHeader<RealSync>& header = view_.header();
  bool waiting = false;
  while (result != AllocateResult::kOk && result != AllocateResult::kUnusable &&
         !deadline.expired()) {
    if (interrupted != nullptr && interrupted->load(std::memory_order_acquire)) {
      why = absl::CancelledError("interrupted while waiting for memory");
      break;
    }
    // 1. say that we wait  2. barrier  3. look again  4. sleep for a slice. Whoever releases after
    // 3 has seen 1; who was killed between its release and the wake-up costs us the rest of the
    // slice.
    {
      // Also if it was said before: a reclaimer of this slot's former member may be late.
      absl::MutexLock lock(&waiting_mutex_);
      if (!waiting) ++waiting_threads_;
      view_.Wait(self_.slot);
    }
    waiting = true;
    const uint32_t sequence = header.wake_sequence.load(std::memory_order_acquire);
    RareBarrier<RealSync>();
    result = AllocateSlowly(size_bytes, aligned, /*reclaim=*/true, &block, &why);
    if (result == AllocateResult::kOk) break;
    if (FutexWait(header.wake_sequence, sequence, deadline.Slice(kWaitSlice)) ==
        FutexResult::kInterrupted) {
      continue;
    }
  }
  if (waiting) StopWaiting();
  if (result == AllocateResult::kOk) return block;
  if (absl::IsCancelled(why)) return why;
  if (result == AllocateResult::kUnusable) {
    return absl::FailedPreconditionError(
        absl::StrCat("segment ", name_, ": this member has left, or was declared dead"));
  }
  return Shortage(size_bytes, why);
}

void Segment::StopWaiting() {
  absl::MutexLock lock(&waiting_mutex_);
  if (--waiting_threads_ == 0) view_.StopWaiting(self_.slot);
}

absl::Status Segment::Shortage(uint64_t size_bytes, const absl::Status& why) const {
  std::string text =
      absl::StrCat("segment ", name_, ": ", DescribeShortage(Usage(), size_bytes, &members_));
  if (!why.ok()) {
    const absl::string_view reason = why.message();
    absl::StrAppend(&text, "; ", reason);
  }
  return absl::ResourceExhaustedError(text);
}

bool Segment::ReleaseOwn(LocalSpan* span, const Block& block) {
  LocalHeap& heap = heaps_->ThisThreads();
  if (span == nullptr || span->heap.load(std::memory_order_relaxed) != &heap) return false;
  heap.lock.OwnerLock();
  heap.Release(span, block);
  heap.lock.OwnerUnlock();
  OwnMemoryCameBack();
  return true;
}

void Segment::LookAfterFreed(BlockId id) {
  const std::optional<BlockLocation<RealSync>> location = view_.Locate(id);
  if (location.has_value()) LookAfter(location->span.head_page());
}

void Segment::LookAfter(uint32_t head_page, PageWord head) {
  if (head.state() == PageState::kOwnerless) {
    PageMap<RealSync>::FreeOwnerless(view_, head_page, head);
  }
  if (view_.header().waiters.load(std::memory_order_relaxed) != 0) {
    MemoryCameBack(head.IsOwnedBy(self_.slot));
  }
}

void Segment::MemoryCameBack(bool own_span) {
  // Who waits may need whole pages, or another class of blocks.
  if (own_span) Trim();
  SignalMemory();
}

void Segment::SignalMemory() {
  view_.header().wake_sequence.fetch_add(1, std::memory_order_release);
  FutexWake(view_.header().wake_sequence, INT_MAX);
}

ShrinkResult Segment::Shrink(Block* block, uint64_t size_bytes) {
  const HoldWord now = HoldMoves<RealSync>::Load(HoldOf(*block));
  if (now != block->hold) return ShrinkResult::kShared;
  if (size_bytes > block->size_bytes || size_bytes == 0) return ShrinkResult::kLarger;
  const uint32_t page = block->id / kWordsPerPage;
  if (view_.LoadPage(page).size_class() != kLargeClass) return ShrinkResult::kOk;
  const uint64_t pages = (size_bytes + kPageBytes - 1) / kPageBytes;
  if (pages * kPageBytes == block->size_bytes) return ShrinkResult::kOk;
  PageMap<RealSync>::Shrink(view_, page, static_cast<uint32_t>(pages));
  block->size_bytes = pages * kPageBytes;
  FrequentFence();
  if (view_.header().waiters.load(std::memory_order_relaxed) != 0) SignalMemory();
  return ShrinkResult::kOk;
}

std::optional<Block> Segment::Accept(BlockId id, uint64_t generation, uint64_t used_bytes) {
  HoldMoves<RealSync>::Word* const hold = Find(id);
  if (hold == nullptr) return std::nullopt;
  return Taken(id, *hold, HoldMoves<RealSync>::Accept(*hold, generation, self_.slot), used_bytes);
}

std::optional<Block> Segment::AcceptPosted(BlockId id, uint64_t generation, uint32_t channel,
                                           uint64_t used_bytes) {
  HoldMoves<RealSync>::Word* const hold = Find(id);
  if (hold == nullptr) return std::nullopt;
  return Taken(id, *hold, HoldMoves<RealSync>::AcceptPosted(*hold, generation, channel, self_.slot),
               used_bytes);
}

std::optional<Block> Segment::TakeBack(BlockId id, uint64_t generation) {
  HoldMoves<RealSync>::Word* const hold = Find(id);
  if (hold == nullptr) return std::nullopt;
  return Taken(id, *hold, HoldMoves<RealSync>::TakeBack(*hold, generation, self_.slot), 0);
}

bool Segment::Taken(BlockId id, HoldMoves<RealSync>::Word& hold, HoldWord held, uint64_t used_bytes,
                    Block* out) {
  HANDOFF_CRASH_POINT("segment.accept.after_hold");
  // Now that the block is ours its span stays as it is.
  const std::optional<BlockLocation<RealSync>> location = view_.Locate(id);
  if (location.has_value() && location->hold == &hold && used_bytes <= location->size_bytes) {
    *out = {payload_ + location->offset_bytes, location->size_bytes, held, id, location->span};
    return true;
  }
  // The sender lies, or the tables are damaged. Whatever was meant, the block is not lost.
  HoldMoves<RealSync>::Release(hold, held);
  FrequentFence();
  if (location.has_value()) LookAfter(location->span.head_page());
  return false;
}

void Segment::Tick() {
  if (view_.header().waiters.load(std::memory_order_relaxed) != 0) view_.ForgetWaiters();
  if (view_.header().waiters.load(std::memory_order_relaxed) != 0) {
    if (heaps_->Trim(0, SIZE_MAX, /*only_idle=*/false) > 0) SignalMemory();
  } else {
    heaps_->Trim(size_bytes() / kIdleRetainedPart, kSpansATick, /*only_idle=*/true);
  }
  if (view_.header().ownerless.load(std::memory_order_acquire) != 0) {
    SegmentReclaim<RealSync>(view_, members_).Sweep();
  }
}

void Segment::Trim() {
  if (stopped_.load(std::memory_order_acquire)) return;
  heaps_->Trim(0, SIZE_MAX, /*only_idle=*/false);
}

void Segment::Stop() {
  stopped_.store(true, std::memory_order_release);
  heaps_->KeepSlow();
}

bool Segment::Reclaim(MemberId victim, ReclaimCount* count) {
  ReclaimCount here;
  const bool mine = SegmentReclaim<RealSync>(view_, members_).Member(victim, &here);
  view_.header().reclaimed_blocks.fetch_add(here.blocks, std::memory_order_relaxed);
  view_.header().reclaimed_bytes.fetch_add(here.bytes, std::memory_order_relaxed);
  *count += here;
  SignalMemory();
  return mine;
}

}  // namespace handoff

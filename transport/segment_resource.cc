// SPDX-License-Identifier: Apache-2.0
#include "transport/segment_resource.h"

#include <algorithm>

#include "absl/status/status.h"
#include "allocator/hold.h"
#include "allocator/hold_moves.h"
#include "allocator/segment_view.h"
#include "base/check.h"

namespace handoff {

absl::StatusOr<std::unique_ptr<SegmentResource>> SegmentResource::Open(Transport& transport,
                                                                       uint32_t segment) {
  if (absl::Status status = transport.Usable(); !status.ok()) return status;
  const absl::StatusOr<Segment*> found = transport.member_->FindSegment(segment);
  if (!found.ok()) return found.status();
  return std::unique_ptr<SegmentResource>(new SegmentResource(transport, **found));
}

void* SegmentResource::do_allocate(size_t size_bytes, size_t alignment) {
  if (transport_.InForkedChild()) throw std::bad_alloc();
  const absl::StatusOr<SegmentPin> pin = transport_.member_->PinSegment(segment_.id());
  // Another segment may have the id by now.
  if (!pin.ok() || &**pin != &segment_) throw std::bad_alloc();
  Block block;
  if (segment_.TryAllocate(std::max<size_t>(size_bytes, 1), alignment, &block) !=
      AllocateResult::kOk) {
    throw std::bad_alloc();
  }
  return block.data;
}

void SegmentResource::do_deallocate(void* data, size_t, size_t) {
  if (transport_.InForkedChild()) return;
  const std::optional<Block> block = HeldAt(data);
  HANDOFF_CHECK(block.has_value()) << "deallocate(" << data << "): not memory of segment "
                                   << segment_.name() << ", or freed before";
  segment_.Release(*block);
}

bool SegmentResource::do_is_equal(const std::pmr::memory_resource& other) const noexcept {
  const auto* resource = dynamic_cast<const SegmentResource*>(&other);
  return resource != nullptr && &resource->segment_ == &segment_;
}

std::optional<Block> SegmentResource::HeldAt(const void* data) const {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto payload = reinterpret_cast<uintptr_t>(segment_.payload());
  if (address < payload || address - payload >= segment_.size_bytes()) return std::nullopt;
  const std::optional<BlockId> id = segment_.view().IdAt(address - payload);
  if (!id.has_value()) return std::nullopt;
  const auto location = segment_.view().Locate(*id);
  if (!location.has_value()) return std::nullopt;
  Block block;
  block.id = *id;
  block.hold = HoldMoves<RealSync>::Load(*location->hold);
  block.data = segment_.payload() + location->offset_bytes;
  block.size_bytes = location->size_bytes;
  block.span = location->span;
  if (block.hold.state() != HoldState::kHeld || block.hold.holder() != segment_.self().slot) {
    return std::nullopt;
  }
  return block;
}

namespace internal {

absl::StatusOr<Message> TakeMemory(std::pmr::memory_resource* resource, const void* data,
                                   size_t capacity_bytes, size_t used_bytes) {
  const auto* of_segment = dynamic_cast<const SegmentResource*>(resource);
  if (of_segment == nullptr) {
    return absl::InvalidArgumentError("the vector's memory is not of a SegmentResource");
  }
  if (of_segment->transport_.InForkedChild()) return of_segment->transport_.Usable();
  if (capacity_bytes == 0) return Message();
  std::optional<Block> block = of_segment->HeldAt(data);
  if (!block.has_value() || block->size_bytes < capacity_bytes) {
    return absl::InvalidArgumentError(
        "the vector's memory is not a block of its SegmentResource that this process holds");
  }
  Segment& segment = of_segment->segment_;
  if (used_bytes == 0) {
    segment.Release(*block);
    return Message();
  }
  // Of a block that only this member holds, less than it has: cannot be refused.
  if (segment.Shrink(&*block, used_bytes) != ShrinkResult::kOk) {
    return absl::InternalError("the block of a vector cannot be shrunk");
  }
  return MessageAccess::Make(segment, *block, used_bytes);
}

}  // namespace internal
}  // namespace handoff

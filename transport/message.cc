// SPDX-License-Identifier: Apache-2.0
#include "transport/message.h"

#include <cstring>

#include "allocator/member.h"

namespace handoff {

void Message::ReleaseBlock() {
  size_ = 0;
  if (__builtin_expect(segment_->InForkedChild(), 0)) return;
  if (__builtin_expect(member_ != nullptr, 0)) return ReleaseReference();
  segment_->Release(block_);
}

void Message::ReleaseReference() {
  member_->Release(Reference{block_.id, reference_index_, block_.hold});
}

bool Message::CopyToOwn() {
  if (segment_->InForkedChild()) return false;
  Block copy;
  if (segment_->TryAllocate(size_, kBlockAlignment, &copy) != AllocateResult::kOk) return false;
  std::memcpy(copy.data, block_.data, size_);
  ReleaseReference();
  member_ = nullptr;
  block_ = copy;
  return true;
}

ShrinkResult Message::Shrink(size_t size_bytes) {
  if (size_bytes > size_) return ShrinkResult::kLarger;
  if (shared() && size_bytes != 0) return ShrinkResult::kShared;
  if (size_bytes == size_) return ShrinkResult::kOk;
  if (size_bytes == 0) {
    Release();
    return ShrinkResult::kOk;
  }
  if (!segment_->InForkedChild()) {
    const ShrinkResult result = segment_->Shrink(&block_, size_bytes);
    if (result != ShrinkResult::kOk) return result;
  }
  size_ = size_bytes;
  return ShrinkResult::kOk;
}

}  // namespace handoff

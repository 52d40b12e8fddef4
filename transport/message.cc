// SPDX-License-Identifier: Apache-2.0
#include "transport/message.h"

namespace handoff {

void Message::ReleaseBlock() {
  size_ = 0;
  if (__builtin_expect(segment_->InForkedChild(), 0)) return;
  segment_->Release(block_);
}

ShrinkResult Message::Shrink(size_t size_bytes) {
  if (size_bytes > size_) return ShrinkResult::kLarger;
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

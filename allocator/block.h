// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_BLOCK_H_
#define HANDOFF_ALLOCATOR_BLOCK_H_

#include <cstddef>
#include <cstdint>

#include "allocator/hold.h"
#include "allocator/segment_view.h"

namespace handoff {

// One block that the calling member holds. A plain value: whoever has it must release, send or keep
// it.
struct Block {
  std::byte* data = nullptr;
  uint64_t size_bytes = 0;  // room at `data`, at least what was asked for
  HoldWord hold;            // held(this member), with the generation of this use
  BlockId id = 0;
  BlockSpan span;
};
static_assert(sizeof(Block) == 32);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_BLOCK_H_

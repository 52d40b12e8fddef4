// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_ADDRESS_RANGE_H_
#define HANDOFF_ALLOCATOR_ADDRESS_RANGE_H_

#include <sys/mman.h>

#include <cstdint>

#include "base/byte_size.h"

namespace handoff {

// A range of addresses of this process that nothing else can take, for a file to be mapped over at
// an aligned place. Gives everything back at the end, unless part of it is kept.
class AddressRange {
 public:
  AddressRange(uint64_t size_bytes, uint64_t alignment_bytes)
      : size_bytes_(size_bytes + alignment_bytes) {
    void* const start =
        mmap(nullptr, size_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
      size_bytes_ = 0;
      return;
    }
    start_ = reinterpret_cast<uintptr_t>(start);
    aligned_ = AlignUp(start_, alignment_bytes).value();
  }
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;
  ~AddressRange() { Unmap(start_, start_ + size_bytes_); }

  // False, with errno set: the process has no such range left.
  bool valid() const { return size_bytes_ != 0; }
  void* aligned() const { return reinterpret_cast<void*>(aligned_); }

  // Gives up [aligned, aligned + mapped_bytes), where something else has been mapped. `page_bytes`
  // is the system's.
  void Keep(uint64_t mapped_bytes, uint64_t page_bytes) {
    const uintptr_t kept_end = aligned_ + AlignUp(mapped_bytes, page_bytes).value();
    Unmap(start_, aligned_);
    Unmap(kept_end, start_ + size_bytes_);
    size_bytes_ = 0;
  }

 private:
  static void Unmap(uintptr_t begin, uintptr_t end) {
    if (begin < end) munmap(reinterpret_cast<void*>(begin), end - begin);
  }

  uintptr_t start_ = 0;
  uintptr_t aligned_ = 0;
  uint64_t size_bytes_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_ADDRESS_RANGE_H_

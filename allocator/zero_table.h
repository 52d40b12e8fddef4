// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_ZERO_TABLE_H_
#define HANDOFF_ALLOCATOR_ZERO_TABLE_H_

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <type_traits>

namespace handoff {

// An array in memory of this process alone, all zeros at first. Making it costs the same however
// long it is, and what is never written takes no memory: for tables by page of a segment.
template <class T>
class ZeroTable {
 public:
  static_assert(std::is_trivially_destructible_v<T>);

  // Throws std::bad_alloc.
  explicit ZeroTable(size_t count) : bytes_(count > 0 ? count * sizeof(T) : 1) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    items_ = static_cast<T*>(memory);
  }
  ~ZeroTable() { munmap(items_, bytes_); }
  ZeroTable(const ZeroTable&) = delete;
  ZeroTable& operator=(const ZeroTable&) = delete;

  T& operator[](size_t index) { return items_[index]; }
  const T& operator[](size_t index) const { return items_[index]; }

 private:
  const size_t bytes_;
  T* items_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_ZERO_TABLE_H_

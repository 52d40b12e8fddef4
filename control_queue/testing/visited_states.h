// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_TESTING_VISITED_STATES_H_
#define HANDOFF_CONTROL_QUEUE_TESTING_VISITED_STATES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace handoff::internal {

// Spreads every bit of a value over all of the result.
inline uint64_t Mix(uint64_t value) {
  value ^= value >> 32;
  value *= 0xD6E8FEB86659FD93;
  value ^= value >> 29;
  value *= 0xD6E8FEB86659FD93;
  value ^= value >> 32;
  return value;
}

// Of whole words of 8 bytes.
inline uint64_t HashOf(const std::byte* from, const std::byte* to) {
  uint64_t hash = 0x9E3779B97F4A7C15 + static_cast<uint64_t>(to - from);
  for (; from < to; from += 8) {
    uint64_t word;
    std::memcpy(&word, from, 8);
    hash = (hash ^ word) * 0x9FB21C651E98DF25;
    hash ^= hash >> 35;
  }
  return hash;
}

// A set of keys. Takes 8 to 32 bytes a key.
class VisitedStates {
 public:
  void Clear() {
    count_ = 0;
    table_.assign(size_t{1} << 16, 0);
  }
  // False: it was there.
  bool Insert(uint64_t key) {
    if (key == 0) key = 1;
    if (count_ * 2 >= table_.size()) Grow();
    if (!Put(key)) return false;
    ++count_;
    return true;
  }

 private:
  bool Put(uint64_t key) {
    const size_t mask = table_.size() - 1;
    size_t at = key & mask;
    while (table_[at] != 0) {
      if (table_[at] == key) return false;
      at = (at + 1) & mask;
    }
    table_[at] = key;
    return true;
  }
  void Grow() {
    std::vector<uint64_t> old(table_.size() * 2, 0);
    old.swap(table_);
    for (const uint64_t key : old) {
      if (key != 0) Put(key);
    }
  }

  size_t count_ = 0;
  std::vector<uint64_t> table_;
};

}  // namespace handoff::internal

#endif  // HANDOFF_CONTROL_QUEUE_TESTING_VISITED_STATES_H_

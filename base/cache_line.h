// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_CACHE_LINE_H_
#define HANDOFF_BASE_CACHE_LINE_H_

#include <cstddef>

namespace handoff {

// The unit, in bytes, by which structures in shared memory are kept apart. Part of the layout that
// processes built on different days agree on, so it is a constant of ours:
// std::hardware_destructive_interference_size changes with the compiler and its flags (-mtune), and
// two programs of one session would then disagree.
inline constexpr size_t kCacheLineSize = 64;

}  // namespace handoff

#endif  // HANDOFF_BASE_CACHE_LINE_H_

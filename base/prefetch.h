// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_PREFETCH_H_
#define HANDOFF_BASE_PREFETCH_H_

namespace handoff {

// Begins to fetch the line of `address` so that it can be written without waiting: takes it out of
// other processors' caches, so only for what nobody else uses now. A hint, for any address.
inline void PrefetchForWrite(const volatile void* address) {
#if defined(__x86_64__)
  // Compilers make a plain prefetch of __builtin_prefetch() unless they are told of the processor;
  // where the instruction is not known, it does nothing.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const volatile char*>(address)));
#else
  __builtin_prefetch(const_cast<const void*>(address), /*rw=*/1);
#endif
}

}  // namespace handoff

#endif  // HANDOFF_BASE_PREFETCH_H_

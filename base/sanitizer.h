// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_SANITIZER_H_
#define HANDOFF_BASE_SANITIZER_H_

namespace handoff {

// Whether this program was compiled with a sanitizer. Almost nothing should ask: it then is not the
// same program that is tested. Good reasons are what a sanitizer cannot see, such as fences, and
// what it takes away, such as mlock().
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
inline constexpr bool kAddressSanitizer = false;
#endif

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
inline constexpr bool kThreadSanitizer = false;
#endif

}  // namespace handoff

#endif  // HANDOFF_BASE_SANITIZER_H_

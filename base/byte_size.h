// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_BYTE_SIZE_H_
#define HANDOFF_BASE_BYTE_SIZE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/check.h"

namespace handoff {

// Numbers of bytes: as people write them, and arithmetic that does not wrap around.

// Reads a number and a unit: "4096", "64MiB", "64 MiB", "1.5GiB", "250 MB". Units are B (also if
// there is none), KiB, MiB, GiB, TiB (powers of 1024) and kB or KB, MB, GB, TB (powers of 1000), in
// this spelling. A fraction needs a unit above B, has at most six digits and is rounded down to a
// whole byte. kInvalidArgument: anything else, signs and sizes beyond 64 bits included; the message
// names the text and the forms that are accepted.
absl::StatusOr<uint64_t> ParseByteSize(std::string_view text);

// For people: "512 B", "64 MiB", "1.5 GiB". In the largest unit of 1024 that gives at least one,
// with at most two decimals, rounded down. ParseByteSize() reads it.
std::string FormatByteSize(uint64_t size_bytes);

// nullopt: the result needs more than 64 bits.
[[nodiscard]] constexpr std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

[[nodiscard]] constexpr std::optional<uint64_t> CheckedMultiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

constexpr bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

// The smallest multiple of `alignment`, which is a power of two, that is not below `value`.
[[nodiscard]] constexpr std::optional<uint64_t> AlignUp(uint64_t value, uint64_t alignment) {
  HANDOFF_CHECK(IsPowerOfTwo(alignment)) << "alignment " << alignment;
  const std::optional<uint64_t> sum = CheckedAdd(value, alignment - 1);
  if (!sum.has_value()) return std::nullopt;
  return *sum & ~(alignment - 1);
}

}  // namespace handoff

#endif  // HANDOFF_BASE_BYTE_SIZE_H_

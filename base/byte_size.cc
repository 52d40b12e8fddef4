// SPDX-License-Identifier: Apache-2.0
#include "base/byte_size.h"

#include <array>
#include <charconv>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace handoff {
namespace {

struct Unit {
  const char* name;
  uint64_t size_bytes;
};

// Smallest first. The first five are also those we print.
constexpr std::array<Unit, 10> kUnits = {{
    {"B", 1},
    {"KiB", uint64_t{1} << 10},
    {"MiB", uint64_t{1} << 20},
    {"GiB", uint64_t{1} << 30},
    {"TiB", uint64_t{1} << 40},
    {"kB", 1'000},
    {"KB", 1'000},
    {"MB", 1'000'000},
    {"GB", 1'000'000'000},
    {"TB", 1'000'000'000'000},
}};
constexpr size_t kPrintedUnits = 5;

// 10^6 times the largest unit fits in 64 bits.
constexpr size_t kMaxFractionDigits = 6;

absl::Status Refuse(std::string_view text, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "byte size \"", std::string(text), "\": ", why,
      "; write a number and a unit, as in 4096, 64MiB, 1.5GiB or 250MB (B, KiB, MiB, GiB, "
      "TiB, kB, MB, GB, TB)"));
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Takes the digits that `rest` begins with.
std::string_view TakeDigits(std::string_view& rest) {
  size_t count = 0;
  while (count < rest.size() && IsDigit(rest[count])) ++count;
  const std::string_view digits = rest.substr(0, count);
  rest.remove_prefix(count);
  return digits;
}

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(std::string_view text) {
  std::string_view rest = text;
  const std::string_view whole_digits = TakeDigits(rest);
  if (whole_digits.empty()) return Refuse(text, "does not begin with a digit");
  uint64_t whole = 0;
  if (std::from_chars(whole_digits.data(), whole_digits.data() + whole_digits.size(), whole).ec !=
      std::errc()) {
    return Refuse(text, "is more than 64 bits can hold");
  }

  std::string_view fraction_digits;
  if (rest.starts_with('.')) {
    rest.remove_prefix(1);
    fraction_digits = TakeDigits(rest);
    if (fraction_digits.empty()) return Refuse(text, "has no digit after the point");
    if (fraction_digits.size() > kMaxFractionDigits)
      return Refuse(text, "has more than six digits after the point");
  }

  if (rest.starts_with(' ') && rest.size() > 1) rest.remove_prefix(1);
  uint64_t unit_bytes = rest.empty() ? 1 : 0;
  for (const Unit& unit : kUnits) {
    if (rest == unit.name) unit_bytes = unit.size_bytes;
  }
  if (unit_bytes == 0) return Refuse(text, "has an unknown unit");
  if (unit_bytes == 1 && !fraction_digits.empty()) return Refuse(text, "is a fraction of a byte");

  uint64_t fraction = 0;  // in millionths
  for (size_t i = 0; i < kMaxFractionDigits; ++i) {
    fraction = fraction * 10 +
               (i < fraction_digits.size() ? static_cast<uint64_t>(fraction_digits[i] - '0') : 0);
  }
  const std::optional<uint64_t> whole_bytes = CheckedMultiply(whole, unit_bytes);
  const std::optional<uint64_t> bytes =
      whole_bytes.has_value() ? CheckedAdd(*whole_bytes, fraction * unit_bytes / 1'000'000)
                              : std::nullopt;
  if (!bytes.has_value()) return Refuse(text, "is more than 64 bits can hold");
  return *bytes;
}

std::string FormatByteSize(uint64_t size_bytes) {
  size_t index = 0;
  while (index + 1 < kPrintedUnits && size_bytes >= kUnits[index + 1].size_bytes) ++index;
  const Unit& unit = kUnits[index];
  const uint64_t hundredths = size_bytes % unit.size_bytes * 100 / unit.size_bytes;
  std::string number = absl::StrCat(size_bytes / unit.size_bytes);
  if (hundredths != 0) {
    absl::StrAppend(&number, ".", hundredths / 10);
    if (hundredths % 10 != 0) absl::StrAppend(&number, hundredths % 10);
  }
  return absl::StrCat(number, " ", unit.name);
}

}  // namespace handoff

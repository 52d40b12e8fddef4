// SPDX-License-Identifier: Apache-2.0
#include "transport/handle.h"

#include <bit>
#include <concepts>
#include <cstring>

#include "allocator/management_layout.h"
#include "base/check.h"

namespace handoff {

namespace {

// Where the fields begin.
enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = 2,
  kKindAt = 3,
  kBuildAt = 4,
  kNonceAt = 8,
  kGenerationAt = 16,
  kUsedBytesAt = 21,
  kRowAt = 26,
  kSegmentAt = 30,
  kChannelAt = 31,
  kExchangeAt = 33,
};
static_assert(kChannelAt + sizeof(uint16_t) == Handle::kBytes);
static_assert(kExchangeAt + sizeof(uint64_t) == Handle::kMaxBytes);

// One move on a little-endian machine.
template <std::unsigned_integral T>
T LittleEndian(T value) {
  if constexpr (std::endian::native == std::endian::little || sizeof(T) == 1) {
    return value;
  } else if constexpr (sizeof(T) == 2) {
    return __builtin_bswap16(value);
  } else if constexpr (sizeof(T) == 4) {
    return __builtin_bswap32(value);
  } else {
    return __builtin_bswap64(value);
  }
}

template <std::unsigned_integral T>
T Load(const std::byte* bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes + at, sizeof(T));
  return LittleEndian(value);
}

template <std::unsigned_integral T>
void Store(std::byte* bytes, size_t at, T value) {
  value = LittleEndian(value);
  std::memcpy(bytes + at, &value, sizeof(T));
}

// Fields of five bytes. Both touch eight: what follows is stored after them, and is there to load.
constexpr uint64_t kFiveBytes = (uint64_t{1} << 40) - 1;
static_assert(kUsedBytesAt + sizeof(uint64_t) <= Handle::kBytes);
static_assert(Handle::kMaxGeneration <= kFiveBytes && Handle::kMaxUsedBytes <= kFiveBytes);

uint64_t LoadFive(const std::byte* bytes, size_t at) {
  return Load<uint64_t>(bytes, at) & kFiveBytes;
}

// The ranges of the fields, kind by kind.
HandleFault Check(const Handle& handle) {
  if (handle.kind < HandleKind::kEmpty || handle.kind > HandleKind::kBundle) {
    return HandleFault::kKind;
  }
  if (handle.generation > Handle::kMaxGeneration) return HandleFault::kGeneration;
  if (handle.used_bytes > Handle::kMaxUsedBytes) return HandleFault::kUsedBytes;
  if (handle.row > Handle::kMaxRow || handle.segment > Handle::kMaxSegment ||
      handle.channel > Handle::kMaxChannel) {
    return HandleFault::kPlace;
  }
  if (handle.kind == HandleKind::kEmpty) {
    return handle == Handle{.nonce = handle.nonce, .exchange = handle.exchange}
               ? HandleFault::kNone
               : HandleFault::kMeaning;
  }
  if (handle.generation == 0) return HandleFault::kGeneration;
  if (handle.kind == HandleKind::kBundle) {
    return handle.segment == 0 && handle.used_bytes == 0 ? HandleFault::kNone
                                                         : HandleFault::kMeaning;
  }
  if (handle.used_bytes == 0) return HandleFault::kUsedBytes;
  if (handle.kind == HandleKind::kReference && handle.segment != 0) return HandleFault::kMeaning;
  return HandleFault::kNone;
}

}  // namespace

const char* DescribeHandleFault(HandleFault fault) {
  switch (fault) {
    case HandleFault::kNone:
      return "nothing";
    case HandleFault::kLength:
      return "wrong length";
    case HandleFault::kMagic:
      return "no handle";
    case HandleFault::kVersion:
      return "a handle of another version";
    case HandleFault::kBuild:
      return "a handle of another build";
    case HandleFault::kNonce:
      return "a handle of another session";
    case HandleFault::kKind:
      return "unknown kind";
    case HandleFault::kGeneration:
      return "generation out of range";
    case HandleFault::kUsedBytes:
      return "size out of range";
    case HandleFault::kPlace:
      return "row, segment or channel out of range";
    case HandleFault::kMeaning:
      return "a field that means nothing for its kind";
  }
  return "unknown";
}

HandleBytes Encode(const Handle& handle) {
  HANDOFF_DCHECK(Check(handle) == HandleFault::kNone) << DescribeHandleFault(Check(handle));
  HandleBytes encoded;
  std::byte* const bytes = encoded.bytes_.data();
  Store(bytes, kMagicAt, Handle::kMagic);
  Store(bytes, kVersionAt, Handle::kVersion);
  Store(bytes, kKindAt, static_cast<uint8_t>(handle.kind));
  Store(bytes, kBuildAt, Handle::kBuild);
  Store(bytes, kNonceAt, handle.nonce);
  Store(bytes, kGenerationAt, handle.generation);
  Store(bytes, kUsedBytesAt, handle.used_bytes);
  Store(bytes, kRowAt, handle.row);
  Store(bytes, kSegmentAt, static_cast<uint8_t>(handle.segment));
  Store(bytes, kChannelAt, handle.channel);
  encoded.size_ = Handle::kBytes;
  if (__builtin_expect(handle.exchange != 0, 0)) {
    Store(bytes, kExchangeAt, handle.exchange);
    encoded.size_ = Handle::kMaxBytes;
  }
  return encoded;
}

uint32_t BuildIn(std::span<const std::byte> bytes) {
  return Load<uint32_t>(bytes.data(), kBuildAt);
}

HandleFault Decode(std::span<const std::byte> bytes, uint64_t nonce, Handle* out) {
  const bool exchanges = bytes.size() == Handle::kMaxBytes;
  if (bytes.size() != Handle::kBytes && !exchanges) return HandleFault::kLength;
  const std::byte* const from = bytes.data();
  if (Load<uint16_t>(from, kMagicAt) != Handle::kMagic) return HandleFault::kMagic;
  if (Load<uint8_t>(from, kVersionAt) != Handle::kVersion) return HandleFault::kVersion;
  if (BuildIn(bytes) != Handle::kBuild) return HandleFault::kBuild;
  const auto sender_nonce = Load<uint64_t>(from, kNonceAt);
  if (sender_nonce != nonce) {
    out->nonce = sender_nonce;
    return HandleFault::kNonce;
  }
  const Handle handle{.kind = static_cast<HandleKind>(Load<uint8_t>(from, kKindAt)),
                      .segment = Load<uint8_t>(from, kSegmentAt),
                      .channel = Load<uint16_t>(from, kChannelAt),
                      .row = Load<uint32_t>(from, kRowAt),
                      .nonce = nonce,
                      .exchange = exchanges ? Load<uint64_t>(from, kExchangeAt) : 0,
                      .generation = LoadFive(from, kGenerationAt),
                      .used_bytes = LoadFive(from, kUsedBytesAt)};
  if (exchanges && handle.exchange == 0) return HandleFault::kMeaning;
  const HandleFault fault = Check(handle);
  if (fault == HandleFault::kNone) *out = handle;
  return fault;
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_HANDLE_H_
#define HANDOFF_TRANSPORT_HANDLE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "allocator/management_layout.h"

namespace handoff {

// What a handle names. The numbers travel.
enum class HandleKind : uint8_t {
  kEmpty = 1,      // a message of no bytes: nothing in memory
  kBlock = 2,      // a block that goes to the receiver
  kReference = 3,  // a reference to a block that others refer to as well
  kBundle = 4,     // several messages as one
};

// The fixed record that names a message in any process of its session. It gives nobody a right:
// whoever receives it has to change a word (hold.h) that must have exactly this generation, so a
// stale, copied or invented handle is refused there.
//
// As bytes, all numbers little-endian:
//
//    0  magic 2 | version 1 | kind 1 | build 4 | nonce 8
//   16  generation 5 | used size 5 | row 4 | segment 1 | channel 2
//   33  exchange 8, of requests and replies only
//
// So short because ZeroMQ keeps up to 33 bytes in the message object itself, and allocates for
// more.
struct Handle {
  static constexpr size_t kBytes = 33;
  static constexpr size_t kMaxBytes = 41;     // with an exchange
  static constexpr uint16_t kMagic = 0x4448;  // "HD" as bytes
  static constexpr uint8_t kVersion = 2;
  static constexpr uint32_t kBuild = static_cast<uint32_t>(kBuildHash);

  static constexpr uint32_t kMaxRow = (uint32_t{1} << 30) - 1;
  static constexpr uint16_t kMaxSegment = 63;
  static constexpr uint16_t kMaxChannel = (1 << 12) - 1;
  static constexpr uint64_t kMaxGeneration = (uint64_t{1} << 37) - 1;
  static constexpr uint64_t kMaxUsedBytes = uint64_t{64} << 30;

  HandleKind kind = HandleKind::kEmpty;
  uint16_t segment = 0;     // kBlock: its row in the session's segment table, up to kMaxSegment
  uint16_t channel = 0;     // on which it was posted, up to kMaxChannel
  uint32_t row = 0;         // BlockId, or the row of the reference or the bundle; up to kMaxRow
  uint64_t nonce = 0;       // of the session
  uint64_t exchange = 0;    // which request this is, or is the reply to; of others 0
  uint64_t generation = 0;  // of the word that changes hands, 1 to kMaxGeneration; 0 if empty
  uint64_t used_bytes = 0;  // of the message, up to kMaxUsedBytes; 0 for kEmpty and kBundle only

  friend bool operator==(const Handle&, const Handle&) = default;
};

// Why bytes are not a handle.
enum class [[nodiscard]] HandleFault : uint8_t{
    kNone,
    kLength,      // neither Handle::kBytes nor Handle::kMaxBytes
    kMagic,       // something else altogether
    kVersion,     // of a build with another layout of handles
    kBuild,       // of a build with another layout of shared memory
    kNonce,       // of another session
    kKind,        // no such kind
    kGeneration,  // out of range
    kUsedBytes,   // out of range
    kPlace,       // row, segment or channel out of range
    kMeaning,     // a field that has no meaning for this kind is not zero, or an exchange is there
                  // and zero
};

// For errors: a few words, static.
const char* DescribeHandleFault(HandleFault fault);

// A handle as bytes.
class HandleBytes {
 public:
  const std::byte* data() const { return bytes_.data(); }
  size_t size() const { return size_; }
  const std::byte* begin() const { return data(); }
  const std::byte* end() const { return data() + size_; }
  std::byte& operator[](size_t at) { return bytes_[at]; }

  friend bool operator==(const HandleBytes& a, const HandleBytes& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  friend HandleBytes Encode(const Handle& handle);

  std::array<std::byte, Handle::kMaxBytes> bytes_;
  size_t size_;
};

// `handle` must be one that Decode() accepts.
HandleBytes Encode(const Handle& handle);

// Reads bytes that anybody may have sent, of whatever length. kNone: all fields are in their
// ranges, and what Encode() makes of *out are the same bytes; whether there is such a block is
// another matter. Otherwise *out is unchanged, except for kNonce: then out->nonce is that of the
// sender.
HandleFault Decode(std::span<const std::byte> bytes, uint64_t nonce, Handle* out);

// The build that bytes of a handle name, for errors: Handle::kBuild of their sender.
uint32_t BuildIn(std::span<const std::byte> bytes);

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_HANDLE_H_

// SPDX-License-Identifier: Apache-2.0
// For libFuzzer: no bytes crash the decoder, and those it accepts have exactly one meaning.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "transport/handle.h"

namespace {

using handoff::Handle;

// Refused, or what Encode() makes of it are the same bytes.
void Check(std::span<const std::byte> bytes) {
  uint64_t nonce = 1;
  if (bytes.size() >= 16) std::memcpy(&nonce, bytes.data() + 8, sizeof(nonce));
  Handle handle;
  if (handoff::Decode(bytes, nonce, &handle) == handoff::HandleFault::kNone) {
    HANDOFF_CHECK(std::ranges::equal(handoff::Encode(handle), bytes));
  }
}

}  // namespace

// The bytes as they are, and as what follows in a handle that begins as it should: magic, version,
// build and session would not be guessed.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  Check(bytes);
  if (size == 0) return 0;
  const auto good = handoff::Encode({.nonce = 1});
  std::vector<std::byte> handle(good.begin(), good.begin() + 16);
  handle[3] = bytes[0];  // the kind
  handle.insert(handle.end(), bytes.begin() + 1, bytes.end());
  Check(handle);
  handle.resize(Handle::kBytes);
  Check(handle);
  return 0;
}

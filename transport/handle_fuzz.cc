// SPDX-License-Identifier: Apache-2.0
// For libFuzzer: no bytes crash the decoder, and those it accepts have exactly one meaning.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "transport/handle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using handoff::Handle;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  // Usually the session that the bytes name, so that the fuzzer need not guess it.
  uint64_t nonce = 1;
  if (size >= 16) std::memcpy(&nonce, data + 8, sizeof(nonce));
  Handle handle;
  if (handoff::Decode(bytes, nonce, &handle) == handoff::HandleFault::kNone) {
    HANDOFF_CHECK(std::ranges::equal(handoff::Encode(handle), bytes));
  }
  return 0;
}

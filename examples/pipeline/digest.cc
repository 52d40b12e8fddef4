// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/digest.h"

#include <openssl/evp.h>

#include <cstring>

#include "base/check.h"

namespace handoff::pipeline {

struct Digest::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Digest::Digest() : context_(std::make_unique<Context>()) {
  HANDOFF_CHECK(context_->evp != nullptr &&
                EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1)
      << "SHA-256 is not available";
}

Digest::~Digest() = default;

void Digest::Add(std::span<const std::byte> bytes) {
  HANDOFF_CHECK(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1) << "SHA-256";
}

void Digest::Finish(std::byte* out) {
  unsigned int length = 0;
  HANDOFF_CHECK(EVP_DigestFinal_ex(context_->evp, reinterpret_cast<unsigned char*>(out), &length) ==
                    1 &&
                length == 32)
      << "SHA-256";
}

std::string DigestText(const std::byte* digest) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int i = 0; i < 32; ++i) {
    text += kDigits[std::to_integer<int>(digest[i]) >> 4];
    text += kDigits[std::to_integer<int>(digest[i]) & 15];
  }
  return text;
}

uint64_t Checksum(std::span<const std::byte> bytes) {
  // Four lanes, so that the multiplications overlap.
  constexpr uint64_t kPrime = 0x9E3779B97F4A7C15;
  uint64_t lanes[4] = {1, 2, 3, 4};
  size_t i = 0;
  for (; i + 32 <= bytes.size(); i += 32) {
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + i + 8 * lane, 8);
      lanes[lane] = (lanes[lane] ^ word) * kPrime;
    }
  }
  for (; i < bytes.size(); ++i) {
    lanes[i % 4] = (lanes[i % 4] ^ std::to_integer<uint64_t>(bytes[i])) * kPrime;
  }
  uint64_t sum = bytes.size();
  for (uint64_t lane : lanes) sum = (sum ^ lane ^ (lane >> 29)) * kPrime;
  return sum;
}

}  // namespace handoff::pipeline

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_DIGEST_H_
#define HANDOFF_EXAMPLES_PIPELINE_DIGEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace handoff::pipeline {

// SHA-256 of a stream.
class Digest {
 public:
  Digest();
  ~Digest();

  void Add(std::span<const std::byte> bytes);
  // Writes 32 bytes; nothing may be added afterwards.
  void Finish(std::byte* out);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// 32 bytes as sha256sum prints them.
std::string DigestText(const std::byte* digest);

// A fast sum over bytes that notices swapped, lost and changed words: what a worker computes for
// each message.
uint64_t Checksum(std::span<const std::byte> bytes);

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_DIGEST_H_

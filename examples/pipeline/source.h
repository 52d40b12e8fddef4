// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_SOURCE_H_
#define HANDOFF_EXAMPLES_PIPELINE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace handoff::pipeline {

// The bytes that a run streams. One thread.
class Source {
 public:
  virtual ~Source() = default;

  // Bytes in all, for percentages.
  virtual uint64_t total_bytes() const = 0;
  // How long the next message should be: zero at the end.
  virtual uint64_t NextSize() = 0;
  // Writes the next bytes; fewer than asked for only at the end of the stream.
  virtual absl::StatusOr<uint64_t> Read(std::span<std::byte> out) = 0;
};

// A file, or the files of a folder one after the other in the order of their names (folders in it
// are passed over), in messages of `message_bytes`. kNotFound and the like name the path.
absl::StatusOr<std::unique_ptr<Source>> OpenFiles(const std::string& path, uint64_t message_bytes);

// `total_bytes` of generated frames, from 4 KiB to twice `message_bytes`, the same in every run.
std::unique_ptr<Source> GenerateFrames(uint64_t total_bytes, uint64_t message_bytes);

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_SOURCE_H_

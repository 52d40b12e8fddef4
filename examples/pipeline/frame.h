// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_FRAME_H_
#define HANDOFF_EXAMPLES_PIPELINE_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace handoff::pipeline {

// What stands in front of the payload in each message. 64 bytes, so that the payload stays aligned.
struct FrameHeader {
  uint64_t number = 0;  // of the message in the stream, from 0
  uint64_t payload_bytes = 0;
  uint64_t checksum = 0;  // of the payload, by the worker
  // Where the reader wrote the message: the writer finds it there if nobody copied it.
  uint64_t segment_offset = 0;
  uint64_t stream_offset = 0;  // of the first byte of the payload in the stream
  // Not 0: this is no part of the stream but the roll call after so many deaths. `number` messages
  // were sent before it, and what came back from the dead.
  uint64_t roll_call = 0;
  uint32_t worker = 0;  // who has passed it on
  uint32_t reserved[3] = {};
};
static_assert(sizeof(FrameHeader) == 64);

inline void WriteHeader(std::span<std::byte> message, const FrameHeader& header) {
  std::memcpy(message.data(), &header, sizeof(header));
}

// Nothing when the message is not one of ours.
inline std::optional<FrameHeader> ReadHeader(std::span<const std::byte> message) {
  FrameHeader header;
  if (message.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, message.data(), sizeof(header));
  if (header.payload_bytes != message.size() - sizeof(header)) return std::nullopt;
  return header;
}

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_FRAME_H_

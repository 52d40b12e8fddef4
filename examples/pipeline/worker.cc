// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "examples/pipeline/channel.h"
#include "examples/pipeline/digest.h"
#include "examples/pipeline/frame.h"
#include "examples/pipeline/roles.h"
#include "transport/transport.h"

namespace handoff::pipeline {

absl::Status RunWorker(const Options& options, Progress& progress, uint32_t worker) {
  auto transport = OpenTransport(options, absl::StrCat("worker ", worker));
  if (!transport.ok()) return transport.status();
  auto in = (*transport)
                ->CreateSocket(Pattern::kPull, {.receive_high_water_mark = options.channel_depth});
  if (!in.ok()) return in.status();
  auto out =
      (*transport)->CreateSocket(Pattern::kPush, {.send_high_water_mark = options.channel_depth});
  if (!out.ok()) return out.status();
  if (absl::Status status = (*out)->Connect(options.done_address); !status.ok()) return status;
  if (absl::Status status = (*in)->Connect(options.work_address); !status.ok()) return status;

  std::atomic<uint64_t>& in_hands = progress.workers[worker].in_hands;
  while (!progress.Stopped() && !progress.Finished()) {
    Message message;
    if (absl::Status status = ReceiveForASlice(**in, &message); !status.ok()) return status;
    if (message.empty()) continue;
    if (std::optional<FrameHeader> header = ReadHeader(message.bytes()); header.has_value()) {
      if (header->roll_call == 0) in_hands.store(header->number, std::memory_order_release);
      const std::span<std::byte> bytes = message.mutable_bytes();
      header->checksum = Checksum(bytes.subspan(sizeof(FrameHeader)));
      header->worker = worker;
      WriteHeader(bytes, *header);
    }
    if (absl::Status status = SendUnlessStopped(**out, message, progress); !status.ok()) {
      return status;
    }
    in_hands.store(kNoMessage, std::memory_order_release);
  }
  return absl::OkStatus();
}

}  // namespace handoff::pipeline

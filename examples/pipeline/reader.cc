// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "examples/pipeline/channel.h"
#include "examples/pipeline/digest.h"
#include "examples/pipeline/frame.h"
#include "examples/pipeline/roles.h"
#include "examples/pipeline/source.h"
#include "transport/transport.h"

namespace handoff::pipeline {

namespace {

class Reader {
 public:
  Reader(const Options& options, Progress& progress, Transport& transport, Socket& socket)
      : options_(options), progress_(progress), transport_(transport), socket_(socket) {
    SaveForRollCalls();
  }

  absl::Status Stream(Source& source) {
    Digest digest;
    while (!progress_.Stopped()) {
      const uint64_t size = source.NextSize();
      if (size == 0) break;
      absl::StatusOr<Message> message = Allocate(sizeof(FrameHeader) + size);
      if (!message.ok()) return message.status();
      const std::span<std::byte> bytes = message->mutable_bytes();
      const absl::StatusOr<uint64_t> got = source.Read(bytes.subspan(sizeof(FrameHeader)));
      if (!got.ok()) return got.status();
      if (*got == 0) break;
      if (*got < size && message->Shrink(sizeof(FrameHeader) + *got) != ShrinkResult::kOk) {
        return absl::InternalError("a message could not be made shorter");
      }
      digest.Add(bytes.subspan(sizeof(FrameHeader), *got));
      FrameHeader header;
      header.number = sent_;
      header.payload_bytes = *got;
      header.segment_offset = message->segment_offset();
      header.stream_offset = progress_.sent_bytes.load(std::memory_order_relaxed);
      WriteHeader(bytes, header);
      if (absl::Status status = SendUnlessStopped(socket_, *message, progress_); !status.ok()) {
        return status;
      }
      ++sent_;
      progress_.sent_messages.store(sent_, std::memory_order_relaxed);
      progress_.sent_bytes.fetch_add(*got, std::memory_order_relaxed);
      CallRoll();
    }
    if (progress_.Stopped()) return absl::CancelledError("stopped");
    digest.Finish(progress_.input_digest);
    progress_.reader_done.store(true, std::memory_order_release);
    return absl::OkStatus();
  }

  // The channel stays open until everything has arrived.
  void WaitForTheEnd() {
    while (!progress_.Stopped() && !progress_.Finished()) {
      CallRoll();
      usleep(1000);
    }
  }

 private:
  // Waits for memory until there is some or the run is stopped.
  absl::StatusOr<Message> Allocate(uint64_t size_bytes) {
    for (;;) {
      absl::StatusOr<Message> message =
          transport_.Allocate(size_bytes, {.deadline = Deadline::After(kSlice)});
      if (message.ok() || !absl::IsResourceExhausted(message.status())) return message;
      if (progress_.Stopped()) return absl::CancelledError("stopped");
      CallRoll();  // perhaps the writer has all the memory, and waits for it
    }
  }

  // After a death, until the writer has settled it (see Progress).
  void CallRoll() {
    const uint64_t deaths = progress_.deaths.load(std::memory_order_acquire);
    if (deaths == progress_.deaths_settled.load(std::memory_order_acquire)) return;
    if (!next_roll_call_.expired()) return;
    if (!KnowsOnlyTheLiving(socket_, options_, progress_)) return;
    next_roll_call_ = Deadline::After(kSlice);
    FrameHeader header;
    header.number = sent_;
    header.roll_call = deaths;
    while (!saved_.empty()) {
      WriteHeader(saved_.back().mutable_bytes(), header);
      if (socket_.TrySend(std::move(saved_.back())) != SocketResult::kOk) break;
      saved_.pop_back();
    }
    SaveForRollCalls();
  }

  // One for each worker, so that memory is there when there is none.
  void SaveForRollCalls() {
    Message message;
    while (saved_.size() < options_.workers &&
           transport_.TryAllocate(sizeof(FrameHeader), &message) == AllocateResult::kOk) {
      saved_.push_back(std::move(message));
    }
  }

  const Options& options_;
  Progress& progress_;
  Transport& transport_;
  Socket& socket_;
  uint64_t sent_ = 0;
  std::vector<Message> saved_;
  Deadline next_roll_call_ = Deadline::Passed();
};

}  // namespace

absl::Status RunReader(const Options& options, Progress& progress) {
  std::unique_ptr<Source> source;
  if (options.input.empty()) {
    source = GenerateFrames(options.generated_bytes, options.message_bytes);
  } else {
    auto files = OpenFiles(options.input, options.message_bytes);
    if (!files.ok()) return files.status();
    source = *std::move(files);
  }
  auto transport = OpenTransport(options, "reader");
  if (!transport.ok()) return transport.status();
  auto socket =
      (*transport)->CreateSocket(Pattern::kPush, {.send_high_water_mark = options.channel_depth});
  if (!socket.ok()) return socket.status();
  if (absl::Status status = (*socket)->Bind(options.work_address); !status.ok()) return status;
  Reader reader(options, progress, **transport, **socket);
  if (absl::Status status = reader.Stream(*source); !status.ok()) return status;
  reader.WaitForTheEnd();
  return absl::OkStatus();
}

}  // namespace handoff::pipeline

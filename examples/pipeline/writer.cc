// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "examples/pipeline/channel.h"
#include "examples/pipeline/digest.h"
#include "examples/pipeline/frame.h"
#include "examples/pipeline/roles.h"
#include "transport/transport.h"

namespace handoff::pipeline {

namespace {

// Puts messages in order and writes them.
class Writer {
 public:
  Writer(const Options& options, Progress& progress, UniqueFd output)
      : options_(options), progress_(progress), output_(std::move(output)) {}

  absl::Status Take(Message message) {
    const std::optional<FrameHeader> header = ReadHeader(message.bytes());
    if (header.has_value() && header->roll_call != 0 && header->worker < kMaxWorkers) {
      Answer& answer = answers_[header->worker];
      if (answer.roll_call != header->roll_call) answer = {header->roll_call, header->number};
      return absl::OkStatus();
    }
    if (!header.has_value() || header->number < next_ || early_.contains(header->number)) {
      progress_.bad_messages.fetch_add(1, std::memory_order_relaxed);
      return absl::OkStatus();
    }
    early_.emplace(header->number, std::move(message));
    return WriteWhatIsDue();
  }

  // After deaths of workers, when nothing is left that could still come from them (see Progress):
  // goes on without what is missing.
  absl::Status SettleDeaths(const Socket& socket) {
    const uint64_t deaths = progress_.deaths.load(std::memory_order_acquire);
    if (deaths == progress_.deaths_settled.load(std::memory_order_relaxed)) return absl::OkStatus();
    uint64_t sent_before = UINT64_MAX;
    for (uint32_t i = 0; i < options_.workers; ++i) {
      if (progress_.workers[i].pid.load(std::memory_order_acquire) == 0) continue;
      if (answers_[i].roll_call != deaths) return absl::OkStatus();
      sent_before = std::min(sent_before, answers_[i].sent_before);
    }
    if (sent_before == UINT64_MAX || !KnowsOnlyTheLiving(socket, options_, progress_)) {
      return absl::OkStatus();
    }
    absl::Status status = absl::OkStatus();
    while (status.ok() && next_ < sent_before) {
      SkipTo(early_.empty() ? sent_before : std::min(sent_before, early_.begin()->first));
      status = WriteWhatIsDue();
    }
    progress_.deaths_settled.store(deaths, std::memory_order_release);
    return status;
  }

  bool Complete() const {
    return progress_.reader_done.load(std::memory_order_acquire) &&
           next_ >= progress_.sent_messages.load(std::memory_order_acquire);
  }

  void Finish() {
    EndLoss(progress_.sent_bytes.load(std::memory_order_acquire));
    digest_.Finish(progress_.output_digest);
  }

 private:
  // What a worker has said last.
  struct Answer {
    uint64_t roll_call = 0;
    uint64_t sent_before = 0;
  };

  void SkipTo(uint64_t number) {
    if (number == next_) return;
    if (loss_.messages == 0) loss_ = {next_, 0, next_offset_, 0};
    loss_.messages += number - next_;
    progress_.lost_messages.fetch_add(number - next_, std::memory_order_relaxed);
    next_ = number;
  }

  // The stream goes on at `offset`.
  void EndLoss(uint64_t offset) {
    if (loss_.messages == 0) return;
    loss_.bytes = offset - loss_.stream_offset;
    const uint32_t listed = progress_.losses_listed.load(std::memory_order_relaxed);
    if (listed < kMaxLosses) {
      progress_.losses[listed] = loss_;
      progress_.losses_listed.store(listed + 1, std::memory_order_release);
    }
    progress_.lost_bytes.fetch_add(loss_.bytes, std::memory_order_relaxed);
    loss_ = {};
  }

  absl::Status WriteWhatIsDue() {
    while (!early_.empty() && early_.begin()->first == next_) {
      const Message message = std::move(early_.begin()->second);
      early_.erase(early_.begin());
      ++next_;
      const std::optional<FrameHeader> header = ReadHeader(message.bytes());
      const std::span<const std::byte> payload = message.bytes().subspan(sizeof(FrameHeader));
      if (Checksum(payload) != header->checksum) {
        progress_.bad_messages.fetch_add(1, std::memory_order_relaxed);
      }
      if (message.segment_offset() != header->segment_offset) {
        progress_.copied_messages.fetch_add(1, std::memory_order_relaxed);
      }
      EndLoss(header->stream_offset);
      next_offset_ = header->stream_offset + payload.size();
      digest_.Add(payload);
      if (absl::Status status = Write(payload); !status.ok()) return status;
      progress_.written_bytes.fetch_add(payload.size(), std::memory_order_relaxed);
      progress_.written_messages.fetch_add(1, std::memory_order_release);
    }
    return absl::OkStatus();
  }

  absl::Status Write(std::span<const std::byte> bytes) {
    if (output_.get() < 0) return absl::OkStatus();
    while (!bytes.empty()) {
      const ssize_t done = write(output_.get(), bytes.data(), bytes.size());
      if (done < 0) {
        const int error = errno;
        if (progress_.Stopped()) return absl::CancelledError("stopped");
        if (error == EINTR) continue;
        if (error != EAGAIN) return absl::ErrnoToStatus(error, "--output");
        // In slices: the signal that ends the run may have come just before.
        pollfd room = {output_.get(), POLLOUT, 0};
        poll(&room, 1, 50);
        continue;
      }
      bytes = bytes.subspan(static_cast<size_t>(done));
    }
    return absl::OkStatus();
  }

  const Options& options_;
  Progress& progress_;
  const UniqueFd output_;
  Digest digest_;
  uint64_t next_ = 0;         // number of the message that is written next
  uint64_t next_offset_ = 0;  // in the stream, behind the last one written
  Loss loss_ = {};            // between that and the next one; it has no bytes yet
  std::map<uint64_t, Message> early_;
  std::array<Answer, kMaxWorkers> answers_;
};

absl::Status WriteAll(const Options& options, Progress& progress, Transport& transport,
                      UniqueFd output) {
  auto socket =
      transport.CreateSocket(Pattern::kPull, {.receive_high_water_mark = options.channel_depth});
  if (!socket.ok()) return socket.status();
  if (absl::Status status = (*socket)->Bind(options.done_address); !status.ok()) return status;
  // What ZeroMQ still has of a dead worker comes first, and nothing tells when it is all.
  const bool only_when_quiet = !absl::StartsWith(options.done_address, "ring://");
  Writer writer(options, progress, std::move(output));
  while (!writer.Complete()) {
    if (progress.Stopped()) return absl::CancelledError("stopped");
    Message message;
    absl::Status status = ReceiveForASlice(**socket, &message);
    const bool quiet = message.empty();
    if (status.ok() && !quiet) status = writer.Take(std::move(message));
    if (status.ok() && (quiet || !only_when_quiet)) status = writer.SettleDeaths(**socket);
    if (!status.ok()) return status;
  }
  writer.Finish();
  return absl::OkStatus();
}

}  // namespace

absl::Status RunWriter(const Options& options, Progress& progress) {
  UniqueFd output;
  if (!options.output.empty()) {
    output = UniqueFd(open(options.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (output.get() < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("--output ", options.output));
    }
    // A pipe that nobody reads must not hold us when the run is to end. Now, and not as it is
    // opened: that waits for the reader.
    fcntl(output.get(), F_SETFL, O_NONBLOCK);
  }
  auto transport = OpenTransport(options, "writer");
  if (!transport.ok()) return transport.status();
  absl::Status status = WriteAll(options, progress, **transport, std::move(output));
  if (!status.ok()) return status;
  progress.finish.store(true, std::memory_order_release);
  while (!progress.writer_alone.load(std::memory_order_acquire)) {
    if (progress.Stopped()) return absl::CancelledError("stopped");
    usleep(100);
  }
  progress.blocks_held.store((*transport)->Usage().used_blocks, std::memory_order_relaxed);
  progress.writer_done.store(true, std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace handoff::pipeline

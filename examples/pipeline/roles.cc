// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/roles.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "examples/pipeline/digest.h"
#include "examples/pipeline/frame.h"
#include "examples/pipeline/source.h"
#include "transport/socket.h"
#include "transport/transport.h"

namespace handoff::pipeline {

namespace {

// Nobody waits longer than this without looking whether the run has been stopped.
constexpr absl::Duration kSlice = absl::Milliseconds(50);

absl::StatusOr<std::unique_ptr<Transport>> OpenTransport(const Options& options,
                                                         const std::string& name) {
  TransportOptions transport;
  transport.session = options.session;
  transport.shm_dir = options.shm_dir;
  transport.segment_size_bytes = options.segment_bytes;
  transport.member_name = name;
  return Transport::Open(transport);
}

bool Stopped(const Progress& progress) { return progress.stop.load(std::memory_order_acquire); }

// Waits for memory until there is some or the run is stopped.
absl::StatusOr<Message> AllocateUnlessStopped(Transport& transport, uint64_t size_bytes,
                                              const Progress& progress) {
  for (;;) {
    absl::StatusOr<Message> message =
        transport.Allocate(size_bytes, {.deadline = Deadline::After(kSlice)});
    if (message.ok() || !absl::IsResourceExhausted(message.status())) return message;
    if (Stopped(progress)) return absl::CancelledError("stopped");
  }
}

absl::Status SendUnlessStopped(Socket& socket, Message& message, const Progress& progress) {
  for (;;) {
    const SocketResult result = socket.Send(std::move(message), Deadline::After(kSlice));
    if (result == SocketResult::kOk) return absl::OkStatus();
    if (result != SocketResult::kTimedOut) {
      return absl::InternalError(absl::StrCat("send: ", DescribeSocketResult(result)));
    }
    if (Stopped(progress)) return absl::CancelledError("stopped");
  }
}

// OK with an empty message: nothing came, look around.
absl::Status ReceiveForASlice(Socket& socket, Message* message) {
  const SocketResult result = socket.Receive(message, Deadline::After(kSlice));
  if (result == SocketResult::kOk || result == SocketResult::kTimedOut) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("receive: ", DescribeSocketResult(result)));
}

absl::Status CancelledIsFine(const absl::Status& status) {
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

}  // namespace

absl::Status RunReader(const Options& options, Progress& progress) {
  auto transport = OpenTransport(options, "reader");
  if (!transport.ok()) return transport.status();
  auto socket = (*transport)->CreateSocket(Pattern::kPush, {.send_high_water_mark = 16});
  if (!socket.ok()) return socket.status();
  if (absl::Status status = (*socket)->Bind(options.work_address); !status.ok()) return status;

  std::unique_ptr<Source> source;
  if (options.input.empty()) {
    source = GenerateFrames(options.generated_bytes, options.message_bytes);
  } else {
    auto files = OpenFiles(options.input, options.message_bytes);
    if (!files.ok()) return files.status();
    source = *std::move(files);
  }
  Digest digest;
  uint64_t number = 0;
  while (!Stopped(progress)) {
    const uint64_t size = source->NextSize();
    if (size == 0) break;
    auto message = AllocateUnlessStopped(**transport, sizeof(FrameHeader) + size, progress);
    if (!message.ok()) return CancelledIsFine(message.status());
    const std::span<std::byte> bytes = message->mutable_bytes();
    const auto got = source->Read(bytes.subspan(sizeof(FrameHeader)));
    if (!got.ok()) return got.status();
    if (*got == 0) break;
    if (*got < size && message->Shrink(sizeof(FrameHeader) + *got) != ShrinkResult::kOk) {
      return absl::InternalError("a message could not be made shorter");
    }
    digest.Add(bytes.subspan(sizeof(FrameHeader), *got));
    FrameHeader header;
    header.number = number++;
    header.payload_bytes = *got;
    header.segment_offset = message->segment_offset();
    WriteHeader(bytes, header);
    if (absl::Status status = SendUnlessStopped(**socket, *message, progress); !status.ok()) {
      return CancelledIsFine(status);
    }
    progress.sent_messages.fetch_add(1, std::memory_order_relaxed);
    progress.sent_bytes.fetch_add(*got, std::memory_order_relaxed);
  }
  digest.Finish(progress.input_digest);
  if (Stopped(progress)) return absl::OkStatus();
  progress.reader_done.store(true, std::memory_order_release);
  // The channel stays open until everything has arrived.
  while (!Stopped(progress) && !progress.finish.load(std::memory_order_acquire)) usleep(1000);
  return absl::OkStatus();
}

absl::Status RunWorker(const Options& options, Progress& progress, uint32_t worker) {
  auto transport = OpenTransport(options, absl::StrCat("worker ", worker));
  if (!transport.ok()) return transport.status();
  auto in = (*transport)->CreateSocket(Pattern::kPull, {.receive_high_water_mark = 4});
  if (!in.ok()) return in.status();
  auto out = (*transport)->CreateSocket(Pattern::kPush, {.send_high_water_mark = 4});
  if (!out.ok()) return out.status();
  if (absl::Status status = (*out)->Connect(options.done_address); !status.ok()) return status;
  if (absl::Status status = (*in)->Connect(options.work_address); !status.ok()) return status;

  WorkerProgress& mine = progress.workers[worker];
  while (!Stopped(progress) && !progress.finish.load(std::memory_order_acquire)) {
    Message message;
    if (absl::Status status = ReceiveForASlice(**in, &message); !status.ok()) return status;
    if (message.empty()) continue;
    mine.received.fetch_add(1, std::memory_order_relaxed);
    std::optional<FrameHeader> header = ReadHeader(message.bytes());
    if (header.has_value()) {
      mine.in_hands.store(header->number, std::memory_order_release);
      const std::span<std::byte> bytes = message.mutable_bytes();
      header->checksum = Checksum(bytes.subspan(sizeof(FrameHeader)));
      header->worker = worker;
      WriteHeader(bytes, *header);
    }
    if (absl::Status status = SendUnlessStopped(**out, message, progress); !status.ok()) {
      return CancelledIsFine(status);
    }
    mine.in_hands.store(kNoMessage, std::memory_order_release);
    mine.forwarded.fetch_add(1, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

namespace {

// Puts messages in order and writes them.
class Writer {
 public:
  Writer(Progress& progress, UniqueFd output) : progress_(progress), output_(std::move(output)) {}

  absl::Status Take(Message message) {
    progress_.received_messages.fetch_add(1, std::memory_order_relaxed);
    const std::optional<FrameHeader> header = ReadHeader(message.bytes());
    if (!header.has_value() || header->number < next_ || early_.contains(header->number)) {
      progress_.bad_messages.fetch_add(1, std::memory_order_relaxed);
      return absl::OkStatus();
    }
    early_.emplace(header->number, std::move(message));
    return WriteWhatIsDue();
  }

  // What is missing before the earliest message that is here will not come any more.
  absl::Status SkipGap() {
    const uint64_t to = early_.empty() ? progress_.sent_messages.load(std::memory_order_acquire)
                                       : early_.begin()->first;
    if (early_.empty() && !progress_.reader_done.load(std::memory_order_acquire)) {
      return absl::OkStatus();
    }
    if (to > next_) {
      if (progress_.lost_messages.fetch_add(to - next_, std::memory_order_release) == 0) {
        progress_.first_lost.store(next_, std::memory_order_relaxed);
      }
      next_ = to;
    }
    return WriteWhatIsDue();
  }

  bool Complete() const {
    return progress_.reader_done.load(std::memory_order_acquire) &&
           next_ >= progress_.sent_messages.load(std::memory_order_acquire);
  }

  void Finish() { digest_.Finish(progress_.output_digest); }

 private:
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
        if (errno == EINTR) continue;
        return absl::ErrnoToStatus(errno, "--output");
      }
      bytes = bytes.subspan(static_cast<size_t>(done));
    }
    return absl::OkStatus();
  }

  Progress& progress_;
  const UniqueFd output_;
  Digest digest_;
  uint64_t next_ = 0;
  std::map<uint64_t, Message> early_;
};

}  // namespace

absl::Status RunWriter(const Options& options, Progress& progress) {
  UniqueFd output;
  if (!options.output.empty()) {
    output = UniqueFd(open(options.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (output.get() < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("--output ", options.output));
    }
  }
  auto transport = OpenTransport(options, "writer");
  if (!transport.ok()) return transport.status();
  {
    auto socket = (*transport)->CreateSocket(Pattern::kPull, {.receive_high_water_mark = 16});
    if (!socket.ok()) return socket.status();
    if (absl::Status status = (*socket)->Bind(options.done_address); !status.ok()) return status;
    Writer writer(progress, std::move(output));
    while (!Stopped(progress) && !writer.Complete()) {
      Message message;
      absl::Status status = ReceiveForASlice(**socket, &message);
      if (status.ok() && !message.empty()) status = writer.Take(std::move(message));
      if (!status.ok()) return status;
      const uint64_t skip = progress.skip_gaps.load(std::memory_order_acquire);
      if (skip != progress.gaps_skipped.load(std::memory_order_relaxed)) {
        if (status = writer.SkipGap(); !status.ok()) return status;
        progress.gaps_skipped.store(skip, std::memory_order_release);
      }
    }
    if (Stopped(progress)) return absl::OkStatus();
    writer.Finish();
  }
  progress.blocks_held.store((*transport)->Usage().used_blocks, std::memory_order_relaxed);
  progress.writer_done.store(true, std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace handoff::pipeline

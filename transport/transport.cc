// SPDX-License-Identifier: Apache-2.0
#include "transport/transport.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/ring_table.h"
#include "allocator/segment_layout.h"
#include "allocator/segment_table.h"
#include "allocator/session_audit.h"
#include "allocator/size_class.h"
#include "base/byte_size.h"
#include "base/check.h"
#include "transport/parcel.h"

namespace handoff {

namespace {

constexpr uint32_t kMaxIoThreads = 16;

absl::Status Validate(const TransportOptions& options) {
  if (options.io_threads < 1 || options.io_threads > kMaxIoThreads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "transport option io_threads = ", options.io_threads, ": from 1 to ", kMaxIoThreads));
  }
  if (options.segment_size_bytes < kPageBytes || options.segment_size_bytes > kMaxSegmentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("transport option segment_size_bytes = ", options.segment_size_bytes,
                     ": from ", kPageBytes, " to ", kMaxSegmentBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> Transport::Open(const TransportOptions& options) {
  absl::Status status = Validate(options);
  if (!status.ok()) return status;
  SessionOptions session;
  session.names.session = options.session;
  session.names.shm_dir = options.shm_dir;
  session.names.main_segment = options.segment_name;
  session.member_name = options.member_name;
  session.main_segment_bytes = options.segment_size_bytes;
  session.main_segment_memory = options.segment_memory;
  session.join_deadline = options.join_deadline;
  session.shm_group = options.shm_group;
  session.on_notice = options.on_notice;
  absl::StatusOr<std::unique_ptr<Member>> member = Member::Join(std::move(session));
  if (!member.ok()) return member.status();
  std::unique_ptr<Transport> transport(new Transport(options, *std::move(member)));
  status = transport->interruption_.Open();
  if (!status.ok()) return status;
  return transport;
}

Transport::Transport(const TransportOptions& options, std::unique_ptr<Member> member)
    : session_(options.session),
      member_(std::move(member)),
      segment_(member_->main_segment()),
      zeromq_(options.io_threads) {
  member_->rings().Register(&zeromq_.departures());
}

Transport::~Transport() {
  if (InForkedChild()) return;
  HANDOFF_CHECK_EQ(open_sockets_.load(std::memory_order_acquire), 0)
      << "sockets are left when their transport of session " << session_ << " ends";
  member_->rings().Unregister(&zeromq_.departures());
}

absl::StatusOr<Message> Transport::Allocate(size_t size_bytes, const AllocateOptions& options) {
  if (size_bytes == 0) return Message();
  absl::Status status = Usable();
  if (!status.ok()) return status;
  const absl::StatusOr<SegmentPin> segment = member_->PinSegment(options.segment);
  if (!segment.ok()) return segment.status();
  const absl::StatusOr<Block> block =
      (*segment)->Allocate(size_bytes, options.alignment, options.deadline, &interruption_.flag());
  if (!block.ok()) return block.status();
  return internal::MessageAccess::Make(**segment, *block, size_bytes);
}

absl::Status Transport::CreateSegment(const SegmentRequest& request) {
  if (absl::Status status = Usable(); !status.ok()) return status;
  SegmentOptions options;
  options.id = request.id;
  options.size_bytes = request.size_bytes;
  options.memory = request.memory;
  const absl::Status status = member_->CreateSegment(std::move(options)).status();
  if (!absl::IsAlreadyExists(status) || !request.may_exist) return status;
  const absl::StatusOr<Segment*> found = member_->FindSegment(request.id);
  if (!found.ok()) return found.status();
  const uint64_t size_bytes = AlignUp(request.size_bytes, kPageBytes).value_or(0);
  if ((*found)->size_bytes() == size_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("segment ", request.id, " is there with ",
                                                    (*found)->size_bytes(),
                                                    " bytes; asked for were ", size_bytes));
}

absl::Status Transport::OpenSegment(uint32_t id, const SegmentMemory& memory) {
  if (absl::Status status = Usable(); !status.ok()) return status;
  return member_->FindSegment(id, memory).status();
}

absl::Status Transport::RemoveSegment(uint32_t id) {
  if (absl::Status status = Usable(); !status.ok()) return status;
  return member_->RemoveSegment(id);
}

std::vector<SegmentDescription> Transport::Segments() const {
  std::vector<SegmentDescription> segments;
  for (const SegmentInfo& info : member_->session().Segments()) {
    segments.push_back({info.id, member_->session().names().Segment(info.id), info.size_bytes});
  }
  std::sort(segments.begin(), segments.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  return segments;
}

absl::StatusOr<SegmentUsage> Transport::Usage(uint32_t segment) const {
  if (absl::Status status = Usable(); !status.ok()) return status;
  const absl::StatusOr<Segment*> found = member_->FindSegment(segment);
  if (!found.ok()) return found.status();
  return (*found)->Usage();
}

absl::StatusOr<std::vector<std::string>> Transport::Audit() const {
  if (absl::Status status = Usable(); !status.ok()) return status;
  return AuditSession(*member_);
}

absl::StatusOr<Message> Transport::Share(Message* message) {
  absl::Status status = Usable();
  if (!status.ok()) return status;
  if (!internal::IsOf(*member_, *message)) {
    return absl::InvalidArgumentError("a message of another transport cannot be shared here");
  }
  return internal::ShareMessage(*member_, message);
}

absl::StatusOr<std::unique_ptr<Socket>> Transport::CreateSocket(Pattern pattern,
                                                                const SocketOptions& options) {
  absl::Status status = options.Validate();
  if (status.ok()) status = Usable();
  if (!status.ok()) return status;
  std::unique_ptr<Socket> socket(new Socket(*this, interruption_, pattern, options));
  open_sockets_.fetch_add(1, std::memory_order_acq_rel);
  status = socket->interruption_.Open();
  if (!status.ok()) return status;
  return socket;
}

void Transport::Interrupt() noexcept {
  if (!InForkedChild()) interruption_.Raise();
}

void Transport::Resume() {
  if (!InForkedChild()) interruption_.Take();
}

absl::Status Transport::Usable() const {
  if (InForkedChild()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", session_,
                     ": this process was forked from a member and is none itself; it can open a "
                     "transport of its own"));
  }
  return member_->Usable();
}

}  // namespace handoff

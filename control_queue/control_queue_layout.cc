// SPDX-License-Identifier: Apache-2.0
#include "control_queue/control_queue_layout.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace handoff {

ControlQueue::ControlQueue(std::span<std::byte> bytes)
    : layout_(reinterpret_cast<Layout*>(bytes.data())), events_(layout_->events) {}

ControlQueue ControlQueue::Make(std::span<std::byte> bytes) {
  static_assert(std::is_standard_layout_v<Layout>);
  HANDOFF_CHECK_GE(bytes.size(), BytesNeeded());
  const ControlQueue queue(bytes);
  ControlQueueHeader& header = queue.layout_->header;
  header.layout_version = ControlQueueHeader::kLayoutVersion;
  header.member_slots = kMaxMembers;
  header.size_bytes = BytesNeeded();
  // Killed before: the object is half made, and nobody attaches to it.
  header.magic.store(ControlQueueHeader::kMagic, std::memory_order_release);
  return queue;
}

absl::StatusOr<ControlQueue> ControlQueue::Attach(std::span<std::byte> bytes) {
  if (bytes.size() < sizeof(ControlQueueHeader)) {
    return absl::DataLossError(
        absl::StrCat("control queue is half made: it has only ", bytes.size(), " bytes"));
  }
  const auto& header = *reinterpret_cast<const ControlQueueHeader*>(bytes.data());
  if (header.magic.load(std::memory_order_acquire) != ControlQueueHeader::kMagic) {
    return absl::DataLossError("control queue is half made: it has no header");
  }
  if (header.layout_version != ControlQueueHeader::kLayoutVersion ||
      header.member_slots != kMaxMembers || header.size_bytes != BytesNeeded()) {
    return absl::FailedPreconditionError(
        absl::StrCat("control queue has layout version ", header.layout_version, " with ",
                     header.member_slots, " slots in ", header.size_bytes,
                     " bytes; this program uses version ", ControlQueueHeader::kLayoutVersion,
                     " with ", kMaxMembers, " slots in ", BytesNeeded(), " bytes"));
  }
  if (bytes.size() < BytesNeeded()) {
    return absl::DataLossError(absl::StrCat("control queue was cut: ", bytes.size(), " of ",
                                            BytesNeeded(), " bytes are there"));
  }
  return ControlQueue(bytes);
}

Heartbeat<RealSync>& ControlQueue::heartbeat(uint32_t slot) const {
  HANDOFF_CHECK_LT(slot, kMaxMembers);
  return layout_->heartbeats[slot];
}

}  // namespace handoff

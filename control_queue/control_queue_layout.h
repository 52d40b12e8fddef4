// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_CONTROL_QUEUE_LAYOUT_H_
#define HANDOFF_CONTROL_QUEUE_CONTROL_QUEUE_LAYOUT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "absl/status/statusor.h"
#include "base/cache_line.h"
#include "base/sync.h"
#include "control_queue/event_log.h"
#include "control_queue/heartbeat.h"
#include "control_queue/member_id.h"

namespace handoff {

// The first line of a control queue. `magic` is stored last (release): without it the object is
// half made. The fields up to `layout_version` stay where they are in every version.
struct alignas(kCacheLineSize) ControlQueueHeader {
  static constexpr uint64_t kMagic = 0x3151435F4F444E48;  // "HNDO_CQ1" in memory
  static constexpr uint32_t kLayoutVersion = 1;

  std::atomic<uint64_t> magic;
  uint32_t layout_version;
  uint32_t member_slots;
  uint64_t size_bytes;
};
static_assert(std::is_standard_layout_v<ControlQueueHeader> &&
              sizeof(ControlQueueHeader) == kCacheLineSize);

// The object that members and monitors share besides the memory of a session: a heartbeat of each
// slot, and the event log. It is usable before and after any segment is there. A view, to be
// copied; the bytes are the caller's and outlive it.
class ControlQueue {
 public:
  // About 1.1 MiB. What is before EventsOffset() must be backed by memory, and of the events those
  // of every slot up to the highest that was ever used (EventLog::EndOf()): members and readers do
  // not ask.
  static constexpr size_t BytesNeeded();
  static constexpr size_t EventsOffset();

  // Makes an empty control queue of zeroed bytes, and declares it whole as the last step. `bytes`
  // are BytesNeeded() or more, aligned to a page. Nobody else may do so at the same time.
  static ControlQueue Make(std::span<std::byte> bytes);

  // Of what another process has made, aligned to a page. kDataLoss: its maker died before it was
  // whole, or it is something else: to be made again. kFailedPrecondition: made by a program with
  // another layout; names both. Bytes that are mapped read-only will do for whoever only reads.
  static absl::StatusOr<ControlQueue> Attach(std::span<std::byte> bytes);

  // The heartbeat of a slot below kMaxMembers.
  Heartbeat<RealSync>& heartbeat(uint32_t slot) const;

  const EventLog<RealSync>& events() const { return events_; }

 private:
  struct Layout;

  explicit ControlQueue(std::span<std::byte> bytes);

  Layout* layout_;
  EventLog<RealSync> events_;
};

struct ControlQueue::Layout {
  ControlQueueHeader header;
  Heartbeat<RealSync> heartbeats[kMaxMembers];
  alignas(kCacheLineSize) std::byte events[EventLog<RealSync>::BytesNeeded()];
};

constexpr size_t ControlQueue::BytesNeeded() { return sizeof(Layout); }
constexpr size_t ControlQueue::EventsOffset() { return offsetof(Layout, events); }

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_CONTROL_QUEUE_LAYOUT_H_

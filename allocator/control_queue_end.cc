// SPDX-License-Identifier: Apache-2.0
#include "allocator/control_queue_end.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/crash_point.h"

namespace handoff {
namespace {

// Header and heartbeats: what is written and read without asking.
constexpr uint64_t kBackedBytes = ControlQueue::EventsOffset();

constexpr OpenOptions Whole() {
  OpenOptions options;
  options.length_bytes = ControlQueue::BytesNeeded();
  return options;
}

absl::StatusOr<Mapping> Make(const ObjectNames& names, const FileAccess& access) {
  const std::string path = names.ControlQueuePath();
  // As long as what is backed, at first: the rest is a hole that only large sessions ever fill.
  absl::StatusOr<Mapping> made =
      Mapping::Create(path, {.size_bytes = kBackedBytes, .access = access});
  if (!made.ok()) return made;
  absl::Status status = made->Reserve(0, kBackedBytes);
  HANDOFF_CRASH_POINT("session.control_queue.backed");
  if (status.ok()) status = made->GrowFile(ControlQueue::BytesNeeded());
  absl::StatusOr<Mapping> whole = status.ok() ? made->Window(Whole()) : status;
  if (!whole.ok()) {
    Mapping::Remove(path).IgnoreError();
    return whole;
  }
  ControlQueue::Make(whole->bytes());
  HANDOFF_CRASH_POINT("session.control_queue.made");
  return whole;
}

}  // namespace

absl::StatusOr<Mapping> OpenOrMakeControlQueue(const ObjectNames& names, const FileAccess& access) {
  absl::StatusOr<Mapping> found = Mapping::Open(names.ControlQueuePath(), Whole());
  if (absl::IsResourceExhausted(found.status())) return found;  // no address space
  if (found.ok()) {
    // A half-made object has holes, and reading a hole takes memory, too.
    if (absl::Status status = found->Reserve(0, kBackedBytes); !status.ok()) return status;
    if (ControlQueue::Attach(found->bytes()).ok()) return found;
  }
  if (!absl::IsNotFound(found.status())) {
    const absl::Status removed = Mapping::Remove(names.ControlQueuePath());
    if (!removed.ok()) return removed;
  }
  return Make(names, access);
}

absl::Status BackEvents(Mapping& control_queue, uint32_t slot) {
  return control_queue.Reserve(0, ControlQueue::EventsOffset() + EventLog<RealSync>::EndOf(slot));
}

ControlQueueEnd::ControlQueueEnd(Mapping control_queue, MemberId self) : self_(self) {
  Replace(std::move(control_queue));
}

void ControlQueueEnd::Replace(Mapping control_queue) {
  const absl::StatusOr<ControlQueue> queue = ControlQueue::Attach(control_queue.bytes());
  HANDOFF_CHECK(queue.ok()) << std::string(queue.status().message());
  absl::MutexLock lock(&mutex_);
  mapping_ = std::move(control_queue);
  queue_ = *queue;
  writer_.emplace(queue->events(), self_.slot);
}

void ControlQueueEnd::Beat() {
  absl::MutexLock lock(&mutex_);
  queue_->heartbeat(self_.slot).Beat();
}

void ControlQueueEnd::Tell(EventKind kind, MemberId about, uint64_t first, uint64_t second) {
  absl::MutexLock lock(&mutex_);
  writer_->Append({.time_ns = static_cast<uint64_t>(MonotonicClock().NowNanoseconds()),
                   .kind = kind,
                   .member = about,
                   .arguments = {first, second}});
}

bool ControlQueueEnd::IsUnderItsName() const {
  absl::MutexLock lock(&mutex_);
  return mapping_.IsUnderItsName();
}

}  // namespace handoff

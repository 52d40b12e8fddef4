// SPDX-License-Identifier: Apache-2.0
#include "monitor/snapshot.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "allocator/management_layout.h"
#include "allocator/mapping.h"
#include "allocator/segment_layout.h"
#include "allocator/segment_view.h"
#include "allocator/session_lock.h"
#include "base/clock.h"
#include "control_queue/control_queue_layout.h"
#include "control_queue/life_lock.h"
#include "control_queue/stall_detector.h"

namespace handoff {

namespace {

// Third field of /proc/<pid>/stat, which comes after the name in brackets.
bool IsStopped(uint32_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(file, line)) return false;
  const size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos || end_of_name + 2 >= line.size()) return false;
  const char state = line[end_of_name + 2];
  return state == 'T' || state == 't';
}

std::vector<MemberSnapshot> LookAtMembers(ManagementLayout& layout, const LifeLock* lock) {
  const MemberTable<RealSync> table(layout.members);
  std::vector<MemberSnapshot> members;
  for (uint32_t slot = 1; slot < table.SlotsUsed(); ++slot) {
    const auto row = table.Load(slot);
    if (row.word.state == MemberState::kFree) continue;
    MemberSnapshot member;
    member.id = {slot, row.word.epoch};
    member.identity = row.identity;
    member.row_live = row.word.state == MemberState::kLive;
    if (lock != nullptr) {
      const absl::StatusOr<bool> held = lock->IsHeld(slot);
      member.lock_held = held.ok() && *held;
    }
    member.process_stopped = member.lock_held && IsStopped(row.identity.pid);
    members.push_back(std::move(member));
  }
  return members;
}

absl::StatusOr<SegmentSnapshot> LookAtSegment(const ObjectNames& names, const SegmentRow& row) {
  const SegmentWord word = SegmentWord::FromPacked(row.word.load(std::memory_order_acquire));
  if (word.state != SegmentState::kLive) return absl::NotFoundError("not in use");
  SegmentSnapshot segment;
  segment.id = row.id.load(std::memory_order_acquire);
  segment.name = names.Segment(segment.id);
  const uint64_t size_bytes = row.size_bytes.load(std::memory_order_acquire);
  const uint64_t offset = row.area_offset_bytes.load(std::memory_order_acquire);
  const uint64_t length = row.area_size_bytes.load(std::memory_order_acquire);
  if (SegmentWord::FromPacked(row.word.load(std::memory_order_acquire)) != word) {
    return absl::NotFoundError("changing");
  }
  if (size_bytes == 0 || size_bytes > kMaxSegmentBytes || size_bytes % kPageBytes != 0 ||
      length < SegmentAreaBytes(size_bytes) || offset % kWindowAlignmentBytes != 0) {
    return absl::DataLossError(absl::StrCat("segment ", segment.id, " of ", size_bytes,
                                            " bytes with an area of ", length, " bytes from ",
                                            offset));
  }
  absl::StatusOr<Mapping> area = Mapping::Open(
      names.ManagementPath(),
      {.read_only = true, .offset_bytes = offset, .length_bytes = length, .alignment_bytes = 0});
  if (!area.ok()) return area.status();
  const SegmentView<RealSync> view(area->bytes().data(), size_bytes / kPageBytes);
  segment.usage = ScanUsage(view);
  segment.reserved_bytes = view.backed_pages() * kPageBytes;
  segment.reclaimed_blocks = view.header().reclaimed_blocks.load(std::memory_order_relaxed);
  segment.reclaimed_bytes = view.header().reclaimed_bytes.load(std::memory_order_relaxed);
  segment.failed_allocations = view.header().failed_allocations.load(std::memory_order_relaxed);
  segment.waiters = view.header().waiters.load(std::memory_order_relaxed) != 0;
  return segment;
}

std::unique_ptr<LifeLock> OpenLock(const ObjectNames& names) {
  absl::StatusOr<std::unique_ptr<LifeLock>> lock = LifeLock::Open(names.LockFilePath());
  return lock.ok() ? *std::move(lock) : nullptr;
}

absl::StatusOr<Mapping> OpenManagement(const ObjectNames& names) {
  struct stat file;
  // A half-made one may have holes, and reading a hole takes memory, too.
  if (stat(names.ManagementPath().c_str(), &file) == 0 &&
      static_cast<uint64_t>(file.st_blocks) * 512 <
          std::min(static_cast<uint64_t>(file.st_size), kManagementFixedBytes)) {
    return absl::DataLossError(absl::StrCat(names.ManagementPath(), ": half made"));
  }
  return Mapping::Open(names.ManagementPath(), {.read_only = true,
                                                .offset_bytes = 0,
                                                .length_bytes = kManagementFixedBytes,
                                                .alignment_bytes = 0});
}

// Heartbeats and events. Null mapping: there is no such object, or none that is whole.
Mapping OpenControlQueue(const ObjectNames& names) {
  struct stat file;
  // A half-made one may be all hole, and reading a hole takes memory, too.
  if (stat(names.ControlQueuePath().c_str(), &file) != 0 || file.st_blocks == 0) return Mapping();
  absl::StatusOr<Mapping> mapping = Mapping::Open(
      names.ControlQueuePath(),
      {.read_only = true, .offset_bytes = 0, .length_bytes = 0, .alignment_bytes = 0});
  if (!mapping.ok() || !ControlQueue::Attach(mapping->bytes()).ok()) return Mapping();
  return *std::move(mapping);
}

// Until every living member has been seen to beat, or for `limit`.
void LookAtHeartbeats(const ControlQueue& queue, absl::Duration limit,
                      std::vector<MemberSnapshot>& members) {
  constexpr absl::Duration kPause = absl::Milliseconds(5);
  StallDetector detector(std::max(limit, absl::Nanoseconds(1)));
  for (MemberSnapshot& member : members) {
    member.heartbeats = queue.heartbeat(member.id.slot).Beats();
    detector.Look(member.id, member.heartbeats);
  }
  // From the last of these looks on: who does not beat until then is silent for `limit`.
  const Deadline deadline = Deadline::After(limit);
  const auto all_have_beaten = [&] {
    return std::all_of(members.begin(), members.end(), [&](const MemberSnapshot& member) {
      return !member.lock_held || queue.heartbeat(member.id.slot).Beats() != member.heartbeats;
    });
  };
  while (!all_have_beaten() && !deadline.expired()) {
    absl::SleepFor(std::min(kPause, deadline.remaining()));
  }
  for (MemberSnapshot& member : members) {
    member.heartbeats = queue.heartbeat(member.id.slot).Beats();
    member.stalled = detector.Look(member.id, member.heartbeats) && member.lock_held &&
                     limit > absl::ZeroDuration();
    member.silence_ms =
        static_cast<uint64_t>(absl::ToInt64Milliseconds(detector.Silence(member.id.slot)));
  }
}

std::vector<Event> LastEvents(const ControlQueue& queue) {
  EventReader<RealSync> reader(queue.events(), EventReader<RealSync>::Start::kOldest);
  std::vector<Event> events(EventLog<RealSync>::kRecords * kMaxMembers);
  events.resize(reader.Read(events));
  return events;
}

uint64_t Mix(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x9E3779B97F4A7C15 + 1; }

}  // namespace

uint32_t SessionSnapshot::LivingMembers() const {
  return static_cast<uint32_t>(std::count_if(members.begin(), members.end(),
                                             [](const MemberSnapshot& m) { return m.lock_held; }));
}

absl::StatusOr<SessionSnapshot> TakeSnapshot(const ObjectNames& names,
                                             absl::Duration heartbeat_limit) {
  SessionSnapshot snapshot;
  snapshot.taken_at_ns = static_cast<uint64_t>(MonotonicClock().NowNanoseconds());
  snapshot.session = names.session();
  absl::StatusOr<std::vector<SessionObject>> objects = names.ListPresent();
  if (!objects.ok()) return objects.status();
  for (const SessionObject& object : *objects) {
    struct stat file;
    if (stat(names.Path(object.name).c_str(), &file) != 0) continue;
    snapshot.objects.push_back({object.name, static_cast<uint64_t>(file.st_size),
                                static_cast<uint64_t>(file.st_blocks) * 512});
  }
  if (snapshot.objects.empty()) return snapshot;
  // Independent of all the rest, so also what a session has told that is half made or gone.
  Mapping control_queue = OpenControlQueue(names);
  if (control_queue.size_bytes() != 0) {
    snapshot.events = LastEvents(*ControlQueue::Attach(control_queue.bytes()));
  }
  snapshot.state = SessionState::kHalfMade;
  absl::StatusOr<Mapping> management = OpenManagement(names);
  if (absl::IsPermissionDenied(management.status())) {
    const absl::Status owner = CheckSessionOwner(names, {});
    return owner.ok() ? management.status() : owner;
  }
  if (!management.ok()) {
    snapshot.problem = std::string(management.status().message());
    return snapshot;
  }
  switch (CheckManagement(management->bytes())) {
    case ManagementCheck::kHalfMade:
      snapshot.problem = "its management object is half made";
      return snapshot;
    case ManagementCheck::kOtherBuild:
      snapshot.state = SessionState::kOtherBuild;
      snapshot.problem = DescribeBuildMismatch(management->bytes());
      return snapshot;
    case ManagementCheck::kUsable:
      break;
  }
  snapshot.state = SessionState::kUsable;
  auto& layout = *reinterpret_cast<ManagementLayout*>(management->bytes().data());
  snapshot.nonce = layout.header.object.nonce;
  snapshot.created_at_ns = layout.header.object.created_at_ns;
  snapshot.owner_uid = layout.header.object.owner_uid;
  const std::unique_ptr<LifeLock> lock = OpenLock(names);
  snapshot.members = LookAtMembers(layout, lock.get());
  if (control_queue.size_bytes() != 0) {
    LookAtHeartbeats(*ControlQueue::Attach(control_queue.bytes()), heartbeat_limit,
                     snapshot.members);
  }
  for (const SegmentRow& row : layout.segments) {
    absl::StatusOr<SegmentSnapshot> segment = LookAtSegment(names, row);
    if (segment.ok()) {
      snapshot.segments.push_back(*std::move(segment));
    } else if (!absl::IsNotFound(segment.status())) {
      snapshot.problem = std::string(segment.status().message());
    }
  }
  return snapshot;
}

absl::StatusOr<SessionPresence> LookForSession(const ObjectNames& names) {
  SessionPresence presence;
  absl::StatusOr<std::vector<SessionObject>> objects = names.ListPresent();
  if (!objects.ok()) return objects.status();
  for (const SessionObject& object : *objects) {
    struct stat file;
    if (stat(names.Path(object.name).c_str(), &file) != 0) continue;
    presence.any_object = true;
    presence.fingerprint =
        Mix(Mix(presence.fingerprint, file.st_ino), static_cast<uint64_t>(file.st_mtim.tv_nsec) ^
                                                        static_cast<uint64_t>(file.st_mtim.tv_sec));
  }
  const std::unique_ptr<LifeLock> lock = OpenLock(names);
  if (lock == nullptr) return presence;
  // Every byte, not only those of live rows: the rows may be damaged, or not made yet.
  for (uint32_t slot = 0; slot < kMaxMembers; ++slot) {
    const absl::StatusOr<bool> held = lock->IsHeld(slot);
    if (held.ok() && *held) ++presence.living_members;
  }
  const absl::StatusOr<Mapping> management = OpenManagement(names);
  if (management.ok() && CheckManagement(management->bytes()) == ManagementCheck::kUsable) {
    auto& layout = *reinterpret_cast<ManagementLayout*>(management->bytes().data());
    const MemberTable<RealSync> table(layout.members);
    presence.fingerprint = Mix(presence.fingerprint, table.Changes());
    for (const MemberSnapshot& member : LookAtMembers(layout, lock.get())) {
      if (member.lock_held) continue;
      presence.unreclaimed =
          Mix(presence.unreclaimed, uint64_t{member.id.epoch} << 32 | member.id.slot);
    }
  }
  Mapping control_queue = OpenControlQueue(names);
  if (control_queue.size_bytes() != 0) {
    const ControlQueue queue = *ControlQueue::Attach(control_queue.bytes());
    for (uint32_t slot = 1; slot < kMaxMembers; ++slot) {
      if (const uint64_t beats = queue.heartbeat(slot).Beats(); beats != 0) {
        presence.fingerprint = Mix(presence.fingerprint, beats);
      }
    }
  }
  return presence;
}

}  // namespace handoff

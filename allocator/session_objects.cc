// SPDX-License-Identifier: Apache-2.0
#include "allocator/session_objects.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/death_probe.h"
#include "allocator/session_lock.h"
#include "base/clock.h"
#include "base/crash_point.h"
#include "base/process_id.h"
#include "control_queue/member_id.h"

namespace handoff {
namespace {

absl::StatusOr<uint64_t> RandomNonce() {
  uint64_t nonce = 0;
  while (getrandom(&nonce, sizeof(nonce), 0) != static_cast<ssize_t>(sizeof(nonce))) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "drawing a random number");
  }
  return nonce;
}

}  // namespace

absl::StatusOr<FoundManagement> FindManagement(const ObjectNames& names) {
  FoundManagement found;
  const std::string path = names.ManagementPath();
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return found;
    return absl::ErrnoToStatus(errno, absl::StrCat("looking for ", path));
  }
  found.state = FoundManagement::State::kUnusable;
  if (!S_ISREG(info.st_mode) || info.st_size == 0) return found;
  // Another build's may be shorter, and is to be named all the same.
  OpenOptions window;
  window.length_bytes =
      std::min<uint64_t>(static_cast<uint64_t>(info.st_size), kManagementFixedBytes);
  absl::StatusOr<Mapping> mapping = Mapping::Open(path, window);
  if (!mapping.ok()) return mapping.status();
  // A half-made object may have holes, and reading a hole takes memory, too.
  if (absl::Status status = mapping->Reserve(0, mapping->size_bytes()); !status.ok()) return status;
  switch (CheckManagement(mapping->bytes())) {
    case ManagementCheck::kHalfMade:
      return found;
    case ManagementCheck::kOtherBuild:
      found.state = FoundManagement::State::kOtherBuild;
      found.mismatch = absl::StrCat("session '", names.session(), "' (", path, ") was ",
                                    DescribeBuildMismatch(mapping->bytes()));
      return found;
    case ManagementCheck::kUsable:
      break;
  }
  found.mapping = std::move(mapping).value();
  const ManagementHeader& header = found.layout().header;
  if (MainSegmentName(header).empty()) {
    found.mapping = Mapping();
    return found;
  }
  found.state = header.lock_inode == LockFileInode(names) ? FoundManagement::State::kUsable
                                                          : FoundManagement::State::kOfAnotherLock;
  return found;
}

absl::StatusOr<Mapping> MakeManagementObject(const ObjectNames& names, const FileAccess& access) {
  const absl::StatusOr<uint64_t> nonce = RandomNonce();
  if (!nonce.ok()) return nonce.status();
  const std::string path = names.ManagementPath();
  absl::StatusOr<Mapping> mapping =
      Mapping::Create(path, {.size_bytes = kManagementFixedBytes, .access = access});
  if (!mapping.ok()) return mapping;
  if (absl::Status status = mapping->Reserve(0, kManagementFixedBytes); !status.ok()) {
    Mapping::Remove(path).IgnoreError();
    return status;
  }
  HANDOFF_CRASH_POINT("session.management.backed");
  const std::string main_segment = names.Segment(0);
  MakeManagement(mapping->bytes(), {.nonce = *nonce,
                                    .created_at_ns = static_cast<uint64_t>(WallTimeNanoseconds()),
                                    .owner_uid = geteuid(),
                                    .creator_pid = static_cast<uint32_t>(getpid()),
                                    .lock_inode = LockFileInode(names),
                                    .access = access,
                                    .main_segment = main_segment});
  HANDOFF_CRASH_POINT("session.management.made");
  return mapping;
}

absl::StatusOr<ObjectNames> NamesInUse(const ObjectNames& names,
                                       const ManagementLayout& management) {
  return ObjectNames::Create({.session = names.session(),
                              .shm_dir = names.shm_dir(),
                              .main_segment = MainSegmentName(management.header)});
}

absl::StatusOr<std::vector<std::string>> RemoveObjects(const ObjectNames& names,
                                                       const RemoveObjectsOptions& options) {
  const absl::StatusOr<std::vector<SessionObject>> present = names.ListPresent();
  if (!present.ok()) return present.status();
  std::vector<std::string> removed;
  absl::Status first_error;
  for (const SessionObject& object : *present) {
    if (object.kind == ObjectKind::kLockFile && !(options.lock_file && first_error.ok())) continue;
    const bool renamed_main = names.main_is_renamed() && object.name == names.Segment(0);
    if (renamed_main && !options.renamed_main_segment) continue;
    if (absl::Status status = Mapping::Remove(names.Path(object.name)); !status.ok()) {
      first_error.Update(status);
      continue;
    }
    HANDOFF_CRASH_POINT("session.remove.object");
    removed.push_back(object.name);
  }
  if (!first_error.ok()) return first_error;
  return removed;
}

bool HasMainSegment(const ManagementLayout& management) {
  for (uint32_t row = 0; row < kMaxSegments; ++row) {
    const SegmentInfo info = LoadSegmentRow(management, row);
    if (info.word.state != SegmentState::kFree && info.id == 0) return true;
  }
  return false;
}

std::vector<LivingMember> LivingMembers(ManagementLayout& management, uint64_t management_inode,
                                        const LifeLock& lock) {
  MemberTable<RealSync> members(management.members);
  const std::shared_ptr<const LifeLock> unowned(std::shared_ptr<const LifeLock>(), &lock);
  const DeathProbe probe(
      members, [&] { return unowned; }, management_inode, /*self=*/0);
  std::vector<LivingMember> living;
  for (uint32_t slot = 1, end = members.SlotsUsed(); slot < end; ++slot) {
    const Probe look = probe.Look(slot);
    if (look.result == ProbeResult::kAlive || look.result == ProbeResult::kLockLostButRunning) {
      living.push_back({slot, look.identity.pid});
    }
  }
  return living;
}

std::vector<LivingMember> RunningMembers(ManagementLayout& management) {
  const MemberTable<RealSync> members(management.members);
  const absl::StatusOr<ProcessId> self = CurrentProcessId();
  std::vector<LivingMember> running;
  members.ForEachLive([&](MemberId member) {
    const MemberIdentity identity = members.Load(member.slot).identity;
    const bool known = self.ok() && identity.pid_namespace == self->pid_namespace;
    if (known && !IsRunning(static_cast<pid_t>(identity.pid), identity.start_time)) return;
    running.push_back({member.slot, identity.pid});
  });
  return running;
}

std::vector<LivingMember> HeldLifeBytes(const LifeLock& lock) {
  std::vector<LivingMember> living;
  for (uint32_t byte = kGuardByte + 1; byte < kMaxMembers; ++byte) {
    const absl::StatusOr<bool> held = lock.IsHeld(byte);
    if (!held.ok() || *held) living.push_back({byte, 0});
  }
  return living;
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/death_probe.h"

#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/process_id.h"

namespace handoff {

bool MayHaveMapped(pid_t pid, uint64_t inode) {
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  bool any = false;
  for (std::string line; std::getline(maps, line);) {
    any = true;
    // address permissions offset device inode path
    std::istringstream fields(line);
    std::string skipped;
    uint64_t mapped_inode = 0;
    fields >> skipped >> skipped >> skipped >> skipped >> mapped_inode;
    if (fields.fail() || mapped_inode == inode) return true;
  }
  // Nothing at all is what an unreadable process shows, and one whose first thread has ended.
  return !any || maps.bad();
}

DeathProbe::DeathProbe(MemberTable<RealSync>& members, LockSource lock, uint64_t management_inode,
                       uint32_t self)
    : members_(members), lock_(std::move(lock)), management_inode_(management_inode), self_(self) {
  if (const absl::StatusOr<ProcessId> process = CurrentProcessId(); process.ok()) {
    pid_namespace_ = process->pid_namespace;
  }
}

Probe DeathProbe::Look(uint32_t slot) const {
  const MemberTable<RealSync>::Member member = members_.Load(slot);  // Step 1.
  Probe probe = {.member = {slot, member.word.epoch}, .identity = member.identity};
  if (member.word.state == MemberState::kFree) return probe;
  if (member.word.state != MemberState::kLive) {
    probe.result = ProbeResult::kDead;
    return probe;
  }
  probe.result = ProbeResult::kAlive;
  if (slot == self_) return probe;

  const absl::StatusOr<bool> held = lock_()->IsHeld(slot);  // Step 2.
  if (!held.ok()) return probe;
  // Step 3. The lock alone decides about other namespaces.
  const bool known = pid_namespace_ != 0 && member.identity.pid_namespace == pid_namespace_;
  const pid_t pid = static_cast<pid_t>(member.identity.pid);
  const bool runs = known && IsRunning(pid, member.identity.start_time);
  if (*held && (!known || runs)) return probe;
  if (!*held && runs && MayHaveMapped(pid, management_inode_)) {
    probe.result = ProbeResult::kLockLostButRunning;
    return probe;
  }
  HANDOFF_CRASH_POINT("probe.before_mark");
  if (!members_.MarkDead(probe.member)) {  // Step 4.
    probe.result = ProbeResult::kFree;     // somebody else has reclaimed it by now
    return probe;
  }
  HANDOFF_CRASH_POINT("probe.after_mark");
  probe.result = ProbeResult::kDead;
  probe.found_now = true;
  probe.lock_outlived_process = *held;
  return probe;
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/cleanup.h"

#include <memory>
#include <utility>

#include "allocator/session_lock.h"
#include "control_queue/life_lock.h"

namespace handoff {
namespace {

std::vector<LivingMember> WhoLives(FoundManagement& found, const LifeLock& lock) {
  switch (found.state) {
    case FoundManagement::State::kUsable:
      return LivingMembers(found.layout(), found.mapping.inode(), lock);
    case FoundManagement::State::kOfAnotherLock:
      return RunningMembers(found.layout());
    case FoundManagement::State::kMissing:
    case FoundManagement::State::kUnusable:
    case FoundManagement::State::kOtherBuild:
      return HeldLifeBytes(lock);
  }
  return {};
}

}  // namespace

absl::StatusOr<CleanupResult> RemoveSession(const ObjectNames& names, const FileAccess& access,
                                            const Deadline& deadline) {
  CleanupResult result;
  const absl::StatusOr<std::vector<SessionObject>> present = names.ListPresent();
  if (!present.ok()) return present.status();
  if (present->empty()) return result;

  const absl::StatusOr<std::unique_ptr<LifeLock>> lock =
      EnterSession(names, {.create = true, .access = access}, deadline);
  if (!lock.ok()) return lock.status();
  const SessionEntered entered(**lock);
  absl::StatusOr<FoundManagement> found = FindManagement(names);
  if (!found.ok()) return found.status();
  result.living = WhoLives(*found, **lock);
  if (!result.living.empty()) {
    // Those who live may have lost their lock file; then the one we have made is of no use to
    // anybody.
    if (HeldLifeBytes(**lock).empty() && found->state == FoundManagement::State::kOfAnotherLock) {
      Mapping::Remove(names.LockFilePath()).IgnoreError();
    }
    return result;
  }

  const bool readable = !found->mapping.bytes().empty();
  const absl::StatusOr<ObjectNames> in_use =
      readable ? NamesInUse(names, found->layout()) : absl::StatusOr<ObjectNames>(names);
  if (!in_use.ok()) return in_use.status();
  absl::StatusOr<std::vector<std::string>> removed = RemoveObjects(
      *in_use,
      {.lock_file = true, .renamed_main_segment = !readable || HasMainSegment(found->layout())});
  if (!removed.ok()) return removed.status();
  result.removed = *std::move(removed);
  return result;
}

}  // namespace handoff

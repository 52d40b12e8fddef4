// SPDX-License-Identifier: Apache-2.0
#include "allocator/session.h"

#include <errno.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/file_system.h"
#include "allocator/session_lock.h"
#include "allocator/session_objects.h"
#include "allocator/size_class.h"
#include "base/barrier.h"
#include "base/byte_size.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "base/fork_guard.h"
#include "base/process_id.h"

namespace handoff {
namespace {

MemberIdentity OwnIdentity(const std::string& member_name) {
  MemberIdentity identity;
  identity.pid = static_cast<uint32_t>(getpid());
  identity.uid = geteuid();
  // Without /proc the namespace stays 0, and the life lock alone decides about this member.
  if (const absl::StatusOr<ProcessId> process = CurrentProcessId(); process.ok()) {
    identity.start_time = process->start_time;
    identity.pid_namespace = process->pid_namespace;
  }
  identity.joined_at_ns = static_cast<uint64_t>(WallTimeNanoseconds());
  identity.build_hash = kBuildHash;
  identity.SetName(member_name.empty() ? program_invocation_short_name : member_name.c_str());
  return identity;
}

absl::Status CheckOptions(const SessionOptions& options) {
  if (options.join_deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "join deadline ", absl::FormatDuration(options.join_deadline), ": must be positive"));
  }
  if (options.watch_period < absl::Milliseconds(1) || options.watch_period > absl::Seconds(1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "watch period ", absl::FormatDuration(options.watch_period), ": must be 1 ms to 1 s"));
  }
  return absl::OkStatus();
}

// The first free row whose life byte is granted: a byte may outlive its row for a while.
absl::StatusOr<uint32_t> TakeSlot(const MemberTable<RealSync>& members, LifeLock& lock) {
  for (std::optional<uint32_t> slot = members.NextFree(1); slot.has_value();
       slot = members.NextFree(*slot + 1)) {
    const absl::StatusOr<bool> granted = lock.TryLock(*slot);
    if (!granted.ok()) return granted.status();
    if (*granted) return *slot;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kMaxMembers - 1, " slots for members are in use"));
}

}  // namespace

// What a join makes or finds while byte 0 is held.
struct Session::Joined {
  ObjectNames names;
  FileAccess access;
  std::shared_ptr<LifeLock> lock;
  const bool only_if_alive;
  // Nobody else lives in the session, and that is known: what is there may be removed.
  bool empty = false;
  Mapping management = {};
  Mapping control_queue = {};
  bool made_main_segment = false;
  MemberId self = {};

  ManagementLayout& layout() const {
    return *reinterpret_cast<ManagementLayout*>(management.bytes().data());
  }

  absl::Status OpenOrMakeManagement();
  absl::Status OpenControlQueue();
  absl::Status MakeMainSegment(const SessionOptions& options);
  absl::Status BecomeMember(const SessionOptions& options);
  absl::Status RemoveEverything(bool lock_file);
};

absl::Status Session::Joined::RemoveEverything(bool lock_file) {
  const bool usable = !management.bytes().empty();
  const absl::StatusOr<ObjectNames> in_use = usable ? NamesInUse(names, layout()) : names;
  if (!in_use.ok()) return in_use.status();
  return RemoveObjects(*in_use, {.lock_file = lock_file,
                                 .renamed_main_segment = usable && HasMainSegment(layout())})
      .status();
}

absl::Status Session::Joined::OpenOrMakeManagement() {
  absl::StatusOr<FoundManagement> found = FindManagement(names);
  if (!found.ok()) return found.status();
  if (found->state == FoundManagement::State::kOtherBuild) {
    const size_t living = HeldLifeBytes(*lock).size();
    if (living != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(found->mismatch, "; ", living, " members are alive in it"));
    }
  }
  bool alive = false;
  management = std::move(found->mapping);
  if (found->state == FoundManagement::State::kUsable) {
    alive = !LivingMembers(layout(), management.inode(), *lock).empty();
  }
  if (!alive && only_if_alive) {
    return absl::NotFoundError(
        absl::StrCat("session '", names.session(), "': nobody is alive in it"));
  }
  empty = !alive;
  if (alive) {
    absl::StatusOr<ObjectNames> in_use = NamesInUse(names, layout());
    if (!in_use.ok()) return in_use.status();
    names = *std::move(in_use);
    access = AccessOf(layout().header);
    return absl::OkStatus();
  }
  // Nobody is left of the former session, or it was never ready: begin anew.
  if (absl::Status status = RemoveEverything(/*lock_file=*/false); !status.ok()) return status;
  HANDOFF_CRASH_POINT("session.join.removed");
  management = Mapping();
  if (absl::Status status = SetLockFileAccess(names, access); !status.ok()) return status;
  absl::StatusOr<Mapping> made = MakeManagementObject(names, access);
  if (!made.ok()) return made.status();
  management = *std::move(made);
  return absl::OkStatus();
}

absl::Status Session::Joined::OpenControlQueue() {
  absl::StatusOr<Mapping> opened = OpenOrMakeControlQueue(names, access);
  if (!opened.ok()) return opened.status();
  control_queue = *std::move(opened);
  return absl::OkStatus();
}

absl::Status Session::Joined::MakeMainSegment(const SessionOptions& options) {
  SegmentTable segments(management, names, access);
  if (absl::Status status = segments.Repair(); !status.ok()) return status;
  if (options.main_segment_bytes == 0 || HasMainSegment(layout())) return absl::OkStatus();
  SegmentOptions segment;
  segment.size_bytes = options.main_segment_bytes;
  segment.memory = options.main_segment_memory;
  segment.prepare = options.prepare_segment;
  const absl::Status status = segments.Create(segment).status();
  made_main_segment = status.ok();
  return status;
}

absl::Status Session::Joined::BecomeMember(const SessionOptions& options) {
  MemberTable<RealSync> members(layout().members);
  const absl::StatusOr<uint32_t> slot = TakeSlot(members, *lock);
  if (!slot.ok()) return slot.status();
  HANDOFF_CRASH_POINT("session.join.slot_locked");
  if (absl::Status status = BackEvents(control_queue, *slot); !status.ok()) return status;
  // Before the row is live: whoever sees this member must be able to rely on its barriers.
  if (!RegisterForRareSideBarrier()) layout().header.fences.store(1, std::memory_order_seq_cst);
  const std::optional<MemberId> member = members.Publish(*slot, OwnIdentity(options.member_name));
  HANDOFF_CHECK(member.has_value()) << "slot " << *slot << " was taken without byte 0";
  HANDOFF_CRASH_POINT("session.join.row_live");
  self = *member;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Session>> Session::Join(const SessionOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  absl::StatusOr<ObjectNames> names = ObjectNames::Create(options.names);
  if (!names.ok()) return names.status();
  FileAccess access;
  if (!options.shm_group.empty()) {
    const absl::StatusOr<gid_t> group = FindGroup(options.shm_group);
    if (!group.ok()) return group.status();
    access.group = *group;
  }
  absl::StatusOr<std::unique_ptr<LifeLock>> lock =
      EnterSession(*names, {.create = !options.only_if_alive, .access = access},
                   Deadline::After(options.join_deadline));
  if (!lock.ok()) return lock.status();

  Joined joined = {.names = *std::move(names),
                   .access = access,
                   .lock = *std::move(lock),
                   .only_if_alive = options.only_if_alive};
  {
    const SessionEntered entered(*joined.lock);
    absl::Status status = joined.OpenOrMakeManagement();
    if (status.ok()) status = joined.OpenControlQueue();
    if (status.ok()) status = joined.MakeMainSegment(options);
    if (status.ok()) status = joined.BecomeMember(options);
    if (!status.ok()) {
      if (joined.empty) joined.RemoveEverything(/*lock_file=*/true).IgnoreError();
      return status;
    }
  }
  HANDOFF_CRASH_POINT("session.join.joined");

  const bool made_main_segment = joined.made_main_segment;
  std::unique_ptr<Session> session(new Session(options, std::move(joined)));
  session->Tell(EventKind::kMemberJoined, session->self_, static_cast<uint64_t>(getpid()));
  if (made_main_segment) {
    session->Tell(EventKind::kSegmentCreated, {}, 0,
                  AlignUp(options.main_segment_bytes, kPageBytes).value());
  }
  if (absl::Status status = session->StartWatch(); !status.ok()) return status;
  return session;
}

Session::Session(const SessionOptions& options, Joined joined)
    : options_(options),
      names_(std::move(joined.names)),
      access_(joined.access),
      fork_generation_(ForkGeneration()),
      management_(std::move(joined.management)),
      segments_(management_, names_, access_),
      members_(const_cast<ManagementLayout&>(layout()).members),
      self_(joined.self),
      control_queue_(std::move(joined.control_queue), self_),
      lock_(std::move(joined.lock)),
      probe_(
          members_, [this] { return lock(); }, management_.inode(), self_.slot) {}

Session::~Session() {
  if (fork_generation_ == ForkGeneration()) Leave().IgnoreError();
}

absl::Status Session::StartWatch() {
  absl::StatusOr<std::unique_ptr<MemberWatch>> watch = MemberWatch::Start(
      members_, probe_, self_,
      {.period = options_.watch_period,
       .on_dead =
           [this](const Probe& probe) {
             NotifyDeath(probe);
             Reclaim(probe.member);
           },
       .on_lock_lost =
           [this](const Probe& probe) {
             Notify(SessionNotice::Kind::kLockLostButRunning, probe.member, probe.identity.pid);
           },
       .on_period = [this] { return OnPeriod(); }});
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  return absl::OkStatus();
}

absl::Status Session::CheckUsable() const {
  const auto unusable = [&](const char* why) {
    return absl::FailedPreconditionError(absl::StrCat("session '", names_.session(), "': ", why));
  };
  if (fork_generation_ != ForkGeneration()) {
    return unusable("was joined before this process was forked; a child must not use it");
  }
  if (!stopped_.load(std::memory_order_acquire)) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  return left_ ? unusable("this member has left")
               : unusable("this member has lost its life lock, and was or may be declared dead");
}

std::shared_ptr<LifeLock> Session::lock() const {
  absl::MutexLock lock(&mutex_);
  return lock_;
}

void Session::Notify(SessionNotice::Kind kind, MemberId member, uint32_t pid) const {
  if (options_.on_notice) options_.on_notice({.kind = kind, .member = member, .pid = pid});
}

void Session::NotifyDeath(const Probe& probe) {
  if (!probe.found_now) return;
  control_queue_.Tell(EventKind::kMemberDied, probe.member, probe.identity.pid);
  Notify(SessionNotice::Kind::kMemberDied, probe.member, probe.identity.pid);
  if (probe.lock_outlived_process) {
    Notify(SessionNotice::Kind::kLockOutlivedProcess, probe.member, probe.identity.pid);
  }
}

// Keeps the hooks from being replaced while a call of theirs is under way.
class Session::HookCall {
 public:
  explicit HookCall(Session& session) : session_(session) {
    absl::MutexLock lock(&session_.mutex_);
    ++session_.hook_calls_;
    hooks_ = session_.hooks_;
    reclaims_ = session_.reclaims_;
  }
  HookCall(const HookCall&) = delete;
  HookCall& operator=(const HookCall&) = delete;
  ~HookCall() {
    absl::MutexLock lock(&session_.mutex_);
    --session_.hook_calls_;
  }

  MemberHooks* hooks() const { return hooks_; }  // null: there are none
  bool reclaims() const { return reclaims_; }

 private:
  Session& session_;
  MemberHooks* hooks_;
  bool reclaims_;
};

void Session::set_hooks(MemberHooks* hooks) {
  if (fork_generation_ != ForkGeneration()) return;
  {
    absl::MutexLock lock(&mutex_);
    hooks_ = hooks;
    reclaims_ = true;
    mutex_.Await(absl::Condition(
        +[](uint32_t* calls) { return *calls == 0; }, &hook_calls_));
  }
  ReclaimDead();
}

void Session::Reclaim(MemberId member) {
  const HookCall call(*this);
  if (!call.reclaims()) return;
  if (call.hooks() != nullptr && !call.hooks()->ReclaimMember(member)) return;
  HANDOFF_CRASH_POINT("session.reclaim.done");
  members_.Free(member);
}

bool Session::ReclaimDead() {
  if (!CheckUsable().ok()) return false;
  bool any = false;
  for (uint32_t slot = 1, end = members_.SlotsUsed(); slot < end; ++slot) {
    const Probe probe = probe_.Look(slot);
    if (probe.result != ProbeResult::kDead) continue;
    any = true;
    NotifyDeath(probe);
    Reclaim(probe.member);
  }
  return any;
}

WatchTurn Session::OnPeriod() {
  WatchTurn turn = WatchTurn::kGoOn;
  if (!lock()->IsOpen()) {
    // Told once, also where it takes several turns: the watch's next descriptors are its own again.
    if (!std::exchange(lock_is_lost_, true)) turn = WatchTurn::kDescriptorsLost;
    switch (TakeLifeLockAgain()) {
      case Retaken::kYes:
        lock_is_lost_ = false;
        break;
      case Retaken::kLater:
        break;
      case Retaken::kNever:
        return StopForGood();
    }
  }
  if (!members_.Alive(self_)) return StopForGood();
  control_queue_.Beat();
  LookForRemovedObjects();
  const HookCall call(*this);
  if (call.hooks() != nullptr) call.hooks()->Tick();
  return turn;
}

Session::Retaken Session::TakeLifeLockAgain() {
  absl::StatusOr<std::unique_ptr<LifeLock>> opened = LifeLock::Open(names_.LockFilePath());
  if (absl::IsResourceExhausted(opened.status()))
    return Retaken::kLater;  // no descriptor to be had
  if (!opened.ok() || (*opened)->inode() != lock()->inode()) return Retaken::kNever;
  const absl::StatusOr<bool> granted = (*opened)->TryLock(self_.slot);
  // The row is looked at once the byte is ours: from here on nobody declares us dead, so it stays.
  if (!granted.ok() || !*granted || !members_.Alive(self_)) return Retaken::kNever;
  {
    absl::MutexLock lock(&mutex_);
    lock_ = *std::move(opened);
  }
  Notify(SessionNotice::Kind::kOwnLockTakenAgain, self_, static_cast<uint32_t>(getpid()));
  return Retaken::kYes;
}

WatchTurn Session::StopForGood() {
  stopped_.store(true, std::memory_order_release);
  StopMoves();
  Notify(SessionNotice::Kind::kOwnLockLost, self_, static_cast<uint32_t>(getpid()));
  return WatchTurn::kEnd;
}

void Session::StopMoves() {
  if (moves_stopped_.exchange(true, std::memory_order_acq_rel)) return;
  const HookCall call(*this);
  if (call.hooks() != nullptr) call.hooks()->StopMoves();
}

void Session::LookForRemovedObjects() {
  if (removal_reported_) return;
  if (management_.IsUnderItsName() && LockFileInode(names_) == lock()->inode()) {
    if (!control_queue_.IsUnderItsName()) RestoreControlQueue();
    return;
  }
  removal_reported_ = true;
  control_queue_.Tell(EventKind::kObjectsRemoved, self_);
  Notify(SessionNotice::Kind::kObjectsRemoved, self_, 0);
}

void Session::RestoreControlQueue() {
  Mapping restored;
  const absl::Status status = WithObjectsLocked([&] {
    absl::StatusOr<Mapping> opened = OpenOrMakeControlQueue(names_, access_);
    if (!opened.ok()) return opened.status();
    restored = *std::move(opened);
    return BackEvents(restored, self_.slot);
  });
  if (!status.ok()) return;  // in the next period once more
  control_queue_.Replace(std::move(restored));
  control_queue_.Tell(EventKind::kObjectsRemoved, self_);
}

absl::Status Session::Leave() {
  if (fork_generation_ != ForkGeneration()) return CheckUsable();
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(left_, true)) return absl::OkStatus();
  }
  stopped_.store(true, std::memory_order_release);
  watch_.reset();
  StopMoves();
  HANDOFF_CRASH_POINT("session.leave.stopped");
  if (members_.Alive(self_)) {  // otherwise the ring of events may be the next member's
    control_queue_.Tell(EventKind::kMemberLeft, self_, static_cast<uint64_t>(getpid()));
  }
  if (members_.MarkDead(self_)) {
    HANDOFF_CRASH_POINT("session.leave.row_dead");
    const HookCall call(*this);
    if (call.hooks() == nullptr || call.hooks()->ReclaimMember(self_)) members_.Free(self_);
  }
  HANDOFF_CRASH_POINT("session.leave.row_free");
  const absl::Status status = RemoveObjectsIfLast();
  lock()->Unlock(self_.slot).IgnoreError();
  return status;
}

absl::Status Session::RemoveObjectsIfLast() {
  std::shared_ptr<LifeLock> life_lock = lock();
  if (!life_lock->IsOpen()) {
    absl::StatusOr<std::unique_ptr<LifeLock>> opened = LifeLock::Open(names_.LockFilePath());
    if (!opened.ok() || (*opened)->inode() != life_lock->inode()) return absl::OkStatus();
    life_lock = *std::move(opened);
  }
  const absl::Status status =
      ReenterSession(names_, *life_lock, Deadline::After(options_.join_deadline));
  if (absl::IsFailedPrecondition(status))
    return absl::OkStatus();  // what has our names is not ours
  if (!status.ok()) return status;
  const SessionEntered entered(*life_lock);
  HANDOFF_CRASH_POINT("session.leave.entered");
  if (!management_.IsUnderItsName()) return absl::OkStatus();
  auto& management = const_cast<ManagementLayout&>(layout());
  if (!LivingMembers(management, management_.inode(), *life_lock).empty()) return absl::OkStatus();
  return RemoveObjects(names_,
                       {.lock_file = true, .renamed_main_segment = HasMainSegment(management)})
      .status();
}

absl::Status Session::WithObjectsLocked(const std::function<absl::Status()>& change) {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  const std::shared_ptr<LifeLock> life_lock = lock();
  if (absl::Status status =
          ReenterSession(names_, *life_lock, Deadline::After(options_.join_deadline));
      !status.ok()) {
    return status;
  }
  const SessionEntered entered(*life_lock);
  if (!management_.IsUnderItsName()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session '", names_.session(), "': ", management_.path(), " was removed"));
  }
  if (absl::Status status = segments_.Repair(); !status.ok()) return status;
  return change();
}

absl::StatusOr<SegmentObjects> Session::CreateSegment(SegmentOptions options) {
  if (!options.prepare) options.prepare = options_.prepare_segment;
  absl::StatusOr<SegmentObjects> objects;
  const absl::Status status = WithObjectsLocked([&] {
    objects = segments_.Create(options);
    return objects.status();
  });
  if (!status.ok()) return status;
  control_queue_.Tell(EventKind::kSegmentCreated, {}, objects->id, objects->size_bytes);
  return objects;
}

absl::Status Session::RemoveSegment(uint32_t id, std::optional<SegmentInfo> only) {
  uint64_t size_bytes = 0;
  const absl::Status status = WithObjectsLocked([&] {
    for (const SegmentInfo& info : segments_.List()) {
      if (info.id != id) continue;
      if (only.has_value() && (info.row != only->row || info.word != only->word)) {
        return absl::NotFoundError(absl::StrCat("segment ", id, ": is another one by now"));
      }
      size_bytes = info.size_bytes;
    }
    return segments_.Remove(id);
  });
  if (status.ok()) control_queue_.Tell(EventKind::kSegmentRemoved, {}, id, size_bytes);
  return status;
}

absl::StatusOr<Mapping> Session::EnsureArea(AreaKind kind, uint64_t size_bytes,
                                            uint64_t backed_bytes) {
  absl::StatusOr<Mapping> area;
  const absl::Status status = WithObjectsLocked([&] {
    area = segments_.EnsureArea(kind, size_bytes, backed_bytes);
    return area.status();
  });
  if (!status.ok()) return status;
  return area;
}

absl::StatusOr<SegmentObjects> Session::OpenSegment(uint32_t id) const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  return segments_.Open(id);
}

absl::StatusOr<SegmentObjects> Session::OpenTables(uint32_t row) const {
  // Also of who has just left, and reclaims itself.
  return segments_.OpenTables(row);
}

bool Session::IsLive(const SegmentObjects& objects) const {
  const SegmentWord live = {.generation = objects.generation, .state = SegmentState::kLive};
  return SegmentWord::FromPacked(
             layout().segments[objects.row].word.load(std::memory_order_acquire)) == live;
}

absl::StatusOr<Mapping> Session::OpenArea(AreaKind kind) const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  return segments_.OpenArea(kind);
}

}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/member_watch.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/process_id.h"

namespace handoff {
namespace {

// Between looks at the stop flag where there is nothing to wait on.
constexpr absl::Duration kBlindPause = absl::Milliseconds(5);

constexpr uint32_t kStopEvent = 0;  // in place of a slot; slot 0 is nobody's

// All signals are the program's; its own threads handle them.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

bool Add(int epoll, int fd, uint32_t slot) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u32 = slot;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemberWatch>> MemberWatch::Start(
    const MemberTable<RealSync>& members, const DeathProbe& probe, MemberId self,
    MemberWatchOptions options) {
  std::unique_ptr<MemberWatch> watch(new MemberWatch(members, probe, self, std::move(options)));
  if (absl::Status status = watch->MakeDescriptors(); !status.ok()) return status;
  try {
    const AllSignalsBlocked blocked;  // a thread begins with the mask of its maker
    watch->thread_ = std::make_unique<std::thread>([raw = watch.get()] { raw->Run(); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "starting the thread that watches the members of the session: ", error.what()));
  }
  return watch;
}

MemberWatch::MemberWatch(const MemberTable<RealSync>& members, const DeathProbe& probe,
                         MemberId self, MemberWatchOptions options)
    : members_(members),
      probe_(probe),
      self_(self),
      options_(std::move(options)),
      fork_generation_(ForkGeneration()),
      watched_(kMaxMembers) {
  if (const absl::StatusOr<ProcessId> process = CurrentProcessId(); process.ok()) {
    pid_namespace_ = process->pid_namespace;
  }
}

MemberWatch::~MemberWatch() {
  if (thread_ == nullptr) return;
  if (fork_generation_ != ForkGeneration()) {
    // The thread is the parent's; there is nothing here that could be joined.
    static_cast<void>(thread_.release());
    return;
  }
  HANDOFF_CHECK(thread_->get_id() != std::this_thread::get_id()) << "a hook left the session";
  {
    absl::MutexLock lock(&mutex_);
    stop_wanted_ = true;
    const uint64_t one = 1;
    // Fails only where somebody has closed the descriptor; then the thread looks at the flag within
    // a period.
    [[maybe_unused]] const ssize_t written = write(stop_event_.get(), &one, sizeof(one));
  }
  thread_->join();
}

bool MemberWatch::StopWanted() {
  absl::MutexLock lock(&mutex_);
  return stop_wanted_;
}

absl::Status MemberWatch::MakeDescriptors() {
  absl::MutexLock lock(&mutex_);
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  stop_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !stop_event_.valid() ||
      !Add(epoll_.get(), stop_event_.get(), kStopEvent)) {
    return absl::ErrnoToStatus(errno, "watching the members of the session");
  }
  return absl::OkStatus();
}

void MemberWatch::AbandonDescriptors() {
  static_cast<void>(epoll_.release());
  for (Watched& watched : watched_) {
    static_cast<void>(watched.pidfd.release());
    watched = {};
  }
  pidfd_count_ = 0;
  absl::MutexLock lock(&mutex_);
  static_cast<void>(stop_event_.release());
}

void MemberWatch::Run() {
  pthread_setname_np(pthread_self(), "handoff_watch");
  while (!StopWanted()) {
    const Deadline next = Deadline::After(options_.period);
    const WatchTurn turn = options_.on_period();
    if (turn == WatchTurn::kEnd) return;
    if (turn == WatchTurn::kDescriptorsLost) {
      AbandonDescriptors();
      MakeDescriptors().IgnoreError();  // without, rows are looked at every period
    }
    LookAtAll();
    while (!StopWanted() && !next.expired()) WaitForEvents(next);
  }
}

void MemberWatch::WaitForEvents(const Deadline& deadline) {
  std::array<epoll_event, 32> events;
  // Rounded up, so that the last part of a millisecond is not spent in turns of zero.
  const auto timeout_ms = static_cast<int>(
      absl::ToInt64Milliseconds(absl::Ceil(deadline.remaining(), absl::Milliseconds(1))));
  const int count =
      epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (count < 0 && errno != EINTR) absl::SleepFor(std::min(kBlindPause, deadline.remaining()));
  for (int i = 0; i < count; ++i) {
    const uint32_t slot = events[static_cast<size_t>(i)].data.u32;
    if (slot == kStopEvent) return;
    End(watched_[slot]);  // a pidfd has said all it will ever say
    // Found dead by a look in between: the next one is a period later.
    if (watched_[slot].periods_dead == 0) LookAt(slot);
  }
}

void MemberWatch::LookAtAll() {
  const bool all = periods_++ % kPeriodsToFullLook == 0;
  for (uint32_t slot = 1, end = members_.SlotsUsed(); slot < end; ++slot) {
    if (slot == self_.slot) continue;
    const MemberWord word = members_.Word(slot);
    Watched& watched = watched_[slot];
    if (watched.member != MemberId{slot, word.epoch}) {
      End(watched);
      watched = {};
      watched.member = {slot, word.epoch};
    }
    if (word.state == MemberState::kFree) continue;
    if (word.state == MemberState::kLive && !watched.begun) Begin(watched);
    if (all || word.state == MemberState::kDead || !watched.pidfd.valid()) LookAt(slot);
  }
}

void MemberWatch::Begin(Watched& watched) {
  watched.begun = true;
  const MemberId member = watched.member;
  const MemberTable<RealSync>::Member row = members_.Load(member.slot);
  if (row.word.epoch != member.epoch || pid_namespace_ == 0 ||
      row.identity.pid_namespace != pid_namespace_ || pidfd_count_ >= kMaxPidfds) {
    return;
  }
  const pid_t pid = static_cast<pid_t>(row.identity.pid);
  UniqueFd pidfd = OpenPidfd(pid);
  if (!pidfd.valid()) return;
  // The pid may be another process's by now; then the member has ended, and a look at its row
  // tells.
  const absl::StatusOr<uint64_t> start_time = ProcessStartTime(pid);
  if (!start_time.ok() || *start_time != row.identity.start_time) return;
  if (!Add(epoll_.get(), pidfd.get(), member.slot)) return;
  watched.pidfd = std::move(pidfd);
  ++pidfd_count_;
}

void MemberWatch::End(Watched& watched) {
  if (!watched.pidfd.valid()) return;
  // Not left to the close: a forked child may have the descriptor, too, and keep it in the set.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched.pidfd.get(), nullptr);
  watched.pidfd.reset();
  --pidfd_count_;
}

void MemberWatch::LookAt(uint32_t slot) {
  Watched& watched = watched_[slot];
  const Probe probe = probe_.Look(slot);
  if (probe.result == ProbeResult::kLockLostButRunning && !watched.lock_lost_reported) {
    watched.lock_lost_reported = true;
    if (options_.on_lock_lost) options_.on_lock_lost(probe);
  }
  if (probe.result != ProbeResult::kDead) return;
  // Whoever turned the row to dead is at work on it. All the others would only do the same again,
  // so they come in when it takes too long: it may have died, too.
  if (probe.found_now || watched.periods_dead > 0) options_.on_dead(probe);
  ++watched.periods_dead;
}

}  // namespace handoff

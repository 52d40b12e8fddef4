// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_MEMBER_WATCH_H_
#define HANDOFF_ALLOCATOR_MEMBER_WATCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "allocator/death_probe.h"
#include "base/clock.h"
#include "base/sync.h"
#include "base/unique_fd.h"
#include "control_queue/member_id.h"
#include "control_queue/member_table.h"

namespace handoff {

// What the watch does next.
enum class WatchTurn {
  kGoOn,
  kEnd,  // the thread ends
  // Another part of the program has closed our descriptors: their numbers are not ours any more.
  // Make new ones.
  kDescriptorsLost,
};

struct MemberWatchOptions {
  // How often rows are looked at, and `on_period` called. 1 ms to 1 s.
  absl::Duration period = absl::Milliseconds(50);

  // All are called by the watch's thread.
  //
  // A member is dead. At once where this watch found it; where another process found it, once it
  // has had a whole period to reclaim it; then every period as long as the row stays dead. Fields
  // other than `result` and `member` are filled only the first time.
  std::function<void(const Probe&)> on_dead;
  // A member runs without its life lock. Once for each member.
  std::function<void(const Probe&)> on_lock_lost = nullptr;
  // Every period, before the rows are looked at.
  std::function<WatchTurn()> on_period;
};

// One thread of a member that notices the death of others: at once where the kernel tells (a pidfd
// for each member of the same PID namespace, up to kMaxPidfds), otherwise within a period. It
// blocks all signals. It does not keep the process from exiting, and does not exist in a forked
// child.
class MemberWatch {
 public:
  // More members than this are looked at every period instead: descriptors are the program's.
  static constexpr size_t kMaxPidfds = 256;

  // Members with a pidfd are looked at, too, after so many periods: an exec gives the life lock
  // back, and no pidfd tells.
  static constexpr uint32_t kPeriodsToFullLook = 20;

  // Keeps references to the first two. `self` is not watched. kResourceExhausted: no thread or
  // descriptor.
  static absl::StatusOr<std::unique_ptr<MemberWatch>> Start(const MemberTable<RealSync>& members,
                                                            const DeathProbe& probe, MemberId self,
                                                            MemberWatchOptions options);

  // Ends the thread and waits for it; a call of its functions that is under way comes to its end
  // first. Not by that thread. In a forked child: nothing happens.
  ~MemberWatch();

 private:
  // What is known of the member in one slot.
  struct Watched {
    MemberId member = {};
    bool begun = false;  // it was live when looked at
    UniqueFd pidfd;
    bool lock_lost_reported = false;
    uint32_t periods_dead = 0;
  };

  MemberWatch(const MemberTable<RealSync>& members, const DeathProbe& probe, MemberId self,
              MemberWatchOptions options);

  absl::Status MakeDescriptors();
  void AbandonDescriptors();
  void Run();
  void WaitForEvents(const Deadline& deadline);
  void LookAtAll();
  void LookAt(uint32_t slot);
  void Begin(Watched& watched);
  void End(Watched& watched);
  bool StopWanted();

  const MemberTable<RealSync>& members_;
  const DeathProbe& probe_;
  const MemberId self_;
  const MemberWatchOptions options_;
  const uint32_t fork_generation_;
  uint64_t pid_namespace_ = 0;  // ours; 0 if not known

  // By the thread only.
  UniqueFd epoll_;
  std::vector<Watched> watched_;  // by slot
  size_t pidfd_count_ = 0;
  uint64_t periods_ = 0;

  absl::Mutex mutex_;
  bool stop_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  UniqueFd stop_event_ ABSL_GUARDED_BY(mutex_);  // an eventfd, to end a wait

  std::unique_ptr<std::thread> thread_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_MEMBER_WATCH_H_

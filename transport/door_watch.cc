// SPDX-License-Identifier: Apache-2.0
#include "transport/door_watch.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/barrier.h"
#include "base/clock.h"
#include "base/futex.h"

namespace handoff::internal {

WatchedDoor::~WatchedDoor() { watch_.Remove(this); }

bool WatchedDoor::Arm() {
  // Always: the write of step 7 may come after the next arming, and would be heard for ever.
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(event_fd_.get(), &count, sizeof(count));  // 1
  if (armed() && door_.sleeping.load(std::memory_order_acquire) == Door::kWatched) return false;
  door_.sleeping.store(Door::kWatched, std::memory_order_seq_cst);  // 2
  armed_.store(true, std::memory_order_release);
  watch_.Knock();           // 3
  (void)RareSideBarrier();  // 4; where the kernel refuses it, the frequent sides fence
  return true;
}

void WatchedDoor::Signal() {
  if (!armed_.exchange(false, std::memory_order_acq_rel)) return;  // 7
  const uint64_t one = 1;
  // Fails only if the counter is full: then it is readable.
  [[maybe_unused]] const ssize_t written = write(event_fd_.get(), &one, sizeof(one));
}

absl::StatusOr<std::unique_ptr<DoorWatch>> DoorWatch::Start() {
  std::unique_ptr<DoorWatch> watch(new DoorWatch);
  sigset_t all;
  sigset_t before;
  // All signals are the program's, and a thread begins with the mask of its maker.
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::Status status;
  try {
    watch->thread_ = std::thread([raw = watch.get()] { raw->Run(); });
  } catch (const std::system_error& error) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("starting the thread that watches sockets: ", error.what()));
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!status.ok()) return status;
  return watch;
}

DoorWatch::DoorWatch() : sleeps_at_many_(CanFutexWaitAny()) {}

DoorWatch::~DoorWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  Knock();
  if (thread_.joinable()) thread_.join();
}

std::unique_ptr<WatchedDoor> DoorWatch::Add(Door& door, UniqueFd* event_fd) {
  absl::MutexLock lock(&mutex_);
  if (doors_.size() + 1 >= (sleeps_at_many_ ? kMaxFutexWords : 2)) return nullptr;
  std::unique_ptr<WatchedDoor> watched(new WatchedDoor(*this, door, std::move(*event_fd)));
  doors_.push_back(watched.get());
  return watched;
}

void DoorWatch::Remove(WatchedDoor* watched) {
  Door& door = watched->door_;
  {
    absl::MutexLock lock(&mutex_);
    doors_.erase(std::remove(doors_.begin(), doors_.end(), watched), doors_.end());
  }
  // Nobody shall be asked to wake us any more. The thread may sleep just there, also if the word
  // has been taken by the socket's own thread, which wakes nobody.
  uint32_t seen = Door::kWatched;
  door.sleeping.compare_exchange_strong(seen, 0, std::memory_order_acq_rel,
                                        std::memory_order_relaxed);
  FutexWake(door.sleeping, INT_MAX);
}

void DoorWatch::Knock() {
  control_.fetch_add(1, std::memory_order_acq_rel);
  FutexWake(control_, 1);
}

void DoorWatch::Run() {
  std::vector<FutexWord> words;
  for (;;) {
    words.assign(1, {&control_, control_.load(std::memory_order_acquire)});
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      for (WatchedDoor* watched : doors_) {
        if (!watched->armed()) continue;
        if (watched->door_.sleeping.load(std::memory_order_acquire) == Door::kWatched) {
          words.push_back({&watched->door_.sleeping, Door::kWatched});  // 3
        } else {
          watched->Signal();
        }
      }
    }
    if (sleeps_at_many_) {
      (void)FutexWaitAny(words, Deadline::Infinite());
    } else {
      // At the one door, which Remove() wakes, or until that is armed. A door that Remove() found
      // before this thread is asleep may be armed by its next owner meanwhile.
      const Deadline end =
          words.size() > 1 ? Deadline::After(absl::Seconds(1)) : Deadline::Infinite();
      (void)FutexWait(*words.back().word, words.back().expected, end);
    }
  }
}

// Nobody else is here any more, and in a forked child the lock may be taken for ever.
DoorWatches::~DoorWatches() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (ForkGeneration() == fork_generation_) return;
  for (auto& watch : watches_) static_cast<void>(watch.release());
}

absl::StatusOr<std::unique_ptr<WatchedDoor>> DoorWatches::Watch(Door& door) {
  UniqueFd event_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", std::strerror(errno)));
  }
  absl::MutexLock lock(&mutex_);
  for (const auto& watch : watches_) {
    std::unique_ptr<WatchedDoor> watched = watch->Add(door, &event_fd);
    if (watched != nullptr) return watched;
  }
  absl::StatusOr<std::unique_ptr<DoorWatch>> watch = DoorWatch::Start();
  if (!watch.ok()) return watch.status();
  watches_.push_back(*std::move(watch));
  return watches_.back()->Add(door, &event_fd);
}

}  // namespace handoff::internal

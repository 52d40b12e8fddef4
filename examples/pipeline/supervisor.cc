// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "examples/pipeline/digest.h"
#include "examples/pipeline/display.h"
#include "examples/pipeline/progress.h"
#include "examples/pipeline/roles.h"
#include "examples/pipeline/source.h"
#include "transport/transport.h"

namespace handoff::pipeline {

namespace {

// How long processes get to end in order before they are killed.
constexpr absl::Duration kStopLimit = absl::Milliseconds(800);
// After a worker was killed: nothing has moved for this long, so nothing more will come of it.
constexpr absl::Duration kStandstill = absl::Seconds(1);

class Supervisor {
 public:
  Supervisor(const Options& options, uint64_t total_bytes, Progress& progress)
      : options_(options), progress_(progress), display_(total_bytes) {}

  int Run();

 private:
  enum class Kind { kReader, kWorker, kWriter };
  struct Child {
    Kind kind;
    uint32_t worker;
    pid_t pid;
    bool running;
  };

  void Start(Kind kind, uint32_t worker);
  void ReapChildren();
  void HandleDeath(const Child& child, int wait_status);
  void RequestStop();
  void SignalChildren(int signal) const;
  bool AnyRunning() const;
  bool AnyRunning(Kind kind) const;
  // A sum of everything that moves.
  uint64_t Movement() const;
  void LookForStandstill();
  void LookForEnd();
  uint64_t ObjectsLeft() const;
  int Summarize();

  static const char* Name(Kind kind) {
    return kind == Kind::kReader ? "reader" : kind == Kind::kWorker ? "worker" : "writer";
  }

  const Options& options_;
  Progress& progress_;
  Display display_;
  std::vector<Child> children_;
  UniqueFd signals_;
  sigset_t former_mask_;
  bool stopping_ = false;
  bool interrupted_ = false;
  std::optional<Deadline> stop_deadline_;
  uint32_t workers_killed_ = 0;
  uint64_t last_movement_ = 0;
  int64_t last_movement_ns_ = 0;
  int64_t start_ns_ = 0;
};

void Supervisor::Start(Kind kind, uint32_t worker) {
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    progress_.SetError(Name(kind), absl::ErrnoToStatus(errno, "fork"));
    RequestStop();
    return;
  }
  if (pid == 0) {
    // The terminal's Ctrl-C is for the supervisor, which ends us in order; without it we end, too.
    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    sigprocmask(SIG_SETMASK, &former_mask_, nullptr);
    const absl::Status status = kind == Kind::kReader   ? RunReader(options_, progress_)
                                : kind == Kind::kWorker ? RunWorker(options_, progress_, worker)
                                                        : RunWriter(options_, progress_);
    if (!status.ok()) progress_.SetError(Name(kind), status);
    std::fflush(nullptr);
    _exit(status.ok() ? 0 : 1);
  }
  children_.push_back({kind, worker, pid, true});
}

bool Supervisor::AnyRunning() const {
  return std::any_of(children_.begin(), children_.end(), [](const Child& c) { return c.running; });
}

bool Supervisor::AnyRunning(Kind kind) const {
  return std::any_of(children_.begin(), children_.end(),
                     [kind](const Child& c) { return c.running && c.kind == kind; });
}

void Supervisor::SignalChildren(int signal) const {
  for (const Child& child : children_) {
    if (child.running) kill(child.pid, signal);
  }
}

void Supervisor::RequestStop() {
  if (stopping_) return;
  stopping_ = true;
  progress_.stop.store(true, std::memory_order_release);
  stop_deadline_ = Deadline::After(kStopLimit);
}

void Supervisor::ReapChildren() {
  int wait_status = 0;
  for (pid_t pid = 0; (pid = waitpid(-1, &wait_status, WNOHANG)) > 0;) {
    for (size_t i = 0; i < children_.size(); ++i) {
      if (children_[i].pid != pid) continue;
      children_[i].running = false;
      HandleDeath(Child(children_[i]), wait_status);
    }
  }
}

void Supervisor::HandleDeath(const Child& child, int wait_status) {
  if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return;
  if (stopping_) return;
  if (WIFSIGNALED(wait_status) && child.kind == Kind::kWorker) {
    ++workers_killed_;
    display_.End();
    const uint64_t in_hands =
        progress_.workers[child.worker].in_hands.exchange(kNoMessage, std::memory_order_acq_rel);
    std::fprintf(stderr, "worker %u (pid %d) was killed by signal %d%s\n", child.worker, child.pid,
                 WTERMSIG(wait_status),
                 in_hands == kNoMessage
                     ? ", with no message in its hands"
                     : absl::StrCat(", with message ", in_hands, " in its hands").c_str());
    if (options_.restart_workers) {
      Start(Kind::kWorker, child.worker);
    } else if (!AnyRunning(Kind::kWorker)) {
      progress_.SetError("supervisor", absl::AbortedError("all workers were killed"));
      RequestStop();
    }
    return;
  }
  if (WIFSIGNALED(wait_status)) {
    progress_.SetError(Name(child.kind),
                       absl::AbortedError(absl::StrCat("pid ", child.pid, " was killed by signal ",
                                                       WTERMSIG(wait_status))));
  } else {
    progress_.SetError(Name(child.kind),
                       absl::AbortedError(absl::StrCat("exited with ", WEXITSTATUS(wait_status))));
  }
  RequestStop();
}

uint64_t Supervisor::Movement() const {
  uint64_t sum = progress_.sent_messages.load(std::memory_order_relaxed) +
                 progress_.received_messages.load(std::memory_order_relaxed) +
                 progress_.written_messages.load(std::memory_order_relaxed) +
                 progress_.gaps_skipped.load(std::memory_order_relaxed);
  for (uint32_t i = 0; i < options_.workers; ++i) {
    sum += progress_.workers[i].received.load(std::memory_order_relaxed) +
           progress_.workers[i].forwarded.load(std::memory_order_relaxed);
  }
  return sum;
}

void Supervisor::LookForStandstill() {
  const int64_t now = MonotonicClock().NowNanoseconds();
  const uint64_t movement = Movement();
  if (movement != last_movement_ || last_movement_ns_ == 0) {
    last_movement_ = movement;
    last_movement_ns_ = now;
    return;
  }
  if (workers_killed_ == 0 || now - last_movement_ns_ < absl::ToInt64Nanoseconds(kStandstill))
    return;
  // What the killed worker had is gone: the writer goes on without it.
  if (progress_.gaps_skipped.load(std::memory_order_acquire) ==
      progress_.skip_gaps.load(std::memory_order_relaxed)) {
    progress_.skip_gaps.fetch_add(1, std::memory_order_release);
  }
}

void Supervisor::LookForEnd() {
  if (!progress_.reader_done.load(std::memory_order_acquire)) return;
  const uint64_t sent = progress_.sent_messages.load(std::memory_order_acquire);
  if (progress_.written_messages.load(std::memory_order_acquire) +
          progress_.lost_messages.load(std::memory_order_acquire) >=
      sent) {
    progress_.finish.store(true, std::memory_order_release);
  }
}

uint64_t Supervisor::ObjectsLeft() const {
  uint64_t left = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(options_.shm_dir, error), end;
       !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().rfind(options_.session + "_", 0) == 0) ++left;
  }
  return left;
}

int Supervisor::Run() {
  sigset_t mask;
  sigemptyset(&mask);
  for (int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&mask, signal);
  sigprocmask(SIG_BLOCK, &mask, &former_mask_);
  signals_ = UniqueFd(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));

  start_ns_ = MonotonicClock().NowNanoseconds();
  Start(Kind::kWriter, 0);
  for (uint32_t i = 0; i < options_.workers; ++i) Start(Kind::kWorker, i);
  Start(Kind::kReader, 0);

  while (AnyRunning()) {
    pollfd poll_signals = {signals_.get(), POLLIN, 0};
    poll(&poll_signals, 1, 50);
    signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo == SIGCHLD) continue;
      if (interrupted_) SignalChildren(SIGKILL);  // asked twice
      interrupted_ = true;
      RequestStop();
    }
    ReapChildren();
    if (progress_.error_state.load(std::memory_order_acquire) == 2) RequestStop();
    LookForEnd();
    if (stopping_) {
      if (stop_deadline_->expired()) SignalChildren(SIGKILL);
    } else {
      LookForStandstill();
    }
    display_.Show(progress_);
  }
  display_.End();
  if (ObjectsLeft() > 0) {
    // Somebody was killed so late that nobody was left to clean up: whoever joins next does.
    TransportOptions options;
    options.session = options_.session;
    options.shm_dir = options_.shm_dir;
    options.segment_size_bytes = uint64_t{1} << 20;
    const auto transport = Transport::Open(options);
    if (!transport.ok()) progress_.SetError("cleanup", transport.status());
  }
  return Summarize();
}

int Supervisor::Summarize() {
  const double seconds = static_cast<double>(MonotonicClock().NowNanoseconds() - start_ns_) * 1e-9;
  const bool writer_done = progress_.writer_done.load(std::memory_order_acquire);
  const bool complete = writer_done && progress_.reader_done.load(std::memory_order_acquire);
  const bool digest_matches =
      complete && std::memcmp(progress_.input_digest, progress_.output_digest, 32) == 0;
  const uint64_t bytes = progress_.written_bytes.load(std::memory_order_relaxed);
  const uint64_t lost = progress_.lost_messages.load(std::memory_order_relaxed);
  const uint64_t bad = progress_.bad_messages.load(std::memory_order_relaxed);
  const uint64_t held = progress_.blocks_held.load(std::memory_order_relaxed);
  const uint64_t objects_left = ObjectsLeft();
  const bool error = progress_.error_state.load(std::memory_order_acquire) == 2;

  const auto row = [](const char* name, const std::string& value) {
    std::printf("%-22s%s\n", name, value.c_str());
  };
  row("messages", absl::StrCat(progress_.written_messages.load(std::memory_order_relaxed)));
  row("bytes", absl::StrCat(bytes));
  row("seconds", absl::StrFormat("%.3f", seconds));
  row("GB/s", absl::StrFormat("%.3f", static_cast<double>(bytes) * 1e-9 / seconds));
  row("sha256", writer_done ? absl::StrCat(DigestText(progress_.output_digest),
                                           digest_matches ? "  (as read)" : "  (NOT as read)")
                            : "incomplete");
  const uint64_t copied = progress_.copied_messages.load(std::memory_order_relaxed);
  row("payload copies", absl::StrCat("1 in, 1 out, ", copied == 0 ? "none" : "some", " between (",
                                     copied, " messages were written from another place)"));
  row("blocks still held", absl::StrCat(held));
  row("objects left", absl::StrCat(objects_left));
  if (lost > 0) {
    row("messages lost", absl::StrCat(lost, ", the first is number ",
                                      progress_.first_lost.load(std::memory_order_relaxed),
                                      "; they were with the ", workers_killed_, " killed"));
  }
  if (bad > 0) row("messages damaged", absl::StrCat(bad));
  std::fflush(stdout);
  if (error) std::fprintf(stderr, "error: %s\n", progress_.error);
  if (interrupted_) std::fprintf(stderr, "interrupted\n");
  const bool good = digest_matches && lost == 0 && bad == 0 && held == 0 && objects_left == 0 &&
                    !error && !interrupted_;
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int Supervise(const Options& options) {
  const absl::StatusOr<Progress*> progress = MakeProgress();
  if (!progress.ok()) {
    std::fprintf(stderr, "error: %s\n", progress.status().ToString().c_str());
    return EXIT_FAILURE;
  }
  uint64_t total_bytes = options.generated_bytes;
  if (!options.input.empty()) {
    const auto source = OpenFiles(options.input, options.message_bytes);
    if (!source.ok()) {
      std::fprintf(stderr, "error: %s\n", source.status().ToString().c_str());
      return EXIT_FAILURE;
    }
    total_bytes = (*source)->total_bytes();
  }
  return Supervisor(options, total_bytes, **progress).Run();
}

}  // namespace handoff::pipeline

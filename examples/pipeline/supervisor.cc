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
// How many losses the summary names one by one.
constexpr uint32_t kLossesShown = 20;

// Set before any child starts.
Progress* stoppable = nullptr;
void StopRun(int) { stoppable->stop.store(true, std::memory_order_release); }

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
  struct WorkerDeath {
    uint32_t worker;
    pid_t pid;
    uint64_t in_hands;
  };

  void Start(Kind kind, uint32_t worker);
  void ReapChildren();
  void HandleEnd(const Child& child, int wait_status);
  void HandleWorkerDeath(const Child& child, int signal);
  void RequestStop();
  void SignalChildren(int signal) const;
  bool AnyRunning() const;
  bool AnyRunning(Kind kind) const;
  uint64_t ObjectsLeft() const;
  std::string DescribeLoss(const Loss& loss) const;
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
  std::vector<WorkerDeath> deaths_;
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
    // The terminal's Ctrl-C is for the supervisor, which ends us in order. When that is killed, or
    // the terminal goes away, all of us end in order, too.
    signal(SIGINT, SIG_IGN);
    struct sigaction stop = {};
    stop.sa_handler = StopRun;  // and ends a read() or write() that waits
    sigaction(SIGHUP, &stop, nullptr);
    prctl(PR_SET_PDEATHSIG, SIGHUP);
    if (getppid() != parent) _exit(1);
    sigprocmask(SIG_SETMASK, &former_mask_, nullptr);
    const absl::Status status = kind == Kind::kReader   ? RunReader(options_, progress_)
                                : kind == Kind::kWorker ? RunWorker(options_, progress_, worker)
                                                        : RunWriter(options_, progress_);
    const bool good = status.ok() || absl::IsCancelled(status);
    if (!good) progress_.SetError(Name(kind), status);
    std::fflush(nullptr);
    _exit(good ? 0 : 1);
  }
  children_.push_back({kind, worker, pid, true});
  if (kind == Kind::kWorker) progress_.workers[worker].pid.store(pid, std::memory_order_release);
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
      HandleEnd(Child(children_[i]), wait_status);
    }
  }
}

void Supervisor::HandleWorkerDeath(const Child& child, int signal) {
  WorkerProgress& worker = progress_.workers[child.worker];
  const uint64_t in_hands = worker.in_hands.exchange(kNoMessage, std::memory_order_acq_rel);
  deaths_.push_back({child.worker, child.pid, in_hands});
  display_.End();
  std::fprintf(stderr, "worker %u (pid %d) was killed by signal %d%s\n", child.worker, child.pid,
               signal,
               in_hands == kNoMessage ? "" : absl::StrCat(" at message ", in_hands).c_str());
  // In this order, so that whoever sees the death counts a new worker among the living.
  worker.pid.store(0, std::memory_order_release);
  if (options_.restart_workers) Start(Kind::kWorker, child.worker);
  progress_.deaths.fetch_add(1, std::memory_order_release);
  if (!AnyRunning(Kind::kWorker)) {
    progress_.SetError(
        "supervisor",
        absl::AbortedError(absl::StrCat(
            "all workers were killed; ", progress_.written_messages.load(std::memory_order_relaxed),
            " of the ", progress_.sent_messages.load(std::memory_order_relaxed),
            " messages sent had been written (--restart-workers starts new ones)")));
    RequestStop();
  }
}

void Supervisor::HandleEnd(const Child& child, int wait_status) {
  if (stopping_ || (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0)) return;
  if (WIFSIGNALED(wait_status) && child.kind == Kind::kWorker) {
    // What it had passed on before the end is of no importance any more.
    if (!progress_.Finished()) HandleWorkerDeath(child, WTERMSIG(wait_status));
    return;
  }
  progress_.SetError(
      Name(child.kind),
      absl::AbortedError(
          WIFSIGNALED(wait_status)
              ? absl::StrCat("pid ", child.pid, " was killed by signal ", WTERMSIG(wait_status))
              : absl::StrCat("exited with ", WEXITSTATUS(wait_status))));
  RequestStop();
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
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&mask, signal);
  sigprocmask(SIG_BLOCK, &mask, &former_mask_);
  signals_ = UniqueFd(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));

  stoppable = &progress_;
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
    if (progress_.error_state.load(std::memory_order_acquire) == 2 || progress_.Stopped()) {
      RequestStop();
    }
    if (progress_.Finished() && !AnyRunning(Kind::kReader) && !AnyRunning(Kind::kWorker)) {
      progress_.writer_alone.store(true, std::memory_order_release);
    }
    if (stopping_ && stop_deadline_->expired()) SignalChildren(SIGKILL);
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

std::string Supervisor::DescribeLoss(const Loss& loss) const {
  std::string text = loss.messages == 1 ? absl::StrCat("number ", loss.first_message)
                                        : absl::StrCat("numbers ", loss.first_message, " to ",
                                                       loss.first_message + loss.messages - 1);
  absl::StrAppend(&text, ", ", loss.bytes, " bytes from offset ", loss.stream_offset);
  for (const WorkerDeath& death : deaths_) {
    if (death.in_hands >= loss.first_message &&
        death.in_hands < loss.first_message + loss.messages) {
      absl::StrAppend(&text, ", with worker ", death.worker, " (pid ", death.pid, ")");
    }
  }
  return text;
}

int Supervisor::Summarize() {
  const double seconds = static_cast<double>(MonotonicClock().NowNanoseconds() - start_ns_) * 1e-9;
  const bool complete = progress_.writer_done.load(std::memory_order_acquire) &&
                        progress_.reader_done.load(std::memory_order_acquire);
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
  std::string digest = "incomplete";
  if (complete) {
    digest = absl::StrCat(DigestText(progress_.output_digest),
                          digest_matches ? "  (as read)" : "  (NOT as read");
    if (lost > 0) {
      absl::StrAppend(&digest, ": without ", lost, lost == 1 ? " message" : " messages", ", ",
                      progress_.lost_bytes.load(std::memory_order_relaxed), " bytes");
    }
    if (!digest_matches) digest += ")";
  }
  row("sha256", digest);
  const uint64_t copied = progress_.copied_messages.load(std::memory_order_relaxed);
  row("payload copies", absl::StrCat("1 in, 1 out, ", copied == 0 ? "none" : "some", " between (",
                                     copied, " messages were written from another place)"));
  row("blocks still held", absl::StrCat(held));
  row("objects left", absl::StrCat(objects_left));
  if (!deaths_.empty()) {
    row("workers killed", absl::StrCat(deaths_.size()));
    row("messages lost", absl::StrCat(lost));
  }
  const uint32_t listed = progress_.losses_listed.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < std::min(listed, kLossesShown); ++i) {
    row("  lost", DescribeLoss(progress_.losses[i]));
  }
  if (listed > kLossesShown) row("  lost", "and more");
  if (bad > 0) row("messages damaged", absl::StrCat(bad));
  std::fflush(stdout);
  if (error) std::fprintf(stderr, "error: %s\n", progress_.error);
  if (interrupted_) std::fprintf(stderr, "interrupted\n");
  if (!complete || bad > 0 || held > 0 || objects_left > 0 || error || interrupted_) {
    return EXIT_FAILURE;
  }
  if (lost > 0) return kExitMessagesLost;
  return digest_matches ? EXIT_SUCCESS : EXIT_FAILURE;
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

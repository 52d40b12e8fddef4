// SPDX-License-Identifier: Apache-2.0
#include <gflags/gflags.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "allocator/cleanup.h"
#include "allocator/mapping.h"
#include "allocator/member.h"
#include "allocator/object_names.h"
#include "allocator/session.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "monitor/report.h"
#include "monitor/snapshot.h"
#include "monitor/watch.h"

DEFINE_string(session, "fairmq_shmem",
              "name of the session, the first part of the names of its objects");
DEFINE_string(segment_name, "", "name of the main segment, if it is not <session>_main");
DEFINE_string(shm_dir, "/dev/shm", "directory of the session's objects");
DEFINE_bool(
    cleanup, false,
    "remove what dead members have left of the session, and quit; other options do not count then");
DEFINE_bool(self_destruct, false,
            "quit as soon as the session is gone, removed by its members or cleaned up");
DEFINE_int32(timeout, 5000,
             "milliseconds without a heartbeat, 0 to 3600000, after which a session whose members "
             "are all gone is cleaned up");
DEFINE_bool(list, false,
            "print what the session has, whose heart beats, and what has happened last, and quit");
DEFINE_bool(json, false, "with --list: as JSON");

namespace handoff {
namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "monitor: %s\n", status.ToString().c_str());
  return EXIT_FAILURE;
}

int List(const ObjectNames& names) {
  // Hearts beat every 50 ms: only who is stalled lets us wait so long.
  constexpr absl::Duration kHeartbeatLimit = absl::Milliseconds(500);
  const absl::StatusOr<SessionSnapshot> snapshot = TakeSnapshot(names, kHeartbeatLimit);
  if (!snapshot.ok()) return Fail(snapshot.status());
  const std::string text = FLAGS_json ? ReportJson(*snapshot) + "\n" : ReportText(*snapshot);
  std::fputs(text.c_str(), stdout);
  return EXIT_SUCCESS;
}

absl::StatusOr<CleanupResult> Remove(const ObjectNames& names) {
  constexpr absl::Duration kLimit = absl::Seconds(5);
  return RemoveSession(names, FileAccess{}, Deadline::After(kLimit));
}

int CleanUp(const ObjectNames& names) {
  const absl::StatusOr<CleanupResult> result = Remove(names);
  if (!result.ok()) return Fail(result.status());
  if (!result->living.empty()) {
    std::string pids;
    for (const LivingMember& member : result->living) absl::StrAppend(&pids, " ", member.pid);
    std::fprintf(
        stderr,
        "monitor: session %s is in use, nothing was removed; its members are the processes%s\n",
        names.session().c_str(), pids.c_str());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

// What dead members held, where those who live do not take it back: as one of them for a moment.
absl::Status Reclaim(const ObjectNames& names) {
  SessionOptions options;
  options.names.session = names.session();
  options.names.shm_dir = names.shm_dir();
  options.member_name = "monitor";
  options.main_segment_bytes = 0;  // whatever is there
  options.only_if_alive = true;
  const absl::Status status = Member::Join(options).status();
  // It has ended meanwhile: the next look says so.
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

// Looks at the session until it is asked to stop, or with --self_destruct until it is gone.
int Watch(const ObjectNames& names) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGINT);
  sigaddset(&mask, SIGTERM);
  sigprocmask(SIG_BLOCK, &mask, nullptr);
  const UniqueFd signals(signalfd(-1, &mask, SFD_CLOEXEC));
  SessionWatch watch(absl::Milliseconds(FLAGS_timeout), MonotonicClock());
  const int period_ms = std::clamp(FLAGS_timeout / 10, 10, 500);
  std::string reported;
  for (;;) {
    const absl::StatusOr<SessionPresence> presence = LookForSession(names);
    absl::Status status = presence.status();
    if (status.ok()) {
      switch (watch.Observe(*presence)) {
        case WatchVerdict::kWait:
          break;
        case WatchVerdict::kReclaim:
          status = Reclaim(names);
          break;
        case WatchVerdict::kCleanUp:
          status = Remove(names).status();
          break;
        case WatchVerdict::kGone:
          if (FLAGS_self_destruct) return EXIT_SUCCESS;
          break;
      }
    }
    // A session that we may not touch is no reason to stop looking; once is enough to say so.
    if (!status.ok() && status.ToString() != reported) {
      reported = status.ToString();
      std::fprintf(stderr, "monitor: %s\n", reported.c_str());
    }
    pollfd poll_signals = {signals.get(), POLLIN, 0};
    if (poll(&poll_signals, 1, period_ms) > 0) return EXIT_SUCCESS;
  }
}

int Main(int argc, char** argv) {
  gflags::SetUsageMessage(
      "watches a session and cleans up after members that were killed. Without flags it runs until "
      "it is stopped and "
      "prints nothing.");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc > 1) {
    return Fail(absl::InvalidArgumentError(absl::StrCat(argv[1], " is not a flag; see --help")));
  }
  if (FLAGS_timeout < 0 || FLAGS_timeout > 3600000) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("--timeout ", FLAGS_timeout, ": 0 to 3600000 milliseconds")));
  }
  const absl::StatusOr<ObjectNames> names = ObjectNames::Create(
      {.session = FLAGS_session, .shm_dir = FLAGS_shm_dir, .main_segment = FLAGS_segment_name});
  if (!names.ok()) return Fail(names.status());
  if (FLAGS_cleanup) return CleanUp(*names);
  if (FLAGS_list) return List(*names);
  return Watch(*names);
}

}  // namespace
}  // namespace handoff

int main(int argc, char** argv) { return handoff::Main(argc, argv); }

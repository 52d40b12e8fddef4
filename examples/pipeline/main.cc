// SPDX-License-Identifier: Apache-2.0
// The main job: a reader fills messages in shared memory, workers compute a checksum of each in
// place, a writer puts the stream in order again. Each is a process of its own; only handles travel
// between them.
#include <gflags/gflags.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "examples/pipeline/options.h"
#include "examples/pipeline/progress.h"
#include "examples/pipeline/supervisor.h"

DEFINE_string(input, "",
              "file to stream, or folder whose files are streamed in the order of their names; "
              "empty: generated frames of mixed sizes");
DEFINE_string(output, "", "file that receives the stream; empty: it is only checked");
DEFINE_string(bytes, "2GiB", "how much is generated where there is no --input");
DEFINE_string(message_size, "1MiB", "payload of a message, 1 byte to a quarter of the segment");
DEFINE_string(segment_size, "256MiB", "size of the shared memory segment");
DEFINE_uint32(workers, 2, "worker processes, 1 to 64");
DEFINE_bool(restart_workers, false, "start a new worker for one that was killed");
DEFINE_string(
    carrier, "ring",
    "how handles travel: `ring`, through rings in shared memory, or `ipc`, through ZeroMQ, "
    "where a killed worker also takes along what waited for it");
DEFINE_uint32(channel_depth, 256,
              "messages that may wait between two processes, 1 to 1000: the more, the faster, "
              "the fewer, the less memory is under way");
DEFINE_string(session, "fairmq_shmem",
              "name of the session, the first part of the names of its objects");
DEFINE_string(shm_dir, "/dev/shm", "directory of the session's objects");

namespace handoff::pipeline {
namespace {

// `bazel run` starts us elsewhere than the user stands.
std::string FromUsersFolder(const std::string& path) {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  if (path.empty() || path[0] == '/' || folder == nullptr) return path;
  return (std::filesystem::path(folder) / path).string();
}

bool ParseSize(const char* flag, const std::string& text, uint64_t* bytes) {
  const absl::StatusOr<uint64_t> parsed = ParseByteSize(text);
  if (!parsed.ok()) {
    std::fprintf(stderr, "--%s: %s\n", flag, parsed.status().ToString().c_str());
    return false;
  }
  *bytes = *parsed;
  return true;
}

int Main(int argc, char** argv) {
  gflags::SetUsageMessage(
      "streams bytes through three kinds of processes that share one copy of them.\n"
      "Exit status: 0, all came out as it went in; 2, all but what killed workers had in their "
      "hands, which the summary names; 1, anything else");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc > 1) {
    std::fprintf(stderr, "%s: not a flag; flags are listed by --help\n", argv[1]);
    return EXIT_FAILURE;
  }
  Options options;
  if (!ParseSize("bytes", FLAGS_bytes, &options.generated_bytes) ||
      !ParseSize("message-size", FLAGS_message_size, &options.message_bytes) ||
      !ParseSize("segment-size", FLAGS_segment_size, &options.segment_bytes)) {
    return EXIT_FAILURE;
  }
  if (FLAGS_workers < 1 || FLAGS_workers > kMaxWorkers) {
    std::fprintf(stderr, "--workers %u: 1 to %u are possible\n", FLAGS_workers, kMaxWorkers);
    return EXIT_FAILURE;
  }
  if (FLAGS_channel_depth < 1 || FLAGS_channel_depth > 1000) {
    std::fprintf(stderr, "--channel-depth %u: 1 to 1000 are possible\n", FLAGS_channel_depth);
    return EXIT_FAILURE;
  }
  if (options.message_bytes == 0 || options.message_bytes > options.segment_bytes / 4) {
    std::fprintf(stderr, "--message-size %s: 1 byte to a quarter of --segment-size %s\n",
                 FLAGS_message_size.c_str(), FLAGS_segment_size.c_str());
    return EXIT_FAILURE;
  }
  options.workers = FLAGS_workers;
  options.restart_workers = FLAGS_restart_workers;
  options.channel_depth = FLAGS_channel_depth;
  options.session = FLAGS_session;
  options.shm_dir = FLAGS_shm_dir;
  options.input = FromUsersFolder(FLAGS_input);
  options.output = FromUsersFolder(FLAGS_output);
  if (FLAGS_carrier == "ring") {
    options.work_address = "ring://pipeline_work";
    options.done_address = "ring://pipeline_done";
  } else if (FLAGS_carrier == "ipc") {
    options.work_address = absl::StrCat("ipc://@", options.session, "_pipeline_work");
    options.done_address = absl::StrCat("ipc://@", options.session, "_pipeline_done");
  } else {
    std::fprintf(stderr, "--carrier %s: `ring` and `ipc` are possible\n", FLAGS_carrier.c_str());
    return EXIT_FAILURE;
  }
  return Supervise(options);
}

}  // namespace
}  // namespace handoff::pipeline

int main(int argc, char** argv) { return handoff::pipeline::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_PROGRESS_H_
#define HANDOFF_EXAMPLES_PIPELINE_PROGRESS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace handoff::pipeline {

inline constexpr uint32_t kMaxWorkers = 64;
inline constexpr uint64_t kNoMessage = UINT64_MAX;

struct WorkerProgress {
  std::atomic<uint64_t> received{0};
  std::atomic<uint64_t> forwarded{0};
  // Number of the message in the worker's hands, kNoMessage if there is none.
  std::atomic<uint64_t> in_hands{kNoMessage};
};

// What the processes of one run tell each other beside the messages: one page that all of them
// share. Counters are written by one process each and read for the display; requests are written by
// the supervisor.
struct Progress {
  // By the reader.
  std::atomic<uint64_t> sent_messages{0};
  std::atomic<uint64_t> sent_bytes{0};
  std::atomic<bool> reader_done{false};
  std::byte input_digest[32];  // complete when reader_done (acquire)

  // By the worker of that number, one after the other if it is started again.
  WorkerProgress workers[kMaxWorkers];

  // By the writer.
  std::atomic<uint64_t> received_messages{0};
  std::atomic<uint64_t> written_messages{0};
  std::atomic<uint64_t> written_bytes{0};
  std::atomic<uint64_t> lost_messages{0};
  std::atomic<uint64_t> first_lost{kNoMessage};
  std::atomic<uint64_t> bad_messages{0};     // checksum or header wrong
  std::atomic<uint64_t> copied_messages{0};  // written from another place than they were read into
  std::atomic<uint64_t> gaps_skipped{0};     // answers `skip_gaps`
  std::atomic<uint64_t> blocks_held{0};      // in the session when the writer had finished
  std::atomic<bool> writer_done{false};
  std::byte output_digest[32];  // complete when writer_done (acquire)

  // By the supervisor.
  std::atomic<bool> stop{false};       // end now, in order
  std::atomic<bool> finish{false};     // everything has arrived: workers may end
  std::atomic<uint64_t> skip_gaps{0};  // raised by one: what is missing now will not come any more

  // First error of any process.
  std::atomic<uint32_t> error_state{0};  // 0 none, 1 being written, 2 there
  char error[500];

  void SetError(std::string_view who, const absl::Status& status);
};

// A Progress in memory that forked children share.
absl::StatusOr<Progress*> MakeProgress();

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_PROGRESS_H_

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

inline constexpr uint32_t kMaxLosses = 256;

struct WorkerProgress {
  // Of the living process that has this number; 0 between a death and the next start.
  std::atomic<int32_t> pid{0};
  // Number of the message that the worker works on, kNoMessage if there is none.
  std::atomic<uint64_t> in_hands{kNoMessage};
};

// Messages that will not come any more, one after the other in the stream.
struct Loss {
  uint64_t first_message;
  uint64_t messages;
  uint64_t stream_offset;  // of their first byte
  uint64_t bytes;
};

// What the processes of one run tell each other beside the messages: one page that all of them
// share. Counters are written by one process each and read for the display; requests are written by
// the supervisor.
//
// What a killed worker had in its hands never arrives, and what it had not taken yet goes to the
// others, late. How the writer tells the one from the other, without a guess about time:
//   1. The supervisor finds the worker dead: its pid := 0, `deaths` + 1.
//   2. The reader finds `deaths` moved, and that its socket has let go of the dead: what they had
//      not taken has come back. It sends a roll call to the workers, which goes behind all that
//      came back, and again until 4. Channels keep the order.
//   3. The workers pass it on, behind what they took before it.
//   4. When the writer has a roll call of every living worker, and its socket has let go of the
//      dead, then what was sent before the first of them and is not here was in the hands of a dead
//      one: lost. `deaths_settled` := the deaths of that roll call.
// A worker that is stopped passes nothing on, so the writer waits for it, as it should.
struct Progress {
  // By the reader.
  std::atomic<uint64_t> sent_messages{0};
  std::atomic<uint64_t> sent_bytes{0};
  std::atomic<bool> reader_done{false};
  std::byte input_digest[32];  // complete when reader_done (acquire)

  // By the worker of that number, one after the other if it is started again.
  WorkerProgress workers[kMaxWorkers];

  // By the writer.
  std::atomic<uint64_t> written_messages{0};
  std::atomic<uint64_t> written_bytes{0};
  std::atomic<uint64_t> lost_messages{0};
  std::atomic<uint64_t> lost_bytes{0};
  std::atomic<uint32_t> losses_listed{0};
  Loss losses[kMaxLosses];                   // the first ones
  std::atomic<uint64_t> bad_messages{0};     // checksum or header wrong
  std::atomic<uint64_t> copied_messages{0};  // written from another place than they were read into
  std::atomic<uint64_t> deaths_settled{0};
  std::atomic<bool> finish{false};       // everything has arrived: the others may end
  std::atomic<uint64_t> blocks_held{0};  // in the session when all had finished
  std::atomic<bool> writer_done{false};
  std::byte output_digest[32];  // complete when writer_done (acquire)

  // By the supervisor.
  std::atomic<bool> stop{false};    // end now, in order; also by a signal to any of the processes
  std::atomic<uint64_t> deaths{0};  // of workers
  std::atomic<bool> writer_alone{false};  // after `finish`: the others have ended

  // First error of any process.
  std::atomic<uint32_t> error_state{0};  // 0 none, 1 being written, 2 there
  char error[500];

  void SetError(std::string_view who, const absl::Status& status);

  bool Stopped() const { return stop.load(std::memory_order_acquire); }
  bool Finished() const { return finish.load(std::memory_order_acquire); }
};

// A Progress in memory that forked children share.
absl::StatusOr<Progress*> MakeProgress();

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_PROGRESS_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_DISPLAY_H_
#define HANDOFF_EXAMPLES_PIPELINE_DISPLAY_H_

#include <cstdint>

#include "base/clock.h"
#include "examples/pipeline/progress.h"

namespace handoff::pipeline {

// How a run gets on: one line that is written over and over on a terminal, a line a second
// elsewhere. To stderr.
class Display {
 public:
  explicit Display(uint64_t total_bytes);

  // Called often; prints when it is time.
  void Show(const Progress& progress);
  // Leaves the line, before other output.
  void End();

 private:
  const uint64_t total_bytes_;
  const bool terminal_;
  const int64_t start_ns_;
  int64_t last_ns_;
  uint64_t last_messages_ = 0;
  uint64_t last_bytes_ = 0;
  bool line_open_ = false;
};

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_DISPLAY_H_

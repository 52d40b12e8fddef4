// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_EXAMPLES_PIPELINE_OPTIONS_H_
#define HANDOFF_EXAMPLES_PIPELINE_OPTIONS_H_

#include <cstdint>
#include <string>

namespace handoff::pipeline {

struct Options {
  std::string session = "fairmq_shmem";
  std::string shm_dir = "/dev/shm";
  uint64_t segment_bytes = uint64_t{256} << 20;
  uint64_t message_bytes = uint64_t{1} << 20;
  uint64_t generated_bytes = uint64_t{2} << 30;  // where there is no input
  uint32_t workers = 2;
  bool restart_workers = false;
  uint32_t channel_depth = 256;  // messages that may wait between two processes
  std::string input;             // a file or a folder; empty: generated frames
  std::string output;            // empty: nothing is written

  // Addresses of the channels from the reader to the workers, and from there to the writer.
  std::string work_address;
  std::string done_address;
};

}  // namespace handoff::pipeline

#endif  // HANDOFF_EXAMPLES_PIPELINE_OPTIONS_H_

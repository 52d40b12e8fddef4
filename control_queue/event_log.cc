// SPDX-License-Identifier: Apache-2.0
#include "control_queue/event_log.h"

namespace handoff {

std::string_view EventKindName(EventKind kind) {
  switch (kind) {
    case EventKind::kMemberJoined:
      return "member joined";
    case EventKind::kMemberLeft:
      return "member left";
    case EventKind::kMemberDied:
      return "member died";
    case EventKind::kSegmentCreated:
      return "segment created";
    case EventKind::kSegmentRemoved:
      return "segment removed";
    case EventKind::kRegionCreated:
      return "region created";
    case EventKind::kRegionRemoved:
      return "region removed";
    case EventKind::kMemoryLow:
      return "memory low";
    case EventKind::kBlocksReclaimed:
      return "blocks reclaimed";
    case EventKind::kStaleHandles:
      return "stale handles";
    case EventKind::kObjectsRemoved:
      return "objects removed";
  }
  return "unknown";
}

}  // namespace handoff

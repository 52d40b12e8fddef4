// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_SEGMENT_STAGE_H_
#define HANDOFF_ALLOCATOR_TESTING_SEGMENT_STAGE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "allocator/block.h"
#include "allocator/segment.h"
#include "allocator/testing/kill_harness.h"
#include "allocator/testing/plain_segment.h"
#include "allocator/testing/segment_checks.h"
#include "control_queue/member_id.h"

namespace handoff {

class SegmentStage;

// What happens on a SegmentStage, in this order. `prepare` must do the same every time.
struct SegmentScript {
  std::string name;
  uint64_t segment_bytes = 1 << 20;
  uint64_t payload_limit_bytes = UINT64_MAX;

  std::function<void(SegmentStage&)> prepare = [](SegmentStage&) {};
  // In the victim.
  std::function<void(SegmentStage&, Segment&)> set_up = [](SegmentStage&, Segment&) {};
  std::function<void(SegmentStage&, Segment&)> operate;
  // Beside what the survivors always do while the victim stands still.
  std::function<void(SegmentStage&)> use_while_stopped = [](SegmentStage&) {};
};

// A plain segment with two members that survive and one that is killed.
class SegmentStage : public KillStage {
 public:
  static constexpr uint32_t kSurvivor = 1;
  static constexpr uint32_t kVictim = 2;
  static constexpr uint32_t kBystander = 3;
  static constexpr uint32_t kDead = 4;  // for a member that is dead before

  explicit SegmentStage(const SegmentScript& script);

  void SetUpVictim() override;
  void Operate() override;
  std::vector<std::span<std::byte>> SharedMemory() override;
  void UseWhileStopped() override;
  void ExpectWhole() override;

  // For `prepare`. A block that a survivor holds until the victim has been reclaimed.
  Block Keep(Segment& segment, uint64_t size_bytes);
  // A block that was sent to the victim, who may accept it; else it is taken back.
  Block SendToVictim(Segment& segment, uint64_t size_bytes);
  // A member in slot kDead that has died with all kinds of blocks: its own, some of which the
  // bystander holds by now, accepted ones, some on their way. Its row says dead.
  void LeaveADeadMember();

  PlainSegmentMemory memory;
  const MemberId victim;
  MemberId dead;  // {0, 0}: nobody
  const std::unique_ptr<Segment> survivor;
  const std::unique_ptr<Segment> bystander;
  // For `set_up` and `operate`: of the victim, in its process.
  std::vector<Block> blocks;
  const std::atomic<bool>* interrupted = nullptr;
  // What was sent to the victim, as it will find it in a ring.
  std::vector<std::pair<Segment*, Block>> sent;
  // Further members of the test's process, who are reclaimed at the end.
  std::vector<std::unique_ptr<Segment>> others;
  // What the next tenant of slot kDead has, if there is one: it must still have it at the end.
  std::vector<OwnedWord> tenants;

 private:
  MemberId Publish(uint32_t slot);

  const SegmentScript script_;
  std::unique_ptr<Segment> victims_;  // in the child
  std::vector<std::pair<Segment*, Block>> kept_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_SEGMENT_STAGE_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_MEMBER_STAGE_H_
#define HANDOFF_ALLOCATOR_TESTING_MEMBER_STAGE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "allocator/member.h"
#include "allocator/part_name.h"
#include "allocator/testing/kill_harness.h"
#include "allocator/testing/ring_ends.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"

namespace handoff {

class MemberStage;

// What happens on a MemberStage, in this order. `prepare` must do the same every time.
struct MemberScript {
  std::string name;
  // Nobody else is in the session while the victim lives.
  bool alone = false;
  // The victim is a member before `set_up`; otherwise the script joins by itself.
  bool joins = true;
  // So many instructions that finding them takes tens of seconds: only where all are tried. By
  // default such an operation is killed at its crash points.
  bool is_long = false;
  bool others_may_be_faster = false;

  std::function<void(MemberStage&)> prepare = [](MemberStage&) {};
  // In the victim.
  std::function<void(MemberStage&)> set_up = [](MemberStage&) {};
  std::function<void(MemberStage&)> operate;

  friend void PrintTo(const MemberScript& script, std::ostream* out) { *out << script.name; }
};

// A session of 1 MiB with a member that survives, in the test's process, and a process that joins
// and is killed.
class MemberStage : public KillStage {
 public:
  static constexpr uint64_t kSegmentBytes = uint64_t{1} << 20;
  static constexpr uint32_t kVictimSlot = 2;  // if the survivor is the only other member

  explicit MemberStage(const MemberScript& script);
  ~MemberStage() override;

  void SetUpVictim() override;
  void Operate() override;
  void UseWhileStopped() override;
  bool OthersMayBeFaster() const override { return script_.others_may_be_faster; }
  void ExpectWhole() override;

  // One more member, of the process that calls. Its watch acts at deaths and once a second.
  std::unique_ptr<Member> Join() const;

  // For `prepare`, in the test's process.

  // The survivor sends these to the first member that makes an inlet "back", as soon as it does.
  void SendOnceVictimListens(std::vector<PartName> held);

  std::unique_ptr<Member> survivor;
  std::unique_ptr<Inlet> survivors_inlet;
  // What the survivor holds until the end.
  std::vector<PartName> kept;
  // What it has sent to the victim without a ring: taken back if the victim does not accept it.
  std::vector<PartName> sent;
  // A further member of the test's process, for the victim to declare dead and to reclaim.
  std::unique_ptr<Member> dead;
  std::unique_ptr<Inlet> deads_inlet;
  std::unique_ptr<Outlet> deads_outlet;

  // For `set_up` and `operate`, in the victim's process.
  std::unique_ptr<Member> victim;
  std::unique_ptr<Inlet> inlet;
  std::unique_ptr<Outlet> outlet;
  std::vector<PartName> held;

 private:
  // Lets the survivor go on until everything is free.
  void EndSending();
  void ForgetTheDead();
  void ExpectAllFree();
  void UseEverything();

  const MemberScript script_;
  const TestSession session_{TestSessionOptions{.own_directory = true}};
  ProcessSignal victim_has_started_;  // or does not start any more
  std::atomic<bool> end_sending_{false};
  std::unique_ptr<Outlet> survivors_outlet_;  // made by sender_
  std::thread sender_;
};

// `count` references to a new block, all held by `owner`.
std::vector<PartName> Shared(Member& owner, uint32_t count);
// A bundle of blocks, references and an empty part, held by `owner`.
PartName Bundled(Member& owner);

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_MEMBER_STAGE_H_

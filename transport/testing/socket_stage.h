// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_TESTING_SOCKET_STAGE_H_
#define HANDOFF_TRANSPORT_TESTING_SOCKET_STAGE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "allocator/member.h"
#include "allocator/testing/kill_harness.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "transport/message.h"
#include "transport/socket.h"
#include "transport/socket_options.h"
#include "transport/transport.h"

namespace handoff {

class SocketStage;

// What happens on a SocketStage, in this order. `prepare` must do the same every time.
struct SocketScript {
  std::string name;
  // On a ZeroMQ address instead of a ring.
  bool zeromq = false;
  // Blocks that may be under way nowhere for ever when the victim dies: what it had posted on a
  // ZeroMQ address.
  uint64_t may_lose = 0;
  // The victim takes back what it has published: when it dies meanwhile, the entry may be stale.
  bool takes_back = false;

  std::function<void(SocketStage&)> prepare = [](SocketStage&) {};
  // In the victim.
  std::function<void(SocketStage&)> set_up = [](SocketStage&) {};
  std::function<void(SocketStage&)> operate;

  friend void PrintTo(const SocketScript& script, std::ostream* out) { *out << script.name; }
};

// A session of 4 MiB with a transport that survives, in the test's process, and a process with
// another that is killed.
class SocketStage : public KillStage {
 public:
  static constexpr uint64_t kSegmentBytes = uint64_t{4} << 20;

  explicit SocketStage(const SocketScript& script);
  ~SocketStage() override;

  void SetUpVictim() override;
  void Operate() override { script_.operate(*this); }
  void UseWhileStopped() override;
  // What passes in other threads of ZeroMQ is not the same every time.
  // Nor what the survivor does meanwhile.
  bool OthersMayBeFaster() const override { return script_.zeromq || turning_socket_ != nullptr; }
  void ExpectWhole() override;

  // For waits that end a test that has failed.
  static Deadline Soon();
  std::unique_ptr<Transport> Open() const;
  // Where the survivor and the victim meet.
  std::string Address() const;
  static std::unique_ptr<Socket> Make(Transport& transport, Pattern pattern,
                                      const SocketOptions& options = {});
  static std::unique_ptr<Socket> Bind(Transport& transport, Pattern pattern,
                                      const std::string& address);
  static std::unique_ptr<Socket> Connect(Transport& transport, Pattern pattern,
                                         const std::string& address,
                                         const SocketOptions& options = {});
  static Message Filled(Transport& transport, size_t size_bytes);
  static std::vector<Message> FilledParts(Transport& transport, size_t parts, size_t size_bytes);

  // For `prepare`, in the test's process.

  // A socket that the survivor receives from in the end.
  void Listen(Pattern pattern) { inlets.push_back(Bind(*survivor, pattern, Address())); }
  // From the start of the victim to its end the survivor calls `turn` again and again, in a thread
  // of its own, until it says false. It must not take much longer than the deadline that it gets.
  using Turn = std::function<bool(Socket&, const Deadline&)>;
  void Meanwhile(std::unique_ptr<Socket> with, Turn turn);
  // Sends `count` messages of `parts` parts as soon as there is somebody to send to.
  void SendOnceVictimListens(Pattern pattern, int count, size_t parts);
  // Publishes messages of `parts` parts all the time.
  void PublishUntilVictimEnds(size_t parts);
  // Answers every request; asks `count` times.
  void AnswerRequests();
  void AskOnceVictimListens(int count);

  std::unique_ptr<Transport> survivor;
  // A channel of the survivor with itself, which works whatever the victim does.
  std::unique_ptr<Socket> own_pull;
  std::unique_ptr<Socket> own_push;
  std::vector<std::unique_ptr<Socket>> inlets;

  // For `set_up` and `operate`, in the victim's process.
  std::unique_ptr<Transport> victim;
  std::unique_ptr<Socket> socket;
  std::vector<Message> messages;

 private:
  // The survivor takes what there is and closes its sockets.
  void Finish();
  void ExpectNothingWasStale();
  void ExpectAllFree();
  std::unique_ptr<Member> Observer() const;

  const SocketScript script_;
  const TestSession session_{TestSessionOptions{.own_directory = true}};
  ProcessSignal victim_has_started_;  // or does not start any more
  std::atomic<bool> end_turns_{false};
  std::unique_ptr<Socket> turning_socket_;  // used by turning_
  Turn turn_;                               // the same; may hold messages
  std::thread turning_;
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_TESTING_SOCKET_STAGE_H_

// SPDX-License-Identifier: Apache-2.0
#include "transport/testing/socket_stage.h"

#include <gtest/gtest.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/segment_usage.h"
#include "allocator/session.h"
#include "allocator/session_audit.h"
#include "base/check.h"
#include "base/testing/wait_for.h"

namespace handoff {

namespace {

// Each kind of send and receive from `other` to `one`.
void UseEverything(Transport& one, Transport& other, const std::string& name) {
  const Deadline soon = SocketStage::Soon();
  const auto pull = SocketStage::Bind(one, Pattern::kPull, "ring://" + name);
  const auto push = SocketStage::Connect(other, Pattern::kPush, "ring://" + name);
  Message message;
  EXPECT_EQ(push->Send(SocketStage::Filled(other, 5000), soon), SocketResult::kOk);
  EXPECT_EQ(pull->Receive(&message, soon), SocketResult::kOk);
  std::vector<Message> parts = SocketStage::FilledParts(other, 3, 100);
  EXPECT_EQ(push->SendParts(parts, soon), SocketResult::kOk);
  EXPECT_EQ(pull->ReceiveParts(&parts, soon), SocketResult::kOk);
  EXPECT_EQ(parts.size(), 3u);
  parts.clear();
  const auto publish = SocketStage::Bind(other, Pattern::kPublish, "ring://" + name + "p");
  const auto first = SocketStage::Connect(one, Pattern::kSubscribe, "ring://" + name + "p");
  const auto second = SocketStage::Connect(one, Pattern::kSubscribe, "ring://" + name + "p");
  EXPECT_EQ(publish->Send(SocketStage::Filled(other, 100), soon), SocketResult::kOk);
  EXPECT_EQ(first->Receive(&message, soon), SocketResult::kOk);
  EXPECT_EQ(second->Receive(&message, soon), SocketResult::kOk);
  const auto reply = SocketStage::Bind(other, Pattern::kReply, "ring://" + name + "r");
  const auto request = SocketStage::Connect(one, Pattern::kRequest, "ring://" + name + "r");
  EXPECT_EQ(request->Send(SocketStage::Filled(one, 100), soon), SocketResult::kOk);
  EXPECT_EQ(reply->Receive(&message, soon), SocketResult::kOk);
  EXPECT_EQ(reply->Send(std::move(message), soon), SocketResult::kOk);
  EXPECT_EQ(request->Receive(&message, soon), SocketResult::kOk);
  // Stays unread.
  EXPECT_EQ(push->Send(SocketStage::Filled(other, 5000), soon), SocketResult::kOk);
}

}  // namespace

SocketStage::SocketStage(const SocketScript& script) : script_(script) {
  survivor = Open();
  own_pull = Bind(*survivor, Pattern::kPull, "ring://own");
  own_push = Connect(*survivor, Pattern::kPush, "ring://own");
  script_.prepare(*this);
}

SocketStage::~SocketStage() {
  Finish();
  survivor.reset();  // before the session's objects are looked for
}

void SocketStage::SetUpVictim() {
  victim_has_started_.Signal();
  victim = Open();
  script_.set_up(*this);
}

void SocketStage::UseWhileStopped() {
  Message message;
  for (const auto& inlet : inlets) {
    while (inlet->TryReceive(&message) == SocketResult::kOk) {
    }
  }
  message.Release();
  // Over a channel that is there: whoever stands still while it changes the session's objects
  // holds up others who want that, as to join or to bind.
  EXPECT_EQ(own_push->Send(Filled(*survivor, 5000), Soon()), SocketResult::kOk);
  EXPECT_EQ(own_pull->Receive(&message, Soon()), SocketResult::kOk);
  std::vector<Message> parts = FilledParts(*survivor, 3, 100);
  EXPECT_EQ(own_push->SendParts(parts, Soon()), SocketResult::kOk);
  EXPECT_EQ(own_pull->ReceiveParts(&parts, Soon()), SocketResult::kOk);
}

void SocketStage::ExpectWhole() {
  if (!script_.zeromq && !script_.takes_back) ExpectNothingWasStale();
  Finish();
  if (::testing::Test::HasFailure()) return;
  ExpectAllFree();
  survivor.reset();
  EXPECT_TRUE(session_.Objects().empty());
}

Deadline SocketStage::Soon() { return Deadline::After(absl::Seconds(20)); }

std::unique_ptr<Transport> SocketStage::Open() const {
  TransportOptions options;
  options.session = session_.name();
  options.shm_dir = session_.directory();
  options.segment_size_bytes = kSegmentBytes;
  auto transport = Transport::Open(options);
  HANDOFF_CHECK(transport.ok()) << transport.status().ToString();
  return *std::move(transport);
}

std::string SocketStage::Address() const {
  return script_.zeromq ? "ipc://@" + session_.name() : "ring://data";
}

std::unique_ptr<Socket> SocketStage::Make(Transport& transport, Pattern pattern,
                                          const SocketOptions& options) {
  auto socket = transport.CreateSocket(pattern, options);
  HANDOFF_CHECK(socket.ok()) << socket.status().ToString();
  return *std::move(socket);
}

std::unique_ptr<Socket> SocketStage::Bind(Transport& transport, Pattern pattern,
                                          const std::string& address) {
  auto socket = Make(transport, pattern);
  const absl::Status status = socket->Bind(address);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return socket;
}

std::unique_ptr<Socket> SocketStage::Connect(Transport& transport, Pattern pattern,
                                             const std::string& address,
                                             const SocketOptions& options) {
  auto socket = Make(transport, pattern, options);
  const absl::Status status = socket->Connect(address);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return socket;
}

Message SocketStage::Filled(Transport& transport, size_t size_bytes) {
  auto message = transport.Allocate(size_bytes, {.deadline = Soon()});
  HANDOFF_CHECK(message.ok()) << message.status().ToString();
  return *std::move(message);
}

std::vector<Message> SocketStage::FilledParts(Transport& transport, size_t parts,
                                              size_t size_bytes) {
  std::vector<Message> all;
  for (size_t part = 0; part < parts; ++part) all.push_back(Filled(transport, size_bytes));
  return all;
}

void SocketStage::Meanwhile(std::unique_ptr<Socket> with, Turn turn) {
  turning_socket_ = std::move(with);
  turn_ = std::move(turn);
  turning_ = std::thread([this] {
    // The victim is forked while this sleeps, and so holds no lock.
    EXPECT_TRUE(victim_has_started_.Wait(absl::InfiniteDuration()));
    while (!end_turns_.load(std::memory_order_acquire)) {
      if (!turn_(*turning_socket_, Deadline::After(absl::Milliseconds(5)))) return;
    }
  });
}

void SocketStage::SendOnceVictimListens(Pattern pattern, int count, size_t parts) {
  auto all = std::make_shared<std::vector<Message>>();
  Meanwhile(Bind(*survivor, pattern, Address()),
            [this, all, parts, left = count](Socket& to, const Deadline& deadline) mutable {
              if (all->empty()) *all = FilledParts(*survivor, parts, 1000);
              const SocketResult result = parts == 1 ? to.Send(std::move((*all)[0]), deadline)
                                                     : to.SendParts(*all, deadline);
              if (result != SocketResult::kOk) return true;
              all->clear();
              return --left > 0;
            });
}

void SocketStage::PublishUntilVictimEnds(size_t parts) {
  Meanwhile(Bind(*survivor, Pattern::kPublish, Address()),
            [this, parts](Socket& to, const Deadline& deadline) {
              std::vector<Message> all = FilledParts(*survivor, parts, 1000);
              (void)to.SendParts(all, deadline);
              absl::SleepFor(absl::Microseconds(200));  // so as not to take the processor
              return true;
            });
}

void SocketStage::AnswerRequests() {
  auto reply = std::make_shared<Message>();
  Meanwhile(Bind(*survivor, Pattern::kReply, Address()),
            [reply, asked = false](Socket& with, const Deadline& deadline) mutable {
              if (!asked) {
                asked = with.Receive(reply.get(), deadline) == SocketResult::kOk;
              } else if (with.Send(std::move(*reply), deadline) == SocketResult::kOk) {
                asked = false;
              }
              return true;
            });
}

void SocketStage::AskOnceVictimListens(int count) {
  auto reply = std::make_shared<Message>();
  Meanwhile(
      Bind(*survivor, Pattern::kRequest, Address()),
      [this, reply, asked = false, left = count](Socket& with, const Deadline& deadline) mutable {
        if (!asked) {
          asked = with.Send(Filled(*survivor, 1000), deadline) == SocketResult::kOk;
        } else if (with.Receive(reply.get(), deadline) == SocketResult::kOk) {
          reply->Release();
          asked = false;
          --left;
        }
        return left > 0;
      });
}

void SocketStage::Finish() {
  end_turns_.store(true, std::memory_order_release);
  victim_has_started_.Signal();
  if (turning_.joinable()) turning_.join();
  turn_ = nullptr;
  Message message;
  for (const auto& inlet : inlets) {
    while (inlet->Receive(&message, Deadline::After(absl::Milliseconds(script_.zeromq ? 5 : 0))) ==
           SocketResult::kOk) {
    }
  }
  message.Release();
  turning_socket_.reset();
  inlets.clear();
  own_pull.reset();
  own_push.reset();
}

std::unique_ptr<Member> SocketStage::Observer() const {
  SessionOptions options;
  options.names.session = session_.name();
  options.names.shm_dir = session_.directory();
  options.main_segment_bytes = kSegmentBytes;
  options.watch_period = absl::Seconds(1);
  auto observer = Member::Join(std::move(options));
  HANDOFF_CHECK(observer.ok()) << observer.status().ToString();
  return *std::move(observer);
}

// What a sender had published before its death is received also after its reclaim.
void SocketStage::ExpectNothingWasStale() {
  if (inlets.empty()) return;
  const std::unique_ptr<Member> observer = Observer();
  EXPECT_TRUE(WaitFor([&] {
    observer->ReclaimDead();
    uint32_t members = 0;
    observer->session().members().ForEach([&](MemberId, MemberState) { ++members; });
    return members == 2;
  })) << "the victim is not reclaimed";
  Message message;
  for (const auto& inlet : inlets) {
    while (inlet->TryReceive(&message) == SocketResult::kOk) {
    }
    const SocketStatistics statistics = inlet->Statistics();
    EXPECT_EQ(statistics.stale_handles + statistics.bad_frames + statistics.foreign_frames, 0u)
        << "what the dead sender had published is lost";
  }
}

void SocketStage::ExpectAllFree() {
  std::unique_ptr<Member> observer = Observer();
  for (const bool used_again : {false, true}) {
    if (used_again) UseEverything(*survivor, *Open(), "after");
    std::vector<std::string> problems;
    const bool well = WaitFor(
        [&] {
          observer->ReclaimDead();
          problems = AuditSession(*observer);
          const SegmentUsage usage = observer->main_segment().Usage();
          if (usage.used_blocks > script_.may_lose) {
            problems.push_back(DescribeShortage(usage, 0));
          }
          for (uint32_t row = 0; row < observer->rings().rings_used(); ++row) {
            if (observer->rings().LookAtRing(row).has_value()) {
              problems.push_back("a ring is open");
            }
          }
          return problems.empty();
        },
        absl::Seconds(10));
    if (well) continue;
    for (const std::string& line : problems) ADD_FAILURE() << line;
    return;
  }
  Message all;
  if (script_.may_lose > 0) return;
  EXPECT_TRUE(WaitFor([&] {
    return survivor->TryAllocate(kSegmentBytes, &all) == AllocateResult::kOk;
  })) << "not everything can be allocated";
}

}  // namespace handoff

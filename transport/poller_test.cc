// SPDX-License-Identifier: Apache-2.0
#include "transport/poller.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/futex.h"
#include "base/testing/child_process.h"
#include "base/testing/wait_for.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "transport/socket.h"
#include "transport/testing/session_fixture.h"
#include "transport/transport.h"

namespace handoff {
namespace {

// Which sockets, and how one sleeps for them.
struct PollCase {
  const char* name;
  const char* schemes[2];
  bool at_many_words = true;  // as the kernel has it
};
std::ostream& operator<<(std::ostream& out, const PollCase& one) { return out << one.name; }
constexpr PollCase kCases[] = {{"rings", {"ring", "ring"}},
                               {"rings_on_an_old_kernel", {"ring", "ring"}, false},
                               {"zeromq", {"ipc", "inproc"}},
                               {"both", {"ring", "ipc"}},
                               {"both_on_an_old_kernel", {"ipc", "ring"}, false}};

std::string NameOf(const ::testing::TestParamInfo<PollCase>& one) { return one.param.name; }

class PollerTest : public SessionFixture, public ::testing::WithParamInterface<PollCase> {
 protected:
  PollerTest() {
    PretendThatNobodyCanFutexWaitAny(!GetParam().at_many_words);
    transport_ = OpenTransport();
    auto poller = Poller::Create();
    EXPECT_TRUE(poller.ok());
    poller_ = *std::move(poller);
    for (size_t i = 0; i < 2; ++i) {
      pull_[i] = Bind(*transport_, Pattern::kPull, At(i));
      push_[i] = Connect(*transport_, Pattern::kPush, At(i));
      items_[i].socket = pull_[i].get();
    }
  }
  ~PollerTest() override { PretendThatNobodyCanFutexWaitAny(false); }

  std::string At(size_t i) const {
    const std::string scheme = GetParam().schemes[i];
    if (scheme == "ipc") return Address(std::to_string(i));
    return scheme + "://" + session_.name() + std::to_string(i);
  }
  void SendTo(size_t i) {
    ASSERT_EQ(push_[i]->Send(Filled(*transport_, 10, i), Soon()), SocketResult::kOk);
  }
  void ExpectReceived(size_t i) {
    Message message;
    ASSERT_EQ(pull_[i]->TryReceive(&message), SocketResult::kOk);
    EXPECT_TRUE(IsFilled(message, 10, i));
  }

  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Poller> poller_;
  std::unique_ptr<Socket> pull_[2];
  std::unique_ptr<Socket> push_[2];
  PollItem items_[2];
};
INSTANTIATE_TEST_SUITE_P(All, PollerTest, ::testing::ValuesIn(kCases), NameOf);

TEST_P(PollerTest, TellsWhichSocketHasSomethingAndStaysReadyUntilItIsTaken) {
  EXPECT_EQ(poller_->Wait(items_, Deadline::Passed()), SocketResult::kTimedOut);
  for (const size_t i : {size_t{1}, size_t{0}, size_t{1}}) {
    SendTo(i);
    for (int again = 0; again < 3; ++again) {
      ASSERT_EQ(poller_->Wait(items_, Soon()), SocketResult::kOk);
      EXPECT_TRUE(items_[i].ready.receive);
      EXPECT_FALSE(items_[1 - i].ready.receive);
    }
    ExpectReceived(i);
  }
  EXPECT_EQ(poller_->Wait(items_, Deadline::After(absl::Milliseconds(2))), SocketResult::kTimedOut);
}

TEST_P(PollerTest, WakesForEveryMessageWhateverItsMoment) {
  constexpr int kRounds = 1000;
  std::thread sender([&] {
    Message message;
    for (int i = 0; i < kRounds; ++i) {
      // Some fall into the spinning, some into the sleep, some between.
      absl::SleepFor(absl::Microseconds(i % 100));
      SendTo(static_cast<size_t>(i % 2));
    }
  });
  int received = 0;
  while (received < kRounds) {
    ASSERT_EQ(poller_->Wait(items_, Soon()), SocketResult::kOk);
    for (size_t i = 0; i < 2; ++i) {
      Message message;
      while (pull_[i]->TryReceive(&message) == SocketResult::kOk) ++received;
    }
  }
  sender.join();
}

TEST_P(PollerTest, WaitsForRoom) {
  SocketOptions few = PatientOptions();
  few.send_high_water_mark = few.receive_high_water_mark = 2;
  few.kernel_send_buffer_bytes = few.kernel_receive_buffer_bytes = 4096;
  auto pull = Bind(*transport_, Pattern::kPull, At(0) + "room", few);
  auto push = Connect(*transport_, Pattern::kPush, At(0) + "room", few);
  PollItem item{.socket = push.get(), .for_receive = false, .for_send = true};
  ASSERT_EQ(poller_->Wait({&item, 1}, Soon()), SocketResult::kOk);
  EXPECT_TRUE(item.ready.send);
  int sent = 0;
  // Full once nothing moves any more: ZeroMQ's threads may be late.
  ASSERT_TRUE(WaitFor([&] {
    while (push->TrySend(Filled(*transport_, 10, 1)) == SocketResult::kOk) ++sent;
    return poller_->Wait({&item, 1}, Deadline::After(absl::Milliseconds(100))) ==
           SocketResult::kTimedOut;
  }));
  std::thread receiver([&] {
    Message message;
    for (int i = 0; i < sent; ++i) EXPECT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk);
  });
  EXPECT_EQ(poller_->Wait({&item, 1}, Soon()), SocketResult::kOk);
  EXPECT_EQ(push->TrySend(Message()), SocketResult::kOk);
  receiver.join();
}

TEST_P(PollerTest, WaitsForPlainDescriptorsToo) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  PollItem items[] = {{.socket = pull_[0].get()}, {.socket = pull_[1].get()}, {.fd = ends[0]}};
  EXPECT_EQ(poller_->Wait(items, Deadline::After(absl::Milliseconds(2))), SocketResult::kTimedOut);
  std::thread writer([&] { EXPECT_EQ(write(ends[1], "x", 1), 1); });
  ASSERT_EQ(poller_->Wait(items, Soon()), SocketResult::kOk);
  EXPECT_TRUE(items[2].ready.receive);
  writer.join();
  char byte;
  EXPECT_EQ(read(ends[0], &byte, 1), 1);
  for (size_t i = 0; i < 2; ++i) {
    std::thread sender([&] { SendTo(i); });
    ASSERT_EQ(poller_->Wait(items, Soon()), SocketResult::kOk);
    EXPECT_TRUE(items[i].ready.receive);
    EXPECT_FALSE(items[2].ready.receive);
    ExpectReceived(i);
    sender.join();
  }
  write_end.reset();  // its end can be read
  ASSERT_EQ(poller_->Wait(items, Soon()), SocketResult::kOk);
  EXPECT_TRUE(items[2].ready.receive);
}

TEST_P(PollerTest, IsInterruptedOnceByAnotherThread) {
  for (int i = 0; i < 20; ++i) {
    std::thread interrupter([&] {
      absl::SleepFor(absl::Microseconds(20 * i));
      poller_->Interrupt();
    });
    EXPECT_EQ(poller_->Wait(items_, Deadline::Infinite()), SocketResult::kInterrupted);
    interrupter.join();
    EXPECT_EQ(poller_->Wait(items_, Deadline::Passed()), SocketResult::kTimedOut);
  }
  poller_->Interrupt();
  poller_->Interrupt();
  EXPECT_EQ(poller_->Wait(items_, Soon()), SocketResult::kInterrupted);
  transport_->Interrupt();
  EXPECT_EQ(poller_->Wait(items_, Soon()), SocketResult::kInterrupted);
  EXPECT_EQ(poller_->Wait(items_, Soon()), SocketResult::kInterrupted);
  transport_->Resume();
  EXPECT_EQ(poller_->Wait(items_, Deadline::Passed()), SocketResult::kTimedOut);
}

Poller* interrupted_by_signal = nullptr;

TEST_P(PollerTest, IsInterruptedByASignalHandler) {
  interrupted_by_signal = poller_.get();
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { interrupted_by_signal->Interrupt(); };
  ASSERT_EQ(sigaction(SIGALRM, &action, &before), 0);
  const itimerval soon{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 10'000}};
  ASSERT_EQ(setitimer(ITIMER_REAL, &soon, nullptr), 0);
  EXPECT_EQ(poller_->Wait(items_, Deadline::Infinite()), SocketResult::kInterrupted);
  sigaction(SIGALRM, &before, nullptr);
}

TEST_P(PollerTest, SaysWhatASocketCannotBeWaitedFor) {
  PollItem item{.socket = push_[0].get()};
  EXPECT_EQ(poller_->Wait({&item, 1}, Soon()), SocketResult::kWrongPattern);
  auto fresh = *transport_->CreateSocket(Pattern::kPull);
  item = {.socket = fresh.get()};
  EXPECT_EQ(poller_->Wait({&item, 1}, Soon()), SocketResult::kNoAddress);
  item = {.socket = pull_[0].get()};
  pull_[0]->Close();
  EXPECT_EQ(poller_->Wait({&item, 1}, Soon()), SocketResult::kClosed);
  EXPECT_FALSE(Poller::Create({.spin = absl::Seconds(2)}).ok());
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_EQ(poller_->Wait({&items_[1], 1}, Soon()), SocketResult::kUnusable);
    EXPECT_TRUE(absl::IsFailedPrecondition(pull_[1]->Descriptor().status()));
    EXPECT_FALSE(pull_[1]->Ready().any());
    pull_[1].reset();
    transport_.reset();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_P(PollerTest, HasADescriptorForLoopsOfOthers) {
  const UniqueFd loop(epoll_create1(EPOLL_CLOEXEC));
  for (uint32_t i = 0; i < 2; ++i) {
    const auto fd = pull_[i]->Descriptor();
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(*pull_[i]->Descriptor(), *fd);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = i;
    ASSERT_EQ(epoll_ctl(loop.get(), EPOLL_CTL_ADD, *fd, &event), 0);
  }
  Message message;
  constexpr int kRounds = 1000;
  std::thread sender([&] {
    for (int i = 0; i < kRounds; ++i) {
      absl::SleepFor(absl::Microseconds(i % 50));
      SendTo(static_cast<size_t>(i % 2));
    }
  });
  int received = 0;
  int wakes = 0;
  while (received < kRounds) {
    // Step 2 of Descriptor().
    bool nothing = true;
    for (auto& pull : pull_) {
      while (pull->TryReceive(&message) == SocketResult::kOk) {
        ++received;
        nothing = false;
      }
    }
    if (!nothing) continue;
    epoll_event event;
    ASSERT_EQ(epoll_wait(loop.get(), &event, 1, 20'000), 1);
    ++wakes;
  }
  sender.join();
  // And it sleeps in between: it is not always readable.
  EXPECT_FALSE(pull_[0]->Ready().any() || pull_[1]->Ready().any());
  epoll_event event;
  EXPECT_TRUE(WaitFor([&] {
    (void)pull_[0]->Ready();
    (void)pull_[1]->Ready();
    return epoll_wait(loop.get(), &event, 1, 0) == 0;
  }));
  EXPECT_LE(wakes, 10 * kRounds);
  // What waits in a receive in between does not harm.
  EXPECT_EQ(pull_[0]->Receive(&message, Deadline::After(absl::Milliseconds(2))),
            SocketResult::kTimedOut);
  EXPECT_FALSE(pull_[0]->Ready().any());
  SendTo(0);
  ASSERT_EQ(epoll_wait(loop.get(), &event, 1, 20'000), 1);
  ExpectReceived(0);
}

TEST_P(PollerTest, WakesWhenAPeerOfAnotherProcessSendsAndWasKilled) {
  const std::string address =
      std::string(GetParam().schemes[0]) == "inproc" ? Address("kill") : At(0) + "kill";
  auto pull = Bind(*transport_, Pattern::kPull, address);
  PollItem items[] = {{.socket = pull.get()}, {.socket = pull_[1].get()}};
  for (int round = 0; round < 3; ++round) {
    ChildProcess child = ChildProcess::Start([&] {
      auto transport = OpenTransport();
      auto push = Connect(*transport, Pattern::kPush, address);
      for (;;) {
        if (push->Send(Filled(*transport, 10, 1), Soon()) != SocketResult::kOk) return 1;
        absl::SleepFor(absl::Microseconds(200));
      }
    });
    Message message;
    for (int i = 0; i < 50; ++i) {
      ASSERT_EQ(poller_->Wait(items, Soon()), SocketResult::kOk);
      EXPECT_TRUE(items[0].ready.receive);
      EXPECT_EQ(pull->TryReceive(&message), SocketResult::kOk);
    }
    child.Kill();
    ASSERT_TRUE(child.Wait().has_value());
    while (pull->TryReceive(&message) == SocketResult::kOk) {
    }
  }
}

// Replies and requests in one loop: both directions of one socket.
TEST_P(PollerTest, TellsBothDirectionsOfOneSocket) {
  const std::string address = At(0) + "pair";
  auto left = Bind(*transport_, Pattern::kPair, address);
  auto right = Connect(*transport_, Pattern::kPair, address);
  PollItem item{.socket = left.get(), .for_receive = true, .for_send = true};
  ASSERT_TRUE(WaitFor([&] {
    return poller_->Wait({&item, 1}, Deadline::Passed()) == SocketResult::kOk && item.ready.send;
  }));
  EXPECT_FALSE(item.ready.receive);
  item.for_send = false;
  for (int i = 0; i < 300; ++i) {
    std::thread echo([&] {
      Message message;
      EXPECT_EQ(right->Receive(&message, Soon()), SocketResult::kOk);
      EXPECT_EQ(right->Send(std::move(message), Soon()), SocketResult::kOk);
    });
    ASSERT_EQ(left->Send(Filled(*transport_, 10, 1), Soon()), SocketResult::kOk);
    ASSERT_EQ(poller_->Wait({&item, 1}, Soon()), SocketResult::kOk);
    Message message;
    EXPECT_EQ(left->TryReceive(&message), SocketResult::kOk);
    echo.join();
  }
}

using DescriptorTest = SessionFixture;

TEST_F(DescriptorTest, ServesMoreSocketsThanOneThreadCanSleepFor) {
  auto transport = OpenTransport();
  std::vector<std::unique_ptr<Socket>> pulls;
  std::vector<std::unique_ptr<Socket>> pushes;
  std::vector<PollItem> items;
  constexpr size_t kCount = 200;
  for (size_t i = 0; i < kCount; ++i) {
    const std::string address = "ring://data" + std::to_string(i);
    pulls.push_back(Bind(*transport, Pattern::kPull, address));
    pushes.push_back(Connect(*transport, Pattern::kPush, address));
    items.push_back({.socket = pulls.back().get()});
  }
  auto poller = *Poller::Create();
  for (size_t i = 0; i < kCount; i += 7) {
    std::thread sender([&] { EXPECT_EQ(pushes[i]->Send(Message(), Soon()), SocketResult::kOk); });
    ASSERT_EQ(poller->Wait(items, Soon()), SocketResult::kOk);
    EXPECT_TRUE(items[i].ready.receive);
    Message message;
    EXPECT_EQ(pulls[i]->TryReceive(&message), SocketResult::kOk);
    sender.join();
  }
}

}  // namespace
}  // namespace handoff

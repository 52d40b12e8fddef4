// SPDX-License-Identifier: Apache-2.0
#include "transport/ipc_path.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "gtest/gtest.h"

namespace handoff::internal {
namespace {

class IpcPathTest : public ::testing::Test {
 protected:
  // As a process would that does not know us.
  UniqueFd Listen(int type = SOCK_STREAM) {
    UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    if (type == SOCK_STREAM) {
      EXPECT_EQ(listen(fd.get(), 1), 0);
    }
    return fd;
  }

  const TestSession session_{TestSessionOptions{.own_directory = true}};
  const std::string path_ = session_.directory() + "/socket";
};

TEST_F(IpcPathTest, IsFreeWhereNothingIs) { EXPECT_TRUE(IpcPathClaim::Take(path_).ok()); }

TEST_F(IpcPathTest, IsTakenWhileSomebodyListensAndFreeAfterwards) {
  UniqueFd listener = Listen();
  EXPECT_EQ(IpcPathClaim::Take(path_).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(IpcPathClaim::Take(path_).status().code(), absl::StatusCode::kAlreadyExists);
  // Its queue is full of our probes by now, and still it counts.
  EXPECT_EQ(IpcPathClaim::Take(path_).status().code(), absl::StatusCode::kAlreadyExists);
  listener.reset();
  EXPECT_TRUE(IpcPathClaim::Take(path_).ok());
  unlink(path_.c_str());
}

TEST_F(IpcPathTest, IsFreeOnceTheProcessThatListenedWasKilled) {
  ProcessSignal ready;
  ChildProcess child = ChildProcess::Start([&] {
    const UniqueFd listener = Listen();
    ready.Signal();
    pause();
    return 0;
  });
  ASSERT_TRUE(ready.Wait());
  EXPECT_FALSE(IpcPathClaim::Take(path_).ok());
  child.Kill();
  child.Wait();
  EXPECT_TRUE(IpcPathClaim::Take(path_).ok());
  unlink(path_.c_str());
}

TEST_F(IpcPathTest, IsNeverTakenFromAnythingThatIsNoSuchSocket) {
  std::ofstream(path_) << "data";
  EXPECT_EQ(IpcPathClaim::Take(path_).status().code(), absl::StatusCode::kAlreadyExists);
  unlink(path_.c_str());
  const UniqueFd datagrams = Listen(SOCK_DGRAM);
  EXPECT_EQ(IpcPathClaim::Take(path_).status().code(), absl::StatusCode::kAlreadyExists);
  unlink(path_.c_str());
  EXPECT_EQ(IpcPathClaim::Take(session_.directory() + "/no/socket").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(IpcPathTest, IsClaimedByOneAtATime) {
  std::atomic<int> inside{0};
  const auto claim_often = [&] {
    for (int i = 0; i < 50; ++i) {
      const auto claim = IpcPathClaim::Take(path_);
      ASSERT_TRUE(claim.ok()) << claim.status().ToString();
      EXPECT_EQ(inside.fetch_add(1), 0);
      std::this_thread::yield();
      inside.fetch_sub(1);
    }
  };
  std::thread other(claim_often);
  claim_often();
  other.join();
}

TEST_F(IpcPathTest, StaysClaimableAfterAForkWhileItWasClaimed) {
  ProcessSignal claimed;
  auto claim = IpcPathClaim::Take(path_);
  ASSERT_TRUE(claim.ok());
  ChildProcess child = ChildProcess::Start([] {
    pause();
    return 0;
  });
  { const auto given_back = *std::move(claim); }
  EXPECT_TRUE(IpcPathClaim::Take(path_).ok());
}

TEST_F(IpcPathTest, RemovesOnlyTheFileThatItWasTold) {
  UniqueFd first = Listen();
  const auto file = IdentifyIpcFile(path_);
  ASSERT_TRUE(file.ok());
  const std::string kept = path_ + ".kept";
  ASSERT_EQ(rename(path_.c_str(), kept.c_str()), 0);  // so that its inode is not used again
  const UniqueFd second = Listen();
  RemoveIpcFile(*file);
  EXPECT_TRUE(IdentifyIpcFile(path_).ok());
  RemoveIpcFile(*IdentifyIpcFile(path_));
  EXPECT_FALSE(IdentifyIpcFile(path_).ok());
  unlink(kept.c_str());
}

}  // namespace
}  // namespace handoff::internal

// SPDX-License-Identifier: Apache-2.0
// Processes of one session that allocate, share, bundle, exchange and release at random, and are
// killed and stopped at any moment; and members that come and go by the thousand.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/member.h"
#include "allocator/session_audit.h"
#include "allocator/testing/member_stage.h"
#include "allocator/testing/ring_ends.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"

namespace handoff {
namespace {

using ::testing::IsEmpty;

// HANDOFF_STORM_SECONDS lengthens the storms.
int StormSeconds() {
  const char* const seconds = std::getenv("HANDOFF_STORM_SECONDS");
  return seconds == nullptr ? 5 : std::max(1, std::atoi(seconds));
}

constexpr uint32_t kProcesses = 4;
constexpr uint64_t kSegmentBytes = uint64_t{8} << 20;

std::unique_ptr<Member> Join(const TestSession& session) {
  SessionOptions options;
  options.names.session = session.name();
  options.names.shm_dir = session.directory();
  options.main_segment_bytes = kSegmentBytes;
  options.watch_period = absl::Milliseconds(20);
  options.join_deadline = absl::Seconds(20);
  absl::StatusOr<std::unique_ptr<Member>> member = Member::Join(std::move(options));
  HANDOFF_CHECK(member.ok()) << member.status().ToString();
  return *std::move(member);
}

// What a block holds: numbers that follow from the first, up to a limit and at the end, so that any
// other writer is seen.
constexpr uint64_t kFilledWords = 64;
void Fill(std::byte* data, uint64_t size_bytes, uint64_t seed) {
  const uint64_t words = size_bytes / 8;
  auto* const out = reinterpret_cast<uint64_t*>(data);
  for (uint64_t i = 0; i < std::min(words, kFilledWords); ++i) out[i] = seed + i * i;
  out[words - 1] = words == 1 ? seed : seed ^ 1;
}
bool IsFilled(const std::byte* data, uint64_t size_bytes) {
  const uint64_t words = size_bytes / 8;
  const auto* const in = reinterpret_cast<const uint64_t*>(data);
  const uint64_t seed = in[0];
  for (uint64_t i = 1; i < std::min(words - 1, kFilledWords); ++i) {
    if (in[i] != seed + i * i) return false;
  }
  return words == 1 || in[words - 1] == (seed ^ 1);
}

// One process of the storm, from its join to its death.
class StormProcess {
 public:
  StormProcess(const TestSession& session, uint32_t id, uint32_t seed)
      : member_(Join(session)), inlet_(*member_, NameOf(id)), random_(seed), id_(id) {}

  // One move. False: something is wrong.
  bool Turn() {
    switch (random_() % 8) {
      case 0:
      case 1:
        Allocate();
        break;
      case 2:
        Share();
        break;
      case 3:
        BundleSome();
        break;
      case 4:
      case 5:
        SendOne();
        break;
      default:
        if (!ReceiveSome()) return false;
        break;
    }
    while (held_.size() > 24) ReleaseOne();
    return held_.empty() || IsIntact(held_[random_() % held_.size()]);
  }

  // After a stop: nothing of ours was touched.
  bool AllIntact() {
    return std::all_of(held_.begin(), held_.end(),
                       [this](const auto& name) { return IsIntact(name); });
  }

 private:
  static std::string NameOf(uint32_t id) { return "process" + std::to_string(id); }

  PartName Take() {
    const size_t i = random_() % held_.size();
    const PartName name = held_[i];
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(i));
    return name;
  }
  void ReleaseOne() { Release(*member_, Take()); }

  void Allocate() {
    static constexpr std::array<uint64_t, 6> kSizes = {8, 64, 1000, 9000, 70000, 400000};
    const uint64_t size_bytes = kSizes[random_() % kSizes.size()] / 8 * 8;
    PartName name = HeldBlock(*member_, size_bytes);
    if (name.kind == PartKind::kEmpty) return;  // full
    name.used_bytes = size_bytes;
    Fill(BlockOf(*member_, name).data, size_bytes, random_());
    held_.push_back(name);
  }

  void Share() {
    if (held_.empty()) return;
    const PartName name = Take();
    if (name.kind == PartKind::kBlock) {
      std::vector<Reference> references(1 + random_() % 70);
      if (!member_->Share(*member_->SegmentAt(name.segment), BlockOf(*member_, name), references)
               .ok()) {
        held_.push_back(name);
        return;
      }
      for (size_t i = 0; i < references.size(); ++i) {
        PartName one = Named(references[i]);
        one.used_bytes = name.used_bytes;
        if (i < 4) {
          held_.push_back(one);
        } else {
          Release(*member_, one);
        }
      }
      return;
    }
    held_.push_back(name);
    if (name.kind != PartKind::kReference) return;
    Reference reference = ReferenceOf(*member_, name);
    const absl::StatusOr<Reference> copy = member_->Copy(&reference);
    held_.back() = Named(reference);
    held_.back().used_bytes = name.used_bytes;
    if (!copy.ok()) return;
    held_.push_back(Named(*copy));
    held_.back().used_bytes = name.used_bytes;
  }

  void BundleSome() {
    std::vector<PartName> parts;
    for (size_t i = 0; i < held_.size() && parts.size() < 5;) {
      if (held_[i].kind == PartKind::kBundle) {
        ++i;
        continue;
      }
      parts.push_back(held_[i]);
      held_.erase(held_.begin() + static_cast<ptrdiff_t>(i));
    }
    if (parts.empty()) return;
    const auto bundle = member_->Bundle(parts);
    if (bundle.ok()) {
      held_.push_back(Named(*bundle));
    } else {
      held_.insert(held_.end(), parts.begin(), parts.end());
    }
  }

  void SendOne() {
    if (held_.empty()) return;
    const uint32_t to = static_cast<uint32_t>(random_() % kProcesses);
    std::unique_ptr<Outlet>& outlet = outlets_[to];
    if (outlet != nullptr && outlet->ReceiverHasGone()) {
      for (const PartName& back : outlet->TakeBackAll()) held_.push_back(back);
      outlet.reset();
    }
    if (outlet == nullptr && to != id_) outlet = Outlet::Open(*member_, NameOf(to));
    if (outlet == nullptr) return;
    const PartName name = Take();
    if (!outlet->Send(name)) held_.push_back(name);
  }

  bool ReceiveSome() {
    for (int i = 0; i < 4; ++i) {
      const std::optional<PartName> taken = inlet_.Receive();
      if (!taken.has_value()) return true;
      if (taken->kind != PartKind::kBundle) {
        held_.push_back(*taken);
        continue;
      }
      std::vector<PartName> parts;
      if (random_() % 3 == 0) {
        Release(*member_, *taken);
      } else if (!member_->Unpack(BundleOf(*member_, *taken), &parts)) {
        ADD_FAILURE() << "a bundle with parts that are not its own";
        return false;
      }
      held_.insert(held_.end(), parts.begin(), parts.end());
    }
    return true;
  }

  bool IsIntact(const PartName& name) {
    bool intact = true;
    if (name.kind == PartKind::kBlock) {
      intact = IsFilled(BlockOf(*member_, name).data, name.used_bytes);
    } else if (name.kind == PartKind::kReference) {
      const auto view = member_->View(ReferenceOf(*member_, name));
      intact = view.has_value() && IsFilled(view->data, name.used_bytes);
    }
    EXPECT_TRUE(intact) << "somebody has written into what process " << id_ << " holds";
    return intact;
  }

  const std::unique_ptr<Member> member_;
  Inlet inlet_;
  std::array<std::unique_ptr<Outlet>, kProcesses> outlets_;
  std::mt19937 random_;
  const uint32_t id_;
  std::vector<PartName> held_;
};

// Turns made by each process, in memory of all.
struct Progress {
  std::array<std::atomic<uint64_t>, kProcesses> turns;
};

class MemberStormTest : public ::testing::Test {
 protected:
  MemberStormTest() {
    void* const memory = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HANDOFF_CHECK(memory != MAP_FAILED);
    progress_ = new (memory) Progress();
  }
  ~MemberStormTest() override { ::munmap(progress_, sizeof(Progress)); }

  ChildProcess StartProcess(uint32_t id, uint32_t seed) {
    return ChildProcess::Start([this, id, seed] {
      StormProcess process(session_, id, seed);
      while (process.Turn()) {
        const uint64_t turn = progress_->turns[id].fetch_add(1, std::memory_order_relaxed);
        if (turn % 64 == 0 && !process.AllIntact()) break;
      }
      return 1;
    });
  }

  // Whether process `id`, of which `begun` turns were known when it was started, has joined: one
  // that stands still while it joins keeps others from joining, as it may.
  bool HasJoined(uint32_t id, uint64_t begun) const {
    return WaitFor([&] { return progress_->turns[id].load(std::memory_order_relaxed) > begun; });
  }

  // Every process but `stopped` makes turns.
  void ExpectOthersGoOn(uint32_t stopped) {
    for (uint32_t id = 0; id < kProcesses; ++id) {
      if (id == stopped) continue;
      const uint64_t before = progress_->turns[id].load(std::memory_order_relaxed);
      EXPECT_TRUE(WaitFor([&] {
        return progress_->turns[id].load(std::memory_order_relaxed) > before + 10;
      })) << "process "
          << id << " hangs while " << stopped << " stands still";
    }
  }

  static void ExpectAllFree(Member& survivor) {
    std::vector<std::string> problems;
    EXPECT_TRUE(WaitFor([&] {
      survivor.ReclaimDead();
      problems = AuditSession(survivor);
      return problems.empty() && survivor.main_segment().Usage().used_blocks == 0 &&
             ScanUsage(survivor.group_rows().view()).used_blocks == 0 &&
             ScanUsage(survivor.bundle_rows().view()).used_blocks == 0;
    })) << DescribeShortage(survivor.main_segment().Usage(), 0);
    for (const std::string& line : problems) ADD_FAILURE() << line;
    Block all;
    survivor.main_segment().Trim();
    EXPECT_EQ(survivor.main_segment().TryAllocate(kSegmentBytes, 64, &all), AllocateResult::kOk);
    if (all.data != nullptr) survivor.main_segment().Release(all);
  }

  Progress* progress_;
  const TestSession session_{TestSessionOptions{.own_directory = true}};
};

TEST_F(MemberStormTest, IsWholeAfterAStormOfKillsAndStops) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<ChildProcess> processes;
  std::array<uint64_t, kProcesses> begun{};
  for (uint32_t id = 0; id < kProcesses; ++id)
    processes.push_back(StartProcess(id, static_cast<uint32_t>(random())));
  uint64_t kills = 0;
  uint64_t stops = 0;
  const Deadline end = Deadline::After(absl::Seconds(StormSeconds()));
  // However slow the machine is: with some kills.
  while ((!end.expired() || kills <= 10) && !HasFailure()) {
    absl::SleepFor(absl::Microseconds(random() % 15'000));
    const uint32_t id = static_cast<uint32_t>(random() % kProcesses);
    ChildProcess& process = processes[id];
    if (random() % 4 == 0) {
      ASSERT_TRUE(HasJoined(id, begun[id]));
      ASSERT_TRUE(process.Stop());
      ExpectOthersGoOn(id);
      process.Kill(SIGCONT);
      ++stops;
      continue;
    }
    // Also one that stands still.
    const bool stopped = random() % 4 == 0 && process.Stop();
    (void)stopped;
    process.Kill();
    EXPECT_EQ(process.Wait(), ChildExit::Signal(SIGKILL));
    begun[id] = progress_->turns[id].load(std::memory_order_relaxed);
    process = StartProcess(id, static_cast<uint32_t>(random()));
    ++kills;
  }
  std::unique_ptr<Member> survivor = Join(session_);
  ExpectOthersGoOn(kProcesses);
  for (ChildProcess& process : processes) {
    process.Kill();
    EXPECT_EQ(process.Wait(), ChildExit::Signal(SIGKILL));
  }
  ExpectAllFree(*survivor);
  survivor.reset();
  EXPECT_THAT(session_.Objects(), IsEmpty());
  uint64_t turns = 0;
  for (const auto& one : progress_->turns) turns += one.load(std::memory_order_relaxed);
  std::cout << turns << " turns, " << kills << " kills, " << stops << " stops\n";
  EXPECT_GT(kills, 10u);
}

TEST_F(MemberStormTest, MembersComeAndGoByTheThousandAndNothingRunsOut) {
  const int rounds = 400 * StormSeconds();
  std::unique_ptr<Member> survivor = Join(session_);
  Inlet inlet(*survivor, "in");
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    const auto live = [&] {
      const std::unique_ptr<Member> member = Join(session_);
      const std::unique_ptr<Outlet> outlet = Outlet::Open(*member, "in");
      ASSERT_NE(outlet, nullptr);
      EXPECT_TRUE(outlet->Send(HeldBlock(*member, 1000)));
      EXPECT_TRUE(outlet->Send(Bundled(*member)));
      (void)Bundled(*member);
      (void)HeldBlock(*member, 100000);
      if (round % 10 == 0) ::raise(SIGKILL);
    };
    if (round % 10 == 0) {
      ChildProcess child = ChildProcess::Start([&] {
        live();
        return 0;
      });
      EXPECT_EQ(child.Wait(), ChildExit::Signal(SIGKILL));
    } else {
      live();
    }
    int received = 0;
    EXPECT_TRUE(WaitFor([&] {
      while (const std::optional<PartName> taken = inlet.Receive()) {
        Release(*survivor, *taken);
        ++received;
      }
      return received == 2;
    }));
  }
  inlet.Close();
  EXPECT_LE(survivor->session().members().SlotsUsed(), 8u);
  EXPECT_LE(survivor->rings().endpoints_used(), 16u);
  EXPECT_LE(survivor->rings().rings_used(), 16u);
  ExpectAllFree(*survivor);
  survivor.reset();
  EXPECT_THAT(session_.Objects(), IsEmpty());
}

}  // namespace
}  // namespace handoff

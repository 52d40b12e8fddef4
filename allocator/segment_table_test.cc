// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "allocator/segment_layout.h"
#include "allocator/testing/small_tmpfs.h"
#include "base/crash_point.h"
#include "base/testing/child_process.h"
#include "base/testing/test_session.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class SegmentTableTest : public ::testing::Test {
 protected:
  SegmentTableTest() { Begin("", session_.directory()); }
  ~SegmentTableTest() override {
    for (const auto& entry : std::filesystem::directory_iterator(session_.directory())) {
      std::filesystem::remove(entry);
    }
  }

  // A management object without members, whose main segment has this name.
  void Begin(const std::string& main_segment, const std::string& directory) {
    table_.reset();
    names_ = ObjectNames::Create(
                 {.session = session_.name(), .shm_dir = directory, .main_segment = main_segment})
                 .value();
    ASSERT_TRUE(Mapping::Remove(names_->ManagementPath()).ok());
    management_ =
        Mapping::Create(names_->ManagementPath(), {.size_bytes = kManagementFixedBytes}).value();
    ASSERT_TRUE(management_.Reserve(0, kManagementFixedBytes).ok());
    MakeManagement(management_.bytes(), {.main_segment = names_->Segment(0)});
    table_.emplace(management_, *names_, FileAccess{});
  }

  bool Exists(uint32_t id) const { return std::filesystem::exists(names_->SegmentPath(id)); }

  static SegmentOptions Options(uint32_t id) {
    SegmentOptions options;
    options.id = id;
    options.size_bytes = kMiB;
    options.memory.zero = true;
    return options;
  }

  std::vector<uint32_t> Ids() const {
    std::vector<uint32_t> ids;
    for (const SegmentInfo& info : table_->List()) ids.push_back(info.id);
    return ids;
  }

  TestSession session_{TestSessionOptions{.own_directory = true}};
  std::optional<ObjectNames> names_;
  Mapping management_;
  std::optional<SegmentTable> table_;
};

TEST_F(SegmentTableTest, MakesSegmentsThatOthersOpen) {
  absl::StatusOr<SegmentObjects> made = table_->Create(Options(0));
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_TRUE(table_->Create(Options(5)).ok());
  EXPECT_THAT(Ids(), ElementsAre(0, 5));
  const absl::StatusOr<SegmentObjects> opened = table_->Open(0);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->size_bytes, kMiB);
  EXPECT_EQ(opened->flags, Options(0).memory.Flags());
  EXPECT_NE(opened->flags, 0u);
  EXPECT_EQ(opened->name, names_->Segment(0));
  EXPECT_EQ(opened->row, made->row);
  EXPECT_EQ(opened->generation, made->generation);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(opened->payload.bytes().data()) % kPayloadAlignmentBytes,
            0u);

  ASSERT_TRUE(made->area.Reserve(0, 100).ok());
  ASSERT_TRUE(made->payload.Reserve(0, kMiB).ok());
  made->area.bytes()[99] = std::byte{3};
  made->payload.bytes()[kMiB - 1] = std::byte{4};
  EXPECT_EQ(opened->area.bytes()[99], std::byte{3});
  EXPECT_EQ(opened->payload.bytes()[kMiB - 1], std::byte{4});
}

TEST_F(SegmentTableTest, GivesEverySegmentAnAreaOfItsOwn) {
  SegmentObjects first = table_->Create(Options(1)).value();
  SegmentObjects second = table_->Create(Options(2)).value();
  ASSERT_TRUE(first.area.Reserve(0, first.area.size_bytes()).ok());
  ASSERT_TRUE(second.area.Reserve(0, second.area.size_bytes()).ok());
  std::fill(first.area.bytes().begin(), first.area.bytes().end(), std::byte{1});
  EXPECT_TRUE(std::all_of(second.area.bytes().begin(), second.area.bytes().end(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST_F(SegmentTableTest, RefusesASecondSegmentOfOneId) {
  ASSERT_TRUE(table_->Create(Options(3)).ok());
  const auto again = table_->Create(Options(3));
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Exists(3));
  EXPECT_THAT(Ids(), ElementsAre(3));
}

TEST_F(SegmentTableTest, RefusesMoreSegmentsThanItHasRows) {
  for (uint32_t id = 0; id < kMaxSegments; ++id) {
    ASSERT_TRUE(table_->Create({.id = id, .size_bytes = 4096}).ok());
  }
  const auto one_more = table_->Create({.id = 1000, .size_bytes = 4096});
  EXPECT_EQ(one_more.status().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(table_->Remove(17).ok());
  EXPECT_TRUE(table_->Create({.id = 1000, .size_bytes = 4096}).ok());
}

TEST_F(SegmentTableTest, RefusesAnIdAndASizeBeyondTheLimits) {
  EXPECT_EQ(table_->Create({.id = kMaxSegmentId + 1, .size_bytes = 4096}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table_->Create({.id = 1, .size_bytes = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table_->Create({.id = 1, .size_bytes = kMaxSegmentBytes + 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_FALSE(Exists(1));
  EXPECT_TRUE(table_->Create(Options(1)).ok());
}

TEST_F(SegmentTableTest, LeavesWhoHasMappedARemovedSegmentInPeace) {
  SegmentObjects objects = table_->Create(Options(2)).value();
  ASSERT_TRUE(objects.payload.Reserve(0, kMiB).ok());
  ASSERT_TRUE(table_->Remove(2).ok());
  EXPECT_FALSE(Exists(2));
  EXPECT_EQ(table_->Open(2).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table_->Remove(2).code(), absl::StatusCode::kNotFound);
  objects.payload.bytes()[0] = std::byte{1};

  const SegmentObjects next = table_->Create(Options(2)).value();
  EXPECT_EQ(next.row, objects.row);
  EXPECT_EQ(next.generation, objects.generation + 1);
  EXPECT_EQ(next.payload.bytes()[0], std::byte{0});
}

TEST_F(SegmentTableTest, ShowsASegmentOnlyOncePrepared) {
  SegmentOptions options = Options(1);
  options.prepare = [&](SegmentObjects& objects) {
    EXPECT_THAT(Ids(), IsEmpty());
    EXPECT_EQ(objects.area.size_bytes(), SegmentAreaBytes(kMiB));
    return absl::OkStatus();
  };
  EXPECT_TRUE(table_->Create(options).ok());
  EXPECT_THAT(Ids(), ElementsAre(1));

  options.id = 2;
  options.prepare = [](SegmentObjects&) { return absl::ResourceExhaustedError("no room"); };
  EXPECT_EQ(table_->Create(options).status(), absl::ResourceExhaustedError("no room"));
  EXPECT_THAT(Ids(), ElementsAre(1));
  EXPECT_FALSE(Exists(2));
}

TEST_F(SegmentTableTest, DoesNotTouchAForeignFileUnderTheNameOfARenamedMainSegment) {
  Begin("detector", session_.directory());
  std::ofstream(names_->SegmentPath(0)) << "precious";
  const auto refused = table_->Create(Options(0));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("another program's"));
  ASSERT_TRUE(table_->Repair().ok());
  EXPECT_EQ(std::filesystem::file_size(names_->SegmentPath(0)), 8u);
}

TEST_F(SegmentTableTest, ReplacesAFileOfItsOwnNameThatNoRowKnows) {
  std::ofstream(names_->SegmentPath(0)) << "left over";
  EXPECT_TRUE(table_->Create(Options(0)).ok());
  EXPECT_EQ(std::filesystem::file_size(names_->SegmentPath(0)), kMiB);
}

TEST_F(SegmentTableTest, SaysWhenARowIsDamagedOrTheFileIsCutOff) {
  ASSERT_TRUE(table_->Create(Options(1)).ok());
  ASSERT_EQ(truncate(names_->SegmentPath(1).c_str(), 4096), 0);
  EXPECT_EQ(table_->Open(1).status().code(), absl::StatusCode::kDataLoss);
  auto& layout = *reinterpret_cast<ManagementLayout*>(management_.bytes().data());
  layout.segments[0].area_offset_bytes.store(12345, std::memory_order_relaxed);
  EXPECT_EQ(table_->Open(1).status().code(), absl::StatusCode::kDataLoss);
  layout.segments[0].area_offset_bytes.store(uint64_t{1} << 40, std::memory_order_relaxed);
  EXPECT_EQ(table_->Open(1).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SegmentTableTest, LeavesADamagedRowAlone) {
  auto& layout = *reinterpret_cast<ManagementLayout*>(management_.bytes().data());
  layout.segments[0].area_offset_bytes.store(12345, std::memory_order_relaxed);
  const absl::StatusOr<SegmentObjects> made = table_->Create(Options(1));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->row, 1u);
}

TEST_F(SegmentTableTest, RoundsASizeUpToWholePages) {
  EXPECT_EQ(table_->Create({.id = 1, .size_bytes = kMiB - 4095})->size_bytes, kMiB);
  EXPECT_EQ(table_->Open(1)->payload.size_bytes(), kMiB);
}

TEST_F(SegmentTableTest, MakesATableOnceAndShowsItToEverybody) {
  EXPECT_EQ(table_->OpenArea(AreaKind::kRingTable).status().code(), absl::StatusCode::kNotFound);
  absl::StatusOr<Mapping> made = table_->EnsureArea(AreaKind::kRingTable, kMiB, 8192);
  ASSERT_TRUE(made.ok()) << made.status();
  made->bytes()[8191] = std::byte{5};
  EXPECT_EQ(table_->EnsureArea(AreaKind::kRingTable, kMiB, 8192)->bytes()[8191], std::byte{5});
  EXPECT_EQ(table_->OpenArea(AreaKind::kRingTable)->bytes()[8191], std::byte{5});
  EXPECT_EQ(table_->EnsureArea(AreaKind::kRingTable, 2 * kMiB, 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(table_->EnsureArea(AreaKind::kGroupTable, kMiB, 8192)->bytes()[8191], std::byte{5});
}

// The same on a file system of 1 MiB.
class FullSegmentTableTest : public SegmentTableTest {
 protected:
  void SetUp() override {
    if (!tmpfs_.available()) GTEST_SKIP() << tmpfs_.why_not();
    Begin("", tmpfs_.directory());
  }

  const SmallTmpfs tmpfs_{kMiB};
};

TEST_F(FullSegmentTableTest, SaysWhenTheFileSystemCannotHoldTheSegment) {
  const auto too_big = table_->Create({.id = 1, .size_bytes = 64 * kMiB});
  EXPECT_EQ(too_big.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(too_big.status().message()), HasSubstr("needs 64 MiB; file system of"));
  EXPECT_FALSE(Exists(1));
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_TRUE(table_->Create({.id = 1, .size_bytes = kMiB}).ok());
}

TEST_F(FullSegmentTableTest, DoesNotShowATableThatCouldNotBeBacked) {
  EXPECT_EQ(table_->EnsureArea(AreaKind::kRingTable, 2 * kMiB, 2 * kMiB).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(table_->OpenArea(AreaKind::kRingTable).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(table_->EnsureArea(AreaKind::kRingTable, 2 * kMiB, 4096).ok());
}

// The next holder of byte 0 finds what the dead one left, and everything works again.
class SegmentTableCrashTest : public SegmentTableTest,
                              public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    if (!kCrashPointsCompiledIn) GTEST_SKIP() << "built without crash points";
  }
};

TEST_P(SegmentTableCrashTest, IsRepairedAfterADeathInCreateOrRemove) {
  ASSERT_TRUE(table_->Create(Options(1)).ok());
  ChildProcess child = ChildProcess::Start([&] {
    ArmCrashPoint(GetParam());
    SegmentOptions options = Options(2);
    options.prepare = [](SegmentObjects&) { return absl::OkStatus(); };
    table_->Create(options).IgnoreError();
    table_->EnsureArea(AreaKind::kRingTable, kMiB, 4096).IgnoreError();
    table_->Remove(2).IgnoreError();
    return 0;
  });
  ASSERT_EQ(child.Wait(), ChildExit::Signal(SIGKILL)) << "never passed " << GetParam();

  ASSERT_TRUE(table_->Repair().ok());
  const std::vector<uint32_t> ids = Ids();
  EXPECT_EQ(Exists(2), std::count(ids.begin(), ids.end(), 2) == 1);
  table_->Remove(2).IgnoreError();
  EXPECT_FALSE(Exists(2));
  EXPECT_THAT(Ids(), ElementsAre(1));
  EXPECT_TRUE(table_->Open(1).ok());
  for (uint32_t id = 2; id < 1 + kMaxSegments; ++id) {
    ASSERT_TRUE(table_->Create({.id = id, .size_bytes = 4096}).ok()) << "every row is of use again";
  }
  EXPECT_TRUE(table_->EnsureArea(AreaKind::kRingTable, kMiB, 4096).ok());
}

INSTANTIATE_TEST_SUITE_P(Points, SegmentTableCrashTest,
                         ::testing::Values("segment.area.taken", "segment.create.filled",
                                           "segment.create.making", "mapping.create.empty",
                                           "mapping.create.sized", "segment.create.file",
                                           "segment.create.prepared", "segment.create.live",
                                           "segment.area.backed", "segment.remove.removing",
                                           "segment.remove.unlinked"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           for (char& c : name) {
                             if (c == '.') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace handoff

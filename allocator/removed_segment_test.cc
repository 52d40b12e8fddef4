// SPDX-License-Identifier: Apache-2.0
// What becomes of the memory of segments that were removed while somebody used them.
#include <sys/stat.h>

#include <memory>

#include "absl/time/time.h"
#include "allocator/member.h"
#include "base/testing/test_session.h"
#include "base/testing/wait_for.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

std::unique_ptr<Member> MustJoin(const TestSession& session) {
  SessionOptions options;
  options.names.session = session.name();
  options.names.shm_dir = session.directory();
  options.main_segment_bytes = 4 << 20;
  options.watch_period = absl::Milliseconds(5);
  auto member = Member::Join(options);
  EXPECT_TRUE(member.ok()) << member.status().ToString();
  return member.ok() ? *std::move(member) : nullptr;
}

class RemovedSegmentTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kId = 7;

  // A segment that `first_` has made and used.
  void MakeSegment() {
    const auto made = first_->CreateSegment({.id = kId, .size_bytes = 1 << 20});
    ASSERT_TRUE(made.ok()) << made.status().ToString();
    segment_ = *made;
    Block block;
    ASSERT_EQ(segment_->TryAllocate(1000, 64, &block), AllocateResult::kOk);
    mark_ = block.data;
    *mark_ = std::byte{5};
    segment_->Release(block);
  }
  // Whether its memory has gone back to the file system: it reads as zeros then.
  bool IsGone() const { return *static_cast<volatile std::byte*>(mark_) == std::byte{0}; }

  TestSession session_;
  std::unique_ptr<Member> first_ = MustJoin(session_);
  Segment* segment_ = nullptr;
  std::byte* mark_ = nullptr;
};

TEST_F(RemovedSegmentTest, GoesBackThoughTheSlotOfOneThatHadItMappedIsInUseAgain) {
  MakeSegment();
  auto second = MustJoin(session_);
  ASSERT_TRUE(second->FindSegment(kId).ok());
  const MemberId former = second->self();
  second.reset();
  auto third = MustJoin(session_);
  ASSERT_EQ(third->self().slot, former.slot);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

TEST_F(RemovedSegmentTest, StaysAsLongAsALivingMemberHasItMapped) {
  MakeSegment();
  auto second = MustJoin(session_);
  const auto theirs = second->FindSegment(kId);
  ASSERT_TRUE(theirs.ok());
  Block block;
  ASSERT_EQ((*theirs)->TryAllocate(1000, 64, &block), AllocateResult::kOk);
  ASSERT_TRUE(first_->RemoveSegment(kId).ok());
  ASSERT_TRUE(WaitFor([&] { return first_->SegmentAt(segment_->row()) != nullptr; }));
  EXPECT_FALSE(IsGone());
  (*theirs)->Release(block);
  EXPECT_TRUE(WaitFor([&] { return IsGone(); }));
}

}  // namespace
}  // namespace handoff

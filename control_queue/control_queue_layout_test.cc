// SPDX-License-Identifier: Apache-2.0
#include "control_queue/control_queue_layout.h"

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/sync.h"
#include "control_queue/event_log.h"
#include "control_queue/member_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Zeroed pages, as of a new object.
class ControlQueueTest : public ::testing::Test {
 protected:
  ControlQueueTest()
      : bytes_(static_cast<std::byte*>(::mmap(nullptr, ControlQueue::BytesNeeded(),
                                              PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                              -1, 0)),
               ControlQueue::BytesNeeded()) {}
  ~ControlQueueTest() override { ::munmap(bytes_.data(), bytes_.size()); }

  ControlQueueHeader& header() { return *reinterpret_cast<ControlQueueHeader*>(bytes_.data()); }

  const std::span<std::byte> bytes_;
};

TEST_F(ControlQueueTest, ShowsOthersWhatAMemberWrites) {
  const ControlQueue mine = ControlQueue::Make(bytes_);
  const absl::StatusOr<ControlQueue> other = ControlQueue::Attach(bytes_);
  ASSERT_TRUE(other.ok()) << other.status();
  const uint64_t before = other->heartbeat(kMaxMembers - 1).Beats();
  mine.heartbeat(kMaxMembers - 1).Beat();
  EXPECT_NE(other->heartbeat(kMaxMembers - 1).Beats(), before);

  EventReader<RealSync> reader(other->events(), EventReader<RealSync>::Start::kOldest);
  const Event event = {.time_ns = 7, .kind = EventKind::kMemberJoined};
  EventWriter<RealSync>(mine.events(), kMaxMembers - 1).Append(event);
  std::array<Event, 2> events;
  ASSERT_EQ(reader.Read(events), 1u);
  EXPECT_EQ(events[0], event);
}

TEST_F(ControlQueueTest, IsReadFromPagesThatCannotBeWritten) {
  (void)ControlQueue::Make(bytes_);
  ASSERT_EQ(::mprotect(bytes_.data(), bytes_.size(), PROT_READ), 0);
  const absl::StatusOr<ControlQueue> queue = ControlQueue::Attach(bytes_);
  ASSERT_TRUE(queue.ok()) << queue.status();
  EXPECT_EQ(queue->heartbeat(1).Beats(), 0u);
  EventReader<RealSync> reader(queue->events(), EventReader<RealSync>::Start::kOldest);
  std::array<Event, 2> events;
  EXPECT_EQ(reader.Read(events), 0u);
}

TEST_F(ControlQueueTest, TakesAsMuchMemoryAsItSays) {
  EXPECT_LE(ControlQueue::BytesNeeded(), size_t{1200} << 10);
}

TEST_F(ControlQueueTest, RefusesAnObjectThatIsHalfMade) {
  EXPECT_EQ(ControlQueue::Attach(bytes_).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ControlQueue::Attach(bytes_.first(8)).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ControlQueue::Attach({}).status().code(), absl::StatusCode::kDataLoss);
  (void)ControlQueue::Make(bytes_);
  EXPECT_EQ(ControlQueue::Attach(bytes_.first(4096)).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ControlQueueTest, RefusesAnotherLayoutAndNamesBoth) {
  (void)ControlQueue::Make(bytes_);
  header().layout_version = 77;
  const absl::Status status = ControlQueue::Attach(bytes_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("layout version 77"), HasSubstr("uses version 1 with 1024 slots")));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/page_source.h"

#include <cstddef>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "allocator/segment_backing.h"
#include "allocator/segment_layout.h"
#include "allocator/size_class.h"
#include "allocator/testing/plain_segment.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr uint64_t kSegmentBytes = 1 << 20;

// Notes which pages of the area's file are reserved.
class NotingBacking : public SegmentBacking {
 public:
  absl::Status ReservePayload(uint64_t, uint64_t) override { return absl::OkStatus(); }
  absl::Status ReserveArea(uint64_t offset, uint64_t length) override {
    for (uint64_t page = offset / kPageBytes; page * kPageBytes < offset + length; ++page) {
      reserved_.insert(page);
    }
    return absl::OkStatus();
  }
  bool IsReserved(uint64_t offset) const { return reserved_.contains(offset / kPageBytes); }

 private:
  std::set<uint64_t> reserved_;
};

// Whoever is sent a handle looks at the hold that it names before anything else.
TEST(PageSourceTest, EveryHoldThatAHandleMayNameInASmallSpanIsReserved) {
  PlainSegmentMemory memory(kSegmentBytes);
  NotingBacking backing;
  std::vector<std::byte> payload(kSegmentBytes);
  PageSource source(memory.view(), payload.data(), backing, /*member=*/1);
  const SegmentAreaLayout layout(kSegmentBytes / kPageBytes);
  absl::Status why;
  // So that holds of the next span lie in two pages of the file.
  ASSERT_NE(source.Claim(1, 1, kLargeClass, &why), nullptr);
  constexpr uint32_t kClass = kSmallClassCount - 1;
  const uint32_t pages = kSizeClasses[kClass].pages;
  const LocalSpan* const span = source.Claim(pages, 1, kClass, &why);
  ASSERT_NE(span, nullptr);
  const uint64_t first = uint64_t{span->head_page()} * kWordsPerPage;
  for (uint64_t id = first; id < first + uint64_t{pages} * kWordsPerPage; ++id) {
    const PageWord word = source.view().PageOf(static_cast<BlockId>(id));
    ASSERT_NE(source.view().FindHold(static_cast<BlockId>(id), word), nullptr);
    ASSERT_TRUE(backing.IsReserved(layout.small_holds + id * 8)) << id - first;
  }
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "transport/frame.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "allocator/bundle.h"
#include "allocator/member.h"
#include "allocator/session.h"
#include "base/testing/test_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/message.h"
#include "transport/parcel.h"

namespace handoff::internal {
namespace {

using ::testing::HasSubstr;

class FrameTest : public ::testing::Test {
 protected:
  std::unique_ptr<Member> Join() const {
    SessionOptions options;
    options.names.session = session_.name();
    options.names.shm_dir = session_.directory();
    options.main_segment_bytes = 8 << 20;
    auto member = Member::Join(std::move(options));
    EXPECT_TRUE(member.ok()) << member.status();
    return *std::move(member);
  }

  Message Make(size_t size_bytes) {
    Block block;
    EXPECT_EQ(sender_->main_segment().TryAllocate(size_bytes, 64, &block), AllocateResult::kOk);
    return MessageAccess::Make(sender_->main_segment(), block, size_bytes);
  }
  Frame PostParcel(const Parcel& parcel) {
    return MakeFrame(*sender_, Post(*sender_, parcel, kChannel), {kChannel, 0});
  }
  Frame PostMessage(size_t size_bytes) {
    Message message = Make(size_bytes);
    return PostParcel(TakeFrom(message));
  }
  Frame PostParts(size_t count, PartName* name = nullptr) {
    std::vector<Message> parts;
    for (size_t i = 0; i < count; ++i) parts.push_back(Make(100));
    Parcel bundle;
    EXPECT_TRUE(Wrap(*sender_, parts, &bundle).ok());
    if (name != nullptr) *name = bundle.name;
    return PostParcel(bundle);
  }
  uint64_t UsedBlocks() { return sender_->main_segment().Usage().used_blocks; }
  bool Take(std::span<const std::byte> bytes) { return TakeFrame(*receiver_, bytes, &content_); }
  void Forget() { content_ = FrameContent(); }

  static constexpr uint16_t kChannel = 7;
  const TestSession session_{TestSessionOptions{.own_directory = true}};
  std::unique_ptr<Member> sender_ = Join();
  std::unique_ptr<Member> receiver_ = Join();
  FrameContent content_;
};

TEST_F(FrameTest, BringsEveryKindOfMessage) {
  ASSERT_TRUE(Take(MakeFrame(*sender_, PartName(), {0, 5})));
  EXPECT_TRUE(content_.message.empty());
  EXPECT_EQ(content_.tag.exchange, 5u);
  ASSERT_TRUE(Take(PostMessage(1000)));
  EXPECT_EQ(content_.message.size(), 1000u);
  EXPECT_EQ(content_.size_bytes, 1000u);
  EXPECT_EQ(content_.tag.channel, kChannel);
  Forget();
  ASSERT_TRUE(Take(PostParts(3)));
  EXPECT_EQ(content_.parts.size(), 3u);
  EXPECT_EQ(content_.size_bytes, 300u);
  Forget();
  EXPECT_EQ(UsedBlocks(), 0u);
}

TEST_F(FrameTest, TakesAMessageOnlyOnce) {
  const Frame frame = PostParts(2);
  ASSERT_TRUE(Take(frame));
  content_.parts.clear();
  EXPECT_FALSE(Take(frame));
  EXPECT_EQ(content_.drop, SocketCounters::Drop::kStale);
  EXPECT_EQ(UsedBlocks(), 0u);
}

TEST_F(FrameTest, NamesBothBuildsAndBothSessions) {
  Frame frame = PostMessage(10);
  Frame other = frame;
  other[4] ^= std::byte{1};
  EXPECT_FALSE(Take(other));
  EXPECT_EQ(content_.drop, SocketCounters::Drop::kForeign);
  EXPECT_THAT(content_.reason, HasSubstr("of build"));
  other = frame;
  other[8] ^= std::byte{1};
  EXPECT_FALSE(Take(other));
  EXPECT_EQ(content_.drop, SocketCounters::Drop::kForeign);
  EXPECT_THAT(content_.reason, HasSubstr("in session"));
  ASSERT_TRUE(Take(frame));
}

TEST_F(FrameTest, FreesABundleWhoseListLiesAboutItsPartsOrTheirNumber) {
  for (const uint64_t count : {uint64_t{0}, uint64_t{3}, uint64_t{40'000'000'000}}) {
    PartName name;
    const Frame frame = PostParts(2, &name);
    auto& list = *reinterpret_cast<PartList<RealSync>*>(sender_->bundle_rows().section() +
                                                        name.row * kPageBytes);
    list.count.store(count, std::memory_order_relaxed);
    (void)Take(frame);  // whatever is made of it
    content_.parts.clear();
    EXPECT_FALSE(Take(frame));
  }
  PartName name;
  const Frame frame = PostParts(2, &name);
  auto& list = *reinterpret_cast<PartList<RealSync>*>(sender_->bundle_rows().section() +
                                                      name.row * kPageBytes);
  list.parts[1].words[0].store(~uint64_t{0}, std::memory_order_relaxed);
  EXPECT_FALSE(Take(frame));
  EXPECT_EQ(content_.drop, SocketCounters::Drop::kBad);
}

// Frames of all kinds with random changes: nothing but what was posted is ever taken, and that
// once.
TEST_F(FrameTest, TakesNothingThatWasNotPostedWhateverTheBytes) {
  std::mt19937_64 random(20240901);
  Message victim = Make(1000);
  for (int round = 0; round < 3000; ++round) {
    std::vector<Frame> good = {PostMessage(1 + random() % 5000), PostParts(1 + random() % 4)};
    for (int change = 0; change < 20; ++change) {
      Frame frame = good[random() % good.size()];
      for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
        // The kind, or what it is of.
        const size_t at = random() % 2 == 0 ? 3 : 16 + random() % (frame.size() - 16);
        frame[at] ^= std::byte(1 << random() % 8);
      }
      if (frame == good[0] || frame == good[1]) continue;
      Forget();
      if (Take(std::span(frame.data(), frame.size())
                   .first(random() % 8 == 0 ? random() % frame.size() : frame.size()))) {
        // Of another size than was sent, or the empty message: harmless.
        EXPECT_LE(content_.message.size(), content_.message.capacity());
      }
    }
    for (const Frame& frame : good) {
      Forget();
      (void)Take(frame);
    }
    Forget();
    ASSERT_EQ(UsedBlocks(), 1u) << round;
  }
  EXPECT_EQ(victim.size(), 1000u);
}

}  // namespace
}  // namespace handoff::internal

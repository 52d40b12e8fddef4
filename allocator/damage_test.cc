// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cstring>
#include <random>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "allocator/audit.h"
#include "allocator/page_word.h"
#include "allocator/segment.h"
#include "allocator/testing/plain_segment.h"
#include "gtest/gtest.h"

// What a wild store of another process may have left in the tables of a segment: whoever looks at
// them afterwards must neither leave the mapping (between guard pages here), nor turn for ever, nor
// stop the program.

namespace handoff {
namespace {

constexpr uint64_t kSegmentBytes = 1 << 20;
constexpr uint32_t kPages = kSegmentBytes / kPageBytes;

using Word = std::atomic<uint64_t>;

class DamagedSegment {
 public:
  DamagedSegment() {
    // Spans of all kinds: of a living and of a dead owner, small, large, shrunk, on their way.
    const auto joined = memory_.members().Publish(2, MemberIdentity{});
    victim_ = *joined;
    victims_ = memory_.Attach(victim_);
    for (Segment* segment : {owner_.get(), victims_.get()}) {
      for (uint64_t size : {64, 1000, 5000, 20000, 100000, 64}) {
        Block block;
        if (segment->TryAllocate(size, 64, &block) != AllocateResult::kOk) continue;
        if (size == 100000) (void)segment->Shrink(&block, 50000);
        if (size < 1001) segment->Mark(block, segment == owner_.get() ? 2 : 1);
      }
    }
  }

  SegmentView<RealSync> view() const { return memory_.view(); }
  // Any word of the tables, the header's magic number and sizes excluded.
  Word& word(uint64_t index) {
    constexpr uint64_t kFirst = 3;
    const uint64_t count = memory_.area().size() / sizeof(Word) - kFirst;
    return reinterpret_cast<Word*>(memory_.area().data())[kFirst + index % count];
  }

  // Everything that looks at words it does not own.
  void LookAtEverything() {
    const absl::Time begin = absl::Now();
    const SegmentView<RealSync> view = memory_.view();
    for (uint32_t page = 0; page < kPages; ++page) {
      for (uint32_t index : {0u, 1u, 63u}) {
        const auto location = view.Locate(page * kWordsPerPage + index);
        if (location.has_value()) (void)location->hold->load(std::memory_order_relaxed);
      }
    }
    (void)ScanUsage(view);
    (void)AuditSegment(view, memory_.members());
    std::mt19937_64 random(1);
    for (int i = 0; i < 200; ++i) {
      const auto id = static_cast<BlockId>(random() % (kPages * kWordsPerPage));
      const auto location = view.Locate(id);
      const HoldWord hold = location.has_value()
                                ? HoldWord(location->hold->load(std::memory_order_relaxed))
                                : HoldWord();
      const auto block = survivor_->Accept(id, hold.generation(), 1);
      if (block.has_value()) {
        std::memset(block->data, 1, block->size_bytes);
        survivor_->Release(*block);
      }
    }
    survivor_->Tick();
    memory_.Reclaim(*survivor_, victim_);
    std::vector<Block> blocks;
    for (uint64_t size : {64, 2000, 9000, 50000}) {
      Block block;
      if (survivor_->TryAllocate(size, 64, &block) != AllocateResult::kOk) continue;
      std::memset(block.data, 2, block.size_bytes);
      blocks.push_back(block);
    }
    for (const Block& block : blocks) survivor_->Release(block);
    survivor_->Trim();
    EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  }

 private:
  PlainSegmentMemory memory_{kSegmentBytes};
  std::unique_ptr<Segment> owner_ = memory_.Join(1);
  std::unique_ptr<Segment> survivor_ = memory_.Join(3);
  std::unique_ptr<Segment> victims_;
  MemberId victim_;
};

// A page word of every state, of the classes at the edges, of the dead, the living and nobody.
std::vector<uint64_t> NonsensePageWords(uint64_t generation) {
  std::vector<uint64_t> words;
  for (uint64_t state = 0; state < 8; ++state) {
    for (uint64_t owner : {0, 1, 2, 0xFFF}) {
      for (uint64_t size_class : {0u, kSmallClassCount - 1, kSmallClassCount, kPendingClass - 1,
                                  kPendingClass, kLargeClass}) {
        for (uint64_t distance : {0, 15}) {
          words.push_back(generation << 27 | state << 24 | owner << 12 | size_class << 4 |
                          distance);
        }
      }
    }
  }
  return words;
}

TEST(DamageTest, AnyPageWordAtTheEndOfTheSegmentAndAnyLength) {
  for (const uint64_t page_word : NonsensePageWords(7)) {
    for (const uint64_t run : {0u, 1u, 2u, 16u, kPages, 0x7FFFFFFu}) {
      DamagedSegment segment;
      const SegmentView<RealSync> view = segment.view();
      view.header().backed_pages.store(kPages, std::memory_order_relaxed);
      for (const uint32_t page : {kPages / 2, kPages - 1}) {
        view.page_word(page).store(page_word, std::memory_order_relaxed);
        view.run(page).store(uint64_t{7} << 27 | run, std::memory_order_relaxed);
      }
      segment.LookAtEverything();
      if (::testing::Test::HasFailure()) {
        FAIL() << "page word " << page_word << ", run " << run;
      }
    }
  }
}

TEST(DamageTest, AnyLengthOfASpanThatItsOwnerUsesAgain) {
  for (const uint32_t run : {0u, 1u, 100u, kPages, 0x7FFFFFFu}) {
    PlainSegmentMemory memory(kSegmentBytes);
    auto owner = memory.Join(1);
    auto holder = memory.Join(2);
    Block block;
    ASSERT_EQ(owner->TryAllocate(50000, 64, &block), AllocateResult::kOk);
    const auto taken = holder->Accept(block.id, owner->Mark(block, 2).generation(), 1);
    ASSERT_TRUE(taken.has_value());
    holder->Release(*taken);
    const uint32_t page = block.id / kWordsPerPage;
    memory.view().run(page).store(RunWord::Of(memory.view().LoadPage(page), run).raw(),
                                  std::memory_order_relaxed);
    for (uint64_t size : {50000, 100, 300000, 900000}) {
      if (owner->TryAllocate(size, 64, &block) != AllocateResult::kOk) continue;
      std::memset(block.data, 1, block.size_bytes);
      owner->Release(block);
    }
    owner->Trim();
  }
}

TEST(DamageTest, RandomWordsAnywhere) {
  const uint64_t first_seed = std::random_device()();
  for (uint64_t seed = first_seed; seed < first_seed + 100; ++seed) {
    DamagedSegment segment;
    std::mt19937_64 random(seed);
    const uint64_t damages = 1 + random() % 200;
    const std::vector<uint64_t> words = NonsensePageWords(1);
    for (uint64_t i = 0; i < damages; ++i) {
      // Into the page words, runs and holds alike, most of them where something is.
      const uint64_t index = random() % 2 == 0 ? random() : 509 + random() % 2560;
      const uint64_t value = random() % 2 == 0 ? random() : words[random() % words.size()];
      segment.word(index).store(value, std::memory_order_relaxed);
    }
    segment.LookAtEverything();
    if (::testing::Test::HasFailure()) FAIL() << "seed " << seed;
  }
}

}  // namespace
}  // namespace handoff

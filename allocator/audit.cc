// SPDX-License-Identifier: Apache-2.0
#include "allocator/audit.h"

#include "absl/strings/str_cat.h"
#include "allocator/hold_moves.h"

namespace handoff {

namespace {

class SegmentAudit {
 public:
  SegmentAudit(const SegmentView<RealSync>& view, const MemberTable<RealSync>& members,
               const AuditOptions& options)
      : view_(view), members_(members), options_(options) {}

  std::vector<std::string> Run() {
    const uint32_t backed = view_.backed_pages();
    for (uint32_t page = 0; page < backed;) {
      const PageWord word = view_.LoadPage(page);
      if (!word.IsHead() || word.size_class() != kLargeClass) ExpectNoLargeHold(page);
      if (!word.IsHead()) ExpectNoSmallHolds(page * kWordsPerPage, (page + 1) * kWordsPerPage);
      if (word.IsHead()) {
        page = Span(page, word, backed);
      } else {
        if (word.IsTail()) Problem("page ", page, " is a tail without a head");
        if (!word.IsTail() && !word.IsFree()) {
          Problem("page ", page, " has state ", static_cast<uint32_t>(word.state()));
        }
        ++page;
      }
    }
    if (ownerless_spans_ > 0 && view_.header().ownerless.load(std::memory_order_acquire) == 0) {
      Problem(ownerless_spans_, " spans have no owner, and no tick looks for them");
    }
    return std::move(problems_);
  }

 private:
  template <class... Parts>
  void Problem(const Parts&... parts) {
    problems_.push_back(absl::StrCat(parts...));
  }

  void ExpectNoLargeHold(uint32_t page) {
    const HoldWord hold = HoldMoves<RealSync>::Load(view_.large_hold(page));
    if (!hold.IsFree()) Problem("page ", page, " has a hold in use but is no block: ", Text(hold));
  }

  void ExpectNoSmallHolds(BlockId from, BlockId to) {
    if (!options_.all_small_holds) return;
    for (BlockId id = from; id < to; ++id) {
      const HoldWord hold = HoldMoves<RealSync>::Load(view_.small_hold(id));
      if (!hold.IsFree()) Problem("small hold ", id, " is in use but is no block: ", Text(hold));
    }
  }

  // Looks at the span that begins at `page`; returns the first page behind it.
  uint32_t Span(uint32_t page, PageWord head, uint32_t backed) {
    const uint32_t size_class = head.size_class();
    if (head.state() == PageState::kOwned && !IsLive(head.owner())) {
      Problem("page ", page, " is owned by ", head.owner(), ", which does not live");
    }
    if (size_class >= kSmallClassCount && size_class != kLargeClass) {
      Problem("page ", page, " has class ", size_class);
      return page + 1;
    }
    const bool small = size_class < kSmallClassCount;
    const uint32_t run = view_.LoadRun(page).PagesOf(head);
    const uint32_t pages = small ? kSizeClasses[size_class].pages : run;
    if (run != pages || pages == 0 || pages > backed - page) {
      Problem("span at page ", page, " of class ", size_class, " has a run of ", run);
      return page + 1;
    }
    for (uint32_t i = 1; i < pages; ++i) {
      const PageWord tail = view_.LoadPage(page + i);
      if (!tail.IsTail() || tail.size_class() != size_class || tail.distance() != (small ? i : 0)) {
        Problem("page ", page + i, " does not belong to the span at ", page);
      }
      ExpectNoLargeHold(page + i);
    }
    uint32_t used = 0;
    const uint32_t blocks = view_.BlockCount(page, head);
    for (uint32_t i = 0; i < blocks; ++i) {
      const HoldWord hold = HoldMoves<RealSync>::Load(view_.HoldAt(page, head, i));
      if (hold.IsFree()) continue;
      ++used;
      Hold(page, i, hold);
    }
    ExpectNoSmallHolds(page * kWordsPerPage + (small ? blocks : 0), (page + pages) * kWordsPerPage);
    if (head.state() == PageState::kOwnerless) ++ownerless_spans_;
    if (used == 0 && head.state() == PageState::kOwnerless) {
      Problem("span at page ", page, " has neither owner nor blocks");
    }
    return page + pages;
  }

  void Hold(uint32_t page, uint32_t index, HoldWord hold) {
    bool good = true;
    switch (hold.state()) {
      case HoldState::kHeld:
        good = IsLive(hold.holder());
        break;
      case HoldState::kSent:
        good = (hold.holder() == kNobody || IsLive(hold.holder())) &&
               (IsLive(hold.receiver()) || IsLive(hold.holder()));
        break;
      case HoldState::kPosted:
        good = hold.holder() == kNobody || IsLive(hold.holder());
        break;
      default:
        break;
    }
    if (!good) Problem("block ", index, " of the span at page ", page, " is ", Text(hold));
  }

  bool IsLive(uint32_t slot) const {
    return slot < kMaxMembers && members_.Word(slot).state == MemberState::kLive;
  }

  static std::string Text(HoldWord hold) {
    static constexpr const char* kNames[] = {"free",   "held",    "sent",     "posted",
                                             "shared", "bundled", "released", "live"};
    return absl::StrCat(kNames[static_cast<uint32_t>(hold.state())], "(", hold.holder(), ", ",
                        hold.receiver(), ") generation ", hold.generation());
  }

  const SegmentView<RealSync> view_;
  const MemberTable<RealSync>& members_;
  const AuditOptions options_;
  uint64_t ownerless_spans_ = 0;
  std::vector<std::string> problems_;
};

}  // namespace

std::vector<std::string> AuditSegment(const SegmentView<RealSync>& view,
                                      const MemberTable<RealSync>& members,
                                      const AuditOptions& options) {
  return SegmentAudit(view, members, options).Run();
}

}  // namespace handoff

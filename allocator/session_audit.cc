// SPDX-License-Identifier: Apache-2.0
#include "allocator/session_audit.h"

#include <atomic>
#include <cstdint>
#include <iterator>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/audit.h"
#include "allocator/channel_table.h"
#include "allocator/hold_moves.h"
#include "allocator/ring_layout.h"

namespace handoff {

namespace {

using Moves = HoldMoves<RealSync>;

class SessionAudit {
 public:
  explicit SessionAudit(Member& member)
      : member_(member), names_(member), members_(member.session().members()) {}

  std::vector<std::string> Run() {
    Rings();  // first, for what is under way
    for (const SegmentInfo& info : member_.session().Segments()) {
      Segment* segment = member_.SegmentAt(info.row);
      if (segment == nullptr) {
        Problem("segment ", info.id, " cannot be mapped");
        continue;
      }
      Table(absl::StrCat("segment ", info.id), segment->view());
      Blocks(info.row, segment->view());
    }
    Table("share groups", member_.group_rows().view());
    Groups();
    Table("bundles", member_.bundle_rows().view());
    Bundles();
    return std::move(problems_);
  }

 private:
  // What stands in an unread entry of a ring: kind, segment, row, generation, receiver.
  using UnderWay = std::tuple<PartKind, uint32_t, uint32_t, uint64_t, uint32_t>;

  template <class... Parts>
  void Problem(const Parts&... parts) {
    problems_.push_back(absl::StrCat(parts...));
  }

  static std::string Text(const PartName& name) {
    switch (name.kind) {
      case PartKind::kBlock:
        return absl::StrCat("block ", name.row, " of the segment in row ", name.segment);
      case PartKind::kReference:
        return absl::StrCat("reference ", name.reference(), " of group ", name.group());
      case PartKind::kBundle:
        return absl::StrCat("bundle ", name.row);
      case PartKind::kEmpty:
        break;
    }
    return "an empty part";
  }

  void Table(const std::string& what, const SegmentView<RealSync>& view) {
    for (const std::string& line : AuditSegment(view, members_)) Problem(what, ": ", line);
  }

  // The word of a block, reference or bundle that is in use. `name` has no generation.
  void Word(PartName name, HoldWord hold) {
    name.generation = hold.generation();
    switch (hold.state()) {
      case HoldState::kHeld:
        if (!IsLive(hold.holder())) Problem(Text(name), " is held by ", hold.holder());
        break;
      case HoldState::kSent:
        if (!under_way_.contains(
                {name.kind, name.segment, name.row, name.generation, hold.receiver()})) {
          Problem(Text(name), " is on its way from ", hold.holder(), " to ", hold.receiver(),
                  ", but in no ring");
        }
        break;
      case HoldState::kShared: {
        const std::optional<PartName> target = Target(hold.row());
        if (!target.has_value() || !IsSame(*target, name)) {
          Problem(Text(name), " is shared by group ", hold.row(), ", which does not know of it");
        }
        break;
      }
      case HoldState::kBundled:
        if (!Contains(hold.row(), name)) {
          Problem(Text(name), " is a part of bundle ", hold.row(), ", which does not know of it");
        }
        break;
      case HoldState::kLive:
        Problem(Text(name), " has the word of a group");
        break;
      case HoldState::kPosted:
        if (member_.channels().Load(hold.receiver()).state() == ChannelState::kFree) {
          Problem(Text(name), " is posted on channel ", hold.receiver(), ", which nobody has");
        }
        if (hold.holder() != kNobody && !IsLive(hold.holder())) {
          Problem(Text(name), " is posted by ", hold.holder(), ", which does not live");
        }
        break;
      case HoldState::kFree:
      case HoldState::kReleased:
        break;
    }
  }

  void Blocks(uint32_t segment, const SegmentView<RealSync>& view) {
    for (uint32_t page = 0; page < view.backed_pages(); ++page) {
      const PageWord head = view.LoadPage(page);
      if (!head.IsHead()) continue;
      for (uint32_t i = 0; i < view.BlockCount(page, head); ++i) {
        const HoldWord hold = Moves::Load(view.HoldAt(page, head, i));
        if (!hold.IsFree()) {
          Word({PartKind::kBlock, segment, page * kWordsPerPage + i, 0, 0}, hold);
        }
      }
    }
  }

  void Groups() {
    const SegmentView<RealSync>& view = member_.group_rows().view();
    for (uint32_t page = 0; page < view.backed_pages(); ++page) {
      const PageWord head = view.LoadPage(page);
      if (!head.IsHead() || head.size_class() != kLargeClass) {
        // What was never claimed is not reserved either.
        const bool tail = head.IsTail();
        if (!tail && head.generation() > 0) ExpectFreeReferences(page, 0, kWordsPerPage);
        continue;
      }
      const uint32_t capacity = member_.groups().Capacity(page);
      const HoldWord group = Moves::Load(member_.groups().GroupWord(page));
      if (group.state() != HoldState::kLive) {
        if (!group.IsFree()) Problem("group ", page, " is half made");
        ExpectFreeReferences(page, 0, capacity);
        continue;
      }
      const uint32_t count = member_.groups().WordCount(page);
      uint32_t used = 0;
      for (uint32_t i = 0; i < count; ++i) {
        const HoldWord hold = Moves::Load(member_.groups().ReferenceWord(page, i));
        if (hold.IsFree()) continue;
        ++used;
        Word(PartName::Reference(page, i, 0, 0), hold);
      }
      ExpectFreeReferences(page, count, capacity);
      if (used == 0) Problem("group ", page, " is live, but nobody refers to it");
      const std::optional<PartName> target = Target(page);
      const Moves::Word* word = target.has_value() ? names_.Find(*target) : nullptr;
      if (word == nullptr) {
        Problem("group ", page, " stands for nothing");
        continue;
      }
      const HoldWord hold = Moves::Load(*word);
      if (hold.state() != HoldState::kShared || hold.row() != page ||
          hold.generation() != target->generation) {
        Problem("group ", page, " stands for ", Text(*target), ", which does not know of it");
      }
    }
  }

  void ExpectFreeReferences(uint32_t group, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; ++i) {
      if (!Moves::Load(member_.groups().ReferenceWord(group, i)).IsFree()) {
        Problem("reference ", i, " of group ", group,
                " is in use, but the group is not, or not so far");
      }
    }
  }

  void Bundles() {
    const SegmentView<RealSync>& view = member_.bundle_rows().view();
    for (uint32_t page = 0; page < view.backed_pages(); ++page) {
      const PageWord head = view.LoadPage(page);
      if (!head.IsHead() || head.size_class() != kLargeClass) continue;
      const HoldWord bundle = Moves::Load(member_.bundles().BundleWord(page));
      if (bundle.IsFree()) continue;
      Word({PartKind::kBundle, 0, page, 0, 0}, bundle);
      std::vector<PartName> parts;
      member_.bundles().PartsOf(page, &parts);
      for (const PartName& part : parts) {
        if (part.kind == PartKind::kEmpty) continue;
        const Moves::Word* word = names_.Find(part);
        const HoldWord hold = word == nullptr ? HoldWord() : Moves::Load(*word);
        if (hold.state() != HoldState::kBundled || hold.row() != page ||
            hold.generation() != part.generation) {
          Problem("bundle ", page, " lists ", Text(part), ", which is no part of it");
        }
      }
    }
  }

  void Rings() {
    const absl::StatusOr<Mapping> area = member_.session().OpenArea(AreaKind::kRingTable);
    if (!area.ok()) {
      Problem("ring table: ", area.status().ToString());
      return;
    }
    const auto& table = *reinterpret_cast<const RingTableLayout*>(area->bytes().data());
    RingTable& rings = member_.rings();
    for (uint32_t row = 0; row < rings.endpoints_used(); ++row) {
      const EndpointWord word{table.endpoints[row].word.load(std::memory_order_acquire)};
      if (word.state() == EndpointState::kFree) continue;
      if (word.state() == EndpointState::kMaking) Problem("endpoint ", row, " is half made");
      if (!IsLive(word.maker())) Problem("endpoint ", row, " is of ", word.maker());
    }
    for (uint32_t row = 0; row < rings.rings_used(); ++row) {
      const RingWord word{table.rings[row].header.word.load(std::memory_order_acquire)};
      if (word.free()) continue;
      if (word.opening()) {
        Problem("ring ", row, " is half opened by ", word.opener());
        continue;
      }
      const std::optional<RingInfo> info = rings.LookAtRing(row);
      if (info.has_value()) Ring(*info);
    }
  }

  void Ring(const RingInfo& info) {
    if (!info.word.producer_gone() &&
        (!members_.Alive(info.ends.producer) || !member_.rings().IsLive(info.producer))) {
      Problem("ring ", info.row, " has a producer that has gone");
    }
    if (!info.word.consumer_gone() &&
        (!members_.Alive(info.ends.consumer) || !member_.rings().IsLive(info.consumer))) {
      Problem("ring ", info.row, " has a consumer that has gone");
    }
    const SpscRing<RealSync> ring = member_.rings().Ring(info.row, info.entries);
    const auto look = ring.Look();
    if (!look.has_value()) return;
    for (uint64_t i = 0; i < info.entries; ++i) {
      const std::optional<RingBody> body = ring.ReadPublished(look->head + i);
      if (!body.has_value()) break;
      const PartName name = PartName::FromPacked({body->word, body->tag});
      under_way_.insert(
          {name.kind, name.segment, name.row, name.generation, info.ends.consumer.slot});
    }
  }

  std::optional<PartName> Target(uint32_t row) const {
    if (member_.groups().Find(row, 0) == nullptr) return std::nullopt;
    return member_.groups().Target(row);
  }

  bool Contains(uint32_t row, const PartName& name) const {
    const Moves::Word* word = member_.bundles().Find(row);
    if (word == nullptr || Moves::Load(*word).IsFree()) return false;
    std::vector<PartName> parts;
    member_.bundles().PartsOf(row, &parts);
    for (const PartName& part : parts) {
      if (IsSame(part, name)) return true;
    }
    return false;
  }

  static bool IsSame(const PartName& a, const PartName& b) {
    return a.kind == b.kind && a.segment == b.segment && a.row == b.row &&
           a.generation == b.generation;
  }

  bool IsLive(uint32_t slot) const {
    return slot < kMaxMembers && members_.Word(slot).state == MemberState::kLive;
  }

  Member& member_;
  const MemberNames names_;
  const MemberTable<RealSync>& members_;
  std::set<UnderWay> under_way_;
  std::vector<std::string> problems_;
};

}  // namespace

std::vector<std::string> AuditSession(Member& member) { return SessionAudit(member).Run(); }

}  // namespace handoff

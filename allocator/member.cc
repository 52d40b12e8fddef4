// SPDX-License-Identifier: Apache-2.0
#include "allocator/member.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/reclaim.h"
#include "allocator/table_reclaim.h"
#include "base/crash_point.h"

namespace handoff {

namespace {

// The payload and the area of a segment whose mappings belong to somebody else.
class MappedBacking : public SegmentBacking {
 public:
  MappedBacking(Mapping& payload, Mapping& area) : payload_(payload), area_(area) {}
  absl::Status ReservePayload(uint64_t offset, uint64_t length) override {
    return payload_.Reserve(offset, length);
  }
  absl::Status ReserveArea(uint64_t offset, uint64_t length) override {
    return area_.Reserve(offset, length);
  }

 private:
  Mapping& payload_;
  Mapping& area_;
};

absl::Status PrepareSegment(SegmentObjects& objects) {
  MappedBacking backing(objects.payload, objects.area);
  return Segment::Initialize(objects.area.bytes(), objects.payload.size_bytes(), backing);
}

}  // namespace

MemberNames::Word* MemberNames::Find(const PartName& name) const {
  switch (name.kind) {
    case PartKind::kBlock: {
      Segment* segment = member_->SegmentAt(name.segment);
      if (segment != nullptr) return segment->Find(name.row);
      const SegmentView<RealSync>* unmapped = member_->unmapped_.Find(name.segment);
      const auto location = unmapped == nullptr ? std::nullopt : unmapped->Locate(name.row);
      return location.has_value() ? location->hold : nullptr;
    }
    case PartKind::kReference:
      return member_->groups_->Find(name.group(), name.reference());
    case PartKind::kBundle:
      return member_->bundles_->Find(name.row);
    case PartKind::kEmpty:
      break;
  }
  return nullptr;
}

void MemberNames::Freed(const PartName& name) const {
  if (name.kind != PartKind::kBlock) return;
  if (Segment* segment = member_->SegmentAt(name.segment); segment != nullptr) {
    segment->LookAfterFreed(name.row);
  } else if (const auto* unmapped = member_->unmapped_.Find(name.segment); unmapped != nullptr) {
    UnmappedSegments::LookAfterFreed(*unmapped, name.row);
  }
}

void MemberNames::FreedGroup(uint32_t row) const {
  const auto& view = member_->group_rows_->view();
  PageMap<RealSync>::FreeOwnerless(view, row, view.LoadPage(row));
}

void MemberNames::FreedBundle(uint32_t row) const {
  const auto& view = member_->bundle_rows_->view();
  PageMap<RealSync>::FreeOwnerless(view, row, view.LoadPage(row));
}

bool MemberNames::ReleaseReference(const PartName& name, HoldWord seen) const {
  return member_->groups_->ReleaseOfNobody(name.group(), name.reference(), seen);
}

bool MemberNames::Release(const PartName& name, HoldWord seen) const {
  switch (name.kind) {
    case PartKind::kBlock: {
      Word* word = Find(name);
      if (word == nullptr || !HoldMoves<RealSync>::Swap(*word, seen, seen.Freed())) return false;
      Freed(name);
      return true;
    }
    case PartKind::kReference:
      return ReleaseReference(name, seen);
    case PartKind::kBundle:
      member_->bundles_->Free(name.row, seen);
      return true;
    case PartKind::kEmpty:
      break;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<Member>> Member::Join(SessionOptions options) {
  options.prepare_segment = PrepareSegment;
  const SegmentMemory memory = options.main_segment_memory;
  absl::StatusOr<std::unique_ptr<Session>> session = Session::Join(options);
  if (!session.ok()) return session.status();
  std::unique_ptr<Member> member(new Member(*std::move(session)));
  if (absl::Status status = member->OpenTables(); !status.ok()) return status;
  absl::StatusOr<Segment*> main = member->FindSegment(0, memory);
  if (!main.ok()) return main.status();
  member->main_segment_ = *main;
  member->session_->set_hooks(member.get());
  return member;
}

Member::Member(std::unique_ptr<Session> session)
    : session_(std::move(session)), unmapped_(*session_) {}

Member::~Member() {
  // The session calls the hooks for the last time: what is still held is freed.
  (void)session_->Leave();
}

absl::Status Member::OpenTables() {
  const auto open = [this](AreaKind kind, uint64_t bytes,
                           uint64_t backed_bytes = kPageBytes) -> absl::StatusOr<Mapping> {
    absl::StatusOr<Mapping> area = session_->OpenArea(kind);
    if (area.ok()) return area;
    return session_->EnsureArea(kind, bytes, backed_bytes);
  };
  absl::StatusOr<Mapping> groups = open(AreaKind::kGroupTable, GroupTableBytes());
  if (!groups.ok()) return groups.status();
  absl::StatusOr<Mapping> bundles = open(AreaKind::kBundleTable, BundleTableBytes());
  if (!bundles.ok()) return bundles.status();
  absl::StatusOr<Mapping> channels =
      open(AreaKind::kChannelTable, ChannelTable::BytesNeeded(), ChannelTable::BytesNeeded());
  if (!channels.ok()) return channels.status();
  channel_area_ = *std::move(channels);
  channels_.emplace(channel_area_.bytes(), self(), session_->members());
  absl::StatusOr<Mapping> ring_table =
      open(AreaKind::kRingTable, kRingTableBytes, kRingTableBackedBytes);
  if (!ring_table.ok()) return ring_table.status();
  absl::StatusOr<Mapping> ring_data = open(AreaKind::kRingData, kRingDataBytes, 0);
  if (!ring_data.ok()) return ring_data.status();
  if (absl::Status status = OpenRings(*std::move(ring_table), *std::move(ring_data));
      !status.ok()) {
    return status;
  }
  group_rows_ = std::make_unique<RowTable>(
      *std::move(groups),
      RowTable::Options{kGroupPages, sizeof(GroupTarget<RealSync>), /*uses_small_holds=*/true},
      self().slot);
  bundle_rows_ = std::make_unique<RowTable>(
      *std::move(bundles), RowTable::Options{kBundlePages, kPageBytes, /*uses_small_holds=*/false},
      self().slot);
  groups_.emplace(group_rows_->view(),
                  reinterpret_cast<GroupTarget<RealSync>*>(group_rows_->section()),
                  MemberNames(*this));
  bundles_.emplace(bundle_rows_->view(), bundle_rows_->section(), MemberNames(*this));
  return absl::OkStatus();
}

absl::Status Member::OpenRings(Mapping table, Mapping data) {
  ring_table_area_ = std::move(table);
  ring_data_area_ = std::move(data);
  RingTableParts parts;
  parts.table = ring_table_area_.bytes();
  parts.data = ring_data_area_.bytes();
  parts.reserve_table = [this](uint64_t offset_bytes, uint64_t length_bytes) {
    return ring_table_area_.Reserve(offset_bytes, length_bytes);
  };
  parts.reserve_data = [this](uint64_t offset_bytes, uint64_t length_bytes) {
    return ring_data_area_.Reserve(offset_bytes, length_bytes);
  };
  parts.self = self();
  parts.members = &session_->members();
  parts.fences = &session_->header().fences;
  absl::StatusOr<std::unique_ptr<RingTable>> rings = RingTable::Attach(std::move(parts));
  if (!rings.ok()) return rings.status();
  rings_ = *std::move(rings);
  return absl::OkStatus();
}

absl::StatusOr<Member::OwnedSegment*> Member::Attach(SegmentObjects objects) {
  const uint32_t row = objects.row;
  // Another segment's only until that one was retired; and its row is not used again before.
  if (owned_[row] != nullptr) return owned_[row].get();
  auto owned = std::make_unique<OwnedSegment>();
  owned->objects = std::move(objects);
  SegmentParts parts;
  parts.id = owned->objects.id;
  parts.row = row;
  parts.name = owned->objects.name;
  parts.payload = owned->objects.payload.bytes();
  parts.area = owned->objects.area.bytes();
  parts.backing = std::make_unique<MappedBacking>(owned->objects.payload, owned->objects.area);
  parts.self = self();
  parts.members = &session_->members();
  parts.fences = &session_->header().fences;
  absl::StatusOr<std::unique_ptr<Segment>> segment = Segment::Attach(std::move(parts));
  if (!segment.ok()) return segment.status();
  owned->segment = *std::move(segment);
  owned->segment->set_reclaim_dead([this] { return ReclaimDead(); });
  owned->segment->view().SetMapped(self(), true);
  if (!session_->IsLive(owned->objects)) {
    owned->segment->view().SetMapped(self(), false);
    return absl::NotFoundError(absl::StrCat("segment ", owned->objects.id, ": is being removed"));
  }
  owned_[row] = std::move(owned);
  segments_[row].store(owned_[row]->segment.get(), std::memory_order_release);
  return owned_[row].get();
}

Segment* Member::MapSegment(uint32_t row) {
  {
    // One that is being looked at by RetireSegments() may stay.
    absl::MutexLock lock(&mutex_);
    if (owned_[row] != nullptr) return owned_[row]->segment.get();
  }
  for (const SegmentInfo& info : session_->Segments()) {
    if (info.row != row) continue;
    const absl::StatusOr<Segment*> segment = FindSegment(info.id);
    // Another segment, in another row, may have the id by now.
    return segment.ok() && (*segment)->row() == row ? *segment : nullptr;
  }
  return nullptr;
}

absl::StatusOr<Member::OwnedSegment*> Member::Find(uint32_t id) {
  for (const std::unique_ptr<OwnedSegment>& owned : owned_) {
    if (owned != nullptr && owned->objects.id == id && session_->IsLive(owned->objects)) {
      return owned.get();
    }
  }
  absl::StatusOr<SegmentObjects> objects = session_->OpenSegment(id);
  if (!objects.ok()) return objects.status();
  return Attach(*std::move(objects));
}

absl::StatusOr<Segment*> Member::FindSegment(uint32_t id, const SegmentMemory& memory) {
  OwnedSegment* owned = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    const absl::StatusOr<OwnedSegment*> found = Find(id);
    if (!found.ok()) return found.status();
    owned = *found;
  }
  const absl::Status status = BringInSegmentMemory(memory, owned->objects.payload);
  if (!status.ok()) return status;
  return owned->segment.get();
}

absl::StatusOr<Segment*> Member::CreateSegment(SegmentOptions options) {
  options.prepare = PrepareSegment;
  const uint32_t id = options.id;
  const SegmentMemory memory = options.memory;
  absl::StatusOr<SegmentObjects> objects = session_->CreateSegment(std::move(options));
  if (!objects.ok()) return objects.status();
  const SegmentInfo made = {
      .row = objects->row,
      .word = {.generation = objects->generation, .state = SegmentState::kLive}};
  absl::StatusOr<OwnedSegment*> owned;
  {
    absl::MutexLock lock(&mutex_);
    owned = Attach(*std::move(objects));
  }
  absl::Status status = owned.status();
  // Not before the others can go on: this may take seconds.
  if (status.ok()) status = BringInSegmentMemory(memory, (*owned)->objects.payload);
  if (!status.ok()) {
    session_->RemoveSegment(id, made).IgnoreError();  // the first error is the one to report
    return status;
  }
  return (*owned)->segment.get();
}

absl::Status Member::RemoveSegment(uint32_t id) {
  if (id == 0) {
    return absl::InvalidArgumentError("segment 0 is the main segment, which ends with the session");
  }
  return session_->RemoveSegment(id);
}

absl::StatusOr<SegmentPin> Member::PinSegment(uint32_t id) {
  if (id == 0) return SegmentPin(*main_segment_, nullptr);
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<OwnedSegment*> owned = Find(id);
  if (!owned.ok()) return owned.status();
  (*owned)->gate.ReaderLock();
  return SegmentPin(*(*owned)->segment, &(*owned)->gate);
}

// 1. the row says that the segment was removed: nobody begins an allocation from it here, and none
// is under way (the gate)   2. unmapped for SegmentAt(); full fence   3. no block of it is in use,
// so no name of one is on its way, and the row's number is of no use to this member; else it is
// mapped again   4. mapped := 0. Whoever is still allocating elsewhere has its own `mapped` set;
// what it sends to us while we look is seen in 3, or finds the segment unmapped (who finds null
// waits for our lock and looks again).
void Member::RetireSegments() {
  absl::MutexLock lock(&mutex_);
  for (uint32_t row = 0; row < kMaxSegments; ++row) {
    std::unique_ptr<OwnedSegment>& owned = owned_[row];
    if (owned == nullptr || session_->IsLive(owned->objects)) continue;  // 1
    if (!owned->gate.TryLock()) continue;
    bool unused = owned->segment->Usage().used_blocks == 0;
    if (unused) {
      segments_[row].store(nullptr, std::memory_order_release);  // 2
      RealSync::FullFence();
      unused = owned->segment->Usage().used_blocks == 0;  // 3
      if (unused) {
        owned->segment->view().SetMapped(self(), false);  // 4
      } else {
        segments_[row].store(owned->segment.get(), std::memory_order_release);
      }
    }
    owned->gate.Unlock();
    if (unused) retired_.push_back(std::move(owned));
  }
  for (const std::unique_ptr<OwnedSegment>& owned : retired_) {
    if (owned->emptied || owned->segment->view().MappedByAny(session_->members())) continue;
    owned->emptied = true;
    owned->objects.payload.Discard();
  }
}

absl::Status Member::Share(Segment& segment, const Block& block, std::span<Reference> references) {
  if (references.empty() || references.size() > kMaxReferences) {
    return absl::InvalidArgumentError(absl::StrCat("a block shared by ", references.size(),
                                                   "; 1 to ", kMaxReferences, " are possible"));
  }
  const auto count = static_cast<uint32_t>(references.size());
  const auto row = AllocateRow(*group_rows_, (count + kWordsPerPage - 1) / kWordsPerPage);
  if (!row.ok()) return row.status();
  PartName target;
  target.kind = PartKind::kBlock;
  target.segment = segment.row();
  target.row = block.id;
  groups_->Build(row->row, row->hold, target, *segment.Find(block.id), block.hold, count,
                 references.data());
  return absl::OkStatus();
}

absl::StatusOr<Reference> Member::Copy(Reference* reference) {
  std::optional<Reference> copy = groups_->Copy(*reference, self().slot);
  if (copy.has_value()) return *copy;
  // Every word of the group is in use: our reference becomes a group of its own, of a larger one
  // the larger, so that many copies make no long chain.
  const int depth = Depth(reference->row);
  if (depth >= kMaxGroupDepth) {
    return absl::ResourceExhaustedError(
        absl::StrCat("too many references to one block: a chain of ", depth, " full groups"));
  }
  constexpr uint32_t kGrowth = 8;
  const uint32_t room = std::min(kMaxReferences, groups_->Capacity(reference->row) * kGrowth);
  const auto row = AllocateRow(*group_rows_, room / kWordsPerPage);
  if (!row.ok()) return row.status();
  const PartName target = PartName::Reference(reference->row, reference->index, 0, 0);
  Reference both[2];
  groups_->Build(row->row, row->hold, target,
                 groups_->ReferenceWord(reference->row, reference->index), reference->hold, 2,
                 both);
  *reference = both[0];
  return both[1];
}

int Member::Depth(uint32_t row) const {
  int depth = 1;
  for (; depth < kMaxGroupDepth; ++depth) {
    const std::optional<PartName> target = groups_->Target(row);
    if (!target.has_value() || target->kind != PartKind::kReference) break;
    row = target->group();
    if (groups_->Find(row, target->reference()) == nullptr) break;
  }
  return depth;
}

std::optional<BlockView> Member::View(const Reference& reference) {
  uint32_t row = reference.row;
  for (int depth = 0; depth < kMaxGroupDepth; ++depth) {
    const std::optional<PartName> target = groups_->Target(row);
    if (!target.has_value()) return std::nullopt;
    if (target->kind == PartKind::kReference) {
      if (groups_->Find(target->group(), target->reference()) == nullptr) return std::nullopt;
      row = target->group();
      continue;
    }
    if (target->kind != PartKind::kBlock) return std::nullopt;
    Segment* segment = SegmentAt(target->segment);
    if (segment == nullptr) return std::nullopt;
    const auto location = segment->view().Locate(target->row);
    if (!location.has_value() ||
        location->offset_bytes + location->size_bytes > segment->size_bytes()) {
      return std::nullopt;
    }
    return BlockView{segment, segment->payload() + location->offset_bytes, location->size_bytes};
  }
  return std::nullopt;
}

std::optional<Reference> Member::AcceptReference(const PartName& name) {
  auto* word = groups_->Find(name.group(), name.reference());
  if (word == nullptr) return std::nullopt;
  return Taken(name, HoldMoves<RealSync>::Accept(*word, name.generation, self().slot));
}

std::optional<Reference> Member::AcceptPostedReference(const PartName& name, uint32_t channel) {
  auto* word = groups_->Find(name.group(), name.reference());
  if (word == nullptr) return std::nullopt;
  return Taken(name,
               HoldMoves<RealSync>::AcceptPosted(*word, name.generation, channel, self().slot));
}

std::optional<Reference> Member::Taken(const PartName& name, std::optional<HoldWord> held) {
  if (!held.has_value()) return std::nullopt;
  const Reference reference{name.group(), name.reference(), *held};
  const std::optional<BlockView> view = View(reference);
  if (!view.has_value() || name.used_bytes > view->size_bytes) {
    Release(reference);  // the sender lies
    return std::nullopt;
  }
  return reference;
}

void Member::AcceptAndRelease(const PartName& name, std::optional<uint32_t> channel) {
  const MemberNames names(*this);
  auto* const word = names.Find(name);
  if (word == nullptr) return;
  using Moves = HoldMoves<RealSync>;
  const std::optional<HoldWord> held =
      channel.has_value() ? Moves::AcceptPosted(*word, name.generation, *channel, self().slot)
                          : Moves::Accept(*word, name.generation, self().slot);
  if (held.has_value()) (void)names.Release(name, *held);
}

std::optional<Reference> Member::TakeBackReference(const PartName& name) {
  auto* word = groups_->Find(name.group(), name.reference());
  if (word == nullptr) return std::nullopt;
  const auto held = HoldMoves<RealSync>::TakeBack(*word, name.generation, self().slot);
  if (!held.has_value()) return std::nullopt;
  return Reference{name.group(), name.reference(), *held};
}

absl::StatusOr<RowTable::Row> Member::Bundle(std::span<const PartName> parts) {
  if (parts.empty() || parts.size() > kMaxParts) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", parts.size(), " parts; 1 to ", kMaxParts, " are possible"));
  }
  const uint64_t bytes = PartList<RealSync>::BytesFor(parts.size());
  const auto row =
      AllocateRow(*bundle_rows_, static_cast<uint32_t>((bytes + kPageBytes - 1) / kPageBytes));
  if (!row.ok()) return row.status();
  bundles_->Build(row->row, row->hold, parts);
  return *row;
}

std::optional<RowTable::Row> Member::AcceptBundle(const PartName& name) {
  auto* word = bundles_->Find(name.row);
  if (word == nullptr) return std::nullopt;
  const auto held = HoldMoves<RealSync>::Accept(*word, name.generation, self().slot);
  if (!held.has_value()) return std::nullopt;
  return RowTable::Row{name.row, *held};
}

std::optional<RowTable::Row> Member::AcceptPostedBundle(const PartName& name, uint32_t channel) {
  auto* word = bundles_->Find(name.row);
  if (word == nullptr) return std::nullopt;
  const auto held = HoldMoves<RealSync>::AcceptPosted(*word, name.generation, channel, self().slot);
  if (!held.has_value()) return std::nullopt;
  return RowTable::Row{name.row, *held};
}

std::optional<RowTable::Row> Member::TakeBackBundle(const PartName& name) {
  auto* word = bundles_->Find(name.row);
  if (word == nullptr) return std::nullopt;
  const auto held = HoldMoves<RealSync>::TakeBack(*word, name.generation, self().slot);
  if (!held.has_value()) return std::nullopt;
  return RowTable::Row{name.row, *held};
}

bool Member::ReclaimDead() {
  const bool any = session_->ReclaimDead();
  SweepGroups();
  return SweepPosted(/*memory_is_short=*/true) || any;
}

absl::StatusOr<RowTable::Row> Member::AllocateRow(RowTable& table, uint32_t pages) {
  absl::StatusOr<RowTable::Row> row = table.Allocate(pages);
  if (row.ok() || !absl::IsResourceExhausted(row.status()) || !ReclaimDead()) return row;
  return table.Allocate(pages);
}

bool Member::ReclaimMember(MemberId victim) {
  // Rings before words: what the victim had sent stays deliverable.
  rings_->Reclaim(victim, MemberNames(*this));
  channels_->Reclaim(victim);
  ReclaimCount count;
  if (!ReclaimGroups(group_rows_->view(), *groups_, session_->members(), victim)) return true;
  if (!ReclaimBundles(bundle_rows_->view(), *bundles_, session_->members(), victim)) return true;
  for (const SegmentInfo& info : session_->Segments()) (void)SegmentAt(info.row);
  // Also what was removed, and is still in use here or by others.
  bool complete = true;
  for (uint32_t row = 0; row < kMaxSegments; ++row) {
    Segment* segment = segments_[row].load(std::memory_order_acquire);
    if (segment == nullptr) {
      if (!unmapped_.Reclaim(row, victim, &count)) complete = false;
    } else if (!segment->Reclaim(victim, &count)) {
      return true;
    }
  }
  SweepGroups();
  if (count.blocks > 0 && victim != self()) {
    session_->Tell(EventKind::kBlocksReclaimed, victim, count.blocks, count.bytes);
  }
  return complete;  // else there was no room to map something now: asked again
}

// Once for each segment when it begins to be short, not with every allocation that fails.
void Member::TellShortages() {
  constexpr uint64_t kTicksToLookAgain = 20;  // a look at every block takes time
  const bool look_again = ++ticks_ % kTicksToLookAgain == 0;
  absl::MutexLock lock(&mutex_);
  for (const std::unique_ptr<OwnedSegment>& owned : owned_) {
    if (owned == nullptr) continue;
    const uint64_t short_of_bytes = owned->segment->TakeShortage();
    if (owned->shortage_bytes == 0 && short_of_bytes == 0) continue;
    if (owned->shortage_bytes != 0 && !look_again) continue;
    const SegmentUsage usage = owned->segment->Usage();
    if (owned->shortage_bytes == 0) {
      session_->Tell(EventKind::kMemoryLow, self(), owned->objects.id, usage.free_bytes);
      owned->shortage_bytes = short_of_bytes;
    } else if (usage.largest_free_bytes >= owned->shortage_bytes) {
      owned->shortage_bytes = 0;
    }
  }
}

void Member::StopMoves() {
  for (const std::atomic<Segment*>& entry : segments_) {
    if (Segment* segment = entry.load(std::memory_order_acquire); segment != nullptr) {
      segment->Stop();
    }
  }
  group_rows_->Stop();
  bundle_rows_->Stop();
}

void Member::SweepGroups() { handoff::SweepGroups(group_rows_->view(), *groups_); }

bool Member::SweepPosted(bool memory_is_short) {
  const auto pass = std::make_unique<ChannelTable::Pass>();
  channels_->Begin(memory_is_short, pass.get());
  if (!pass->worthwhile()) return false;
  using Word = HoldMoves<RealSync>::Word;
  const auto look = [&](Word& word, auto free_word) {
    for (HoldWord seen = HoldMoves<RealSync>::Load(word); seen.state() == HoldState::kPosted;) {
      if (!pass->MayFree(seen.receiver())) {
        pass->Seen(seen.receiver());
        return;
      }
      if (free_word(seen)) {
        pass->Freed();
        HANDOFF_CRASH_POINT("channel.sweep.after_word");
        return;
      }
      seen = HoldMoves<RealSync>::Load(word);
    }
  };
  // Bundles before their parts. One is accepted first: a receiver may be doing the same.
  const SegmentView<RealSync>& bundle_view = bundle_rows_->view();
  for (uint32_t page = 0; page < bundle_view.backed_pages(); ++page) {
    look(bundle_view.large_hold(page), [&](HoldWord seen) {
      const HoldWord held = seen.Accepted(self().slot);
      if (!HoldMoves<RealSync>::Swap(bundle_view.large_hold(page), seen, held)) return false;
      HANDOFF_CRASH_POINT("channel.sweep.after_bundle");
      bundles_->Free(page, held);
      return true;
    });
  }
  const SegmentView<RealSync>& group_view = group_rows_->view();
  for (uint32_t page = 0; page < group_view.backed_pages(); ++page) {
    const PageWord head = group_view.LoadPage(page);
    if (!head.IsHead() || head.size_class() != kLargeClass) continue;
    const uint32_t count = groups_->WordCount(page);
    for (uint32_t i = 0; i < count; ++i) {
      look(groups_->ReferenceWord(page, i),
           [&](HoldWord seen) { return groups_->ReleaseOfNobody(page, i, seen); });
    }
  }
  bool complete = true;
  for (const SegmentInfo& info : session_->Segments()) {
    if (SegmentAt(info.row) == nullptr) complete = false;
  }
  for (const std::atomic<Segment*>& entry : segments_) {
    Segment* const segment = entry.load(std::memory_order_acquire);
    if (segment == nullptr) continue;
    const SegmentView<RealSync>& view = segment->view();
    for (uint32_t page = 0; page < view.backed_pages(); ++page) {
      const PageWord head = view.LoadPage(page);
      if (!head.IsHead()) continue;
      const uint32_t blocks = view.BlockCount(page, head);
      for (uint32_t i = 0; i < blocks; ++i) {
        Word& word = view.HoldAt(page, head, i);
        look(word, [&](HoldWord seen) {
          if (!HoldMoves<RealSync>::Swap(word, seen, seen.Freed())) return false;
          segment->LookAfterFreed(page * kWordsPerPage + i);
          return true;
        });
      }
    }
  }
  channels_->End(*pass, complete);
  return pass->freed() > 0;
}

void Member::Tick() {
  rings_->Tick(MemberNames(*this));
  if (channels_->PassIsDue()) SweepPosted(/*memory_is_short=*/false);
  for (const std::atomic<Segment*>& entry : segments_) {
    if (Segment* segment = entry.load(std::memory_order_acquire); segment != nullptr) {
      segment->Tick();
    }
  }
  TellShortages();
  if (const uint64_t stale = stale_handles_.exchange(0, std::memory_order_relaxed); stale > 0) {
    session_->Tell(EventKind::kStaleHandles, {}, stale);
  }
  RetireSegments();
  group_rows_->Tick();
  bundle_rows_->Tick();
  for (const RowTable* table : {group_rows_.get(), bundle_rows_.get()}) {
    if (table->view().header().ownerless.load(std::memory_order_acquire) == 0) continue;
    SegmentReclaim<RealSync>(table->view(), session_->members()).Sweep();
  }
}

}  // namespace handoff

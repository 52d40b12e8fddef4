// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_MEMBER_H_
#define HANDOFF_ALLOCATOR_MEMBER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "allocator/bundle.h"
#include "allocator/channel_table.h"
#include "allocator/mapping.h"
#include "allocator/member_hooks.h"
#include "allocator/part_name.h"
#include "allocator/ring_table.h"
#include "allocator/row_table.h"
#include "allocator/segment.h"
#include "allocator/segment_memory.h"
#include "allocator/segment_table.h"
#include "allocator/session.h"
#include "allocator/share_group.h"
#include "allocator/unmapped_segments.h"

namespace handoff {

class Member;

// A segment that an allocation may be made from, as long as this object lives.
class SegmentPin {
 public:
  SegmentPin(SegmentPin&& other) noexcept
      : segment_(other.segment_), gate_(std::exchange(other.gate_, nullptr)) {}
  SegmentPin& operator=(SegmentPin&&) = delete;
  ~SegmentPin() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (gate_ != nullptr) gate_->ReaderUnlock();
  }

  Segment& operator*() const { return *segment_; }
  Segment* operator->() const { return segment_; }

 private:
  friend class Member;

  // `gate`: locked for reading; null for the main segment, which is never removed.
  SegmentPin(Segment& segment, absl::Mutex* gate) : segment_(&segment), gate_(gate) {}

  Segment* segment_;
  absl::Mutex* gate_;
};

// Finds the words that a PartName names, for share groups, bundles and reclaim.
class MemberNames {
 public:
  using Word = HoldMoves<RealSync>::Word;

  explicit MemberNames(Member& member) : member_(&member) {}

  Word* Find(const PartName& name) const;
  void Freed(const PartName& name) const;
  void FreedGroup(uint32_t row) const;
  void FreedBundle(uint32_t row) const;
  bool ReleaseReference(const PartName& name, HoldWord seen) const;
  bool Release(const PartName& name, HoldWord seen) const;

 private:
  Member* member_;
};

using Groups = ShareGroups<RealSync, MemberNames>;
using Reference = Groups::Reference;

// What a reference or a part reads: the bytes of a block that may not be written.
struct BlockView {
  Segment* segment = nullptr;
  const std::byte* data = nullptr;
  uint64_t size_bytes = 0;  // room
};

// This process as a member of a session: its session, the segments it uses, its share groups and
// bundles, and the work that every member does for all, which is to reclaim what the dead had. One
// process may be several members, of one session or of several.
//
// Any thread may call any function; one reference or bundle is for one thread at a time. In a
// forked child nothing may be called (Usable() says so), and the destructor does nothing but unmap.
class Member : private MemberHooks {
 public:
  // Joins, or creates the session and its main segment. Errors: those of Session::Join and
  // Segment::Attach; kFailedPrecondition where the session has no main segment and none is to be
  // made.
  static absl::StatusOr<std::unique_ptr<Member>> Join(SessionOptions options);

  // Leaves: everything this member still holds is freed. The last one removes the session's
  // objects. No call may be under way, no block of it be used any more.
  ~Member() override;

  Session& session() { return *session_; }
  MemberId self() const { return session_->id(); }
  uint64_t nonce() const { return session_->nonce(); }
  absl::Status Usable() const { return session_->CheckUsable(); }

  Segment& main_segment() { return *main_segment_; }

  // The segment in this row of the segment table, mapped when it is first asked for: what a name
  // from another member says. One load when it is mapped. Null: there is none.
  Segment* SegmentAt(uint32_t row) {
    if (row >= kMaxSegments) return nullptr;
    Segment* segment = segments_[row].load(std::memory_order_acquire);
    return __builtin_expect(segment != nullptr, 1) ? segment : MapSegment(row);
  }
  // The same, but null also where it is not mapped yet; `row` is below kMaxSegments.
  Segment* MappedSegmentAt(uint32_t row) const {
    return segments_[row].load(std::memory_order_acquire);
  }
  // The segment with this id, mapped when it is first asked for; `memory` says what of it to bring
  // in or lock now. Stays mapped as long as this member. kNotFound; errors of
  // BringInSegmentMemory().
  absl::StatusOr<Segment*> FindSegment(uint32_t id, const SegmentMemory& memory = {});

  // A further segment, which lives until it is removed or as long as the session. Errors of
  // SegmentTable::Create() and BringInSegmentMemory(): then there is none.
  absl::StatusOr<Segment*> CreateSegment(SegmentOptions options);

  // Takes a further segment's name and id away. Nobody maps it or allocates from it any more; its
  // messages stay good where it is mapped, and its memory goes back with the last of them, within
  // ticks. A message that reaches a process which had not mapped it is stale there, and freed.
  // kInvalidArgument: the main segment; kNotFound.
  absl::Status RemoveSegment(uint32_t id);

  // The segment with this id for an allocation, which cannot be retired until the pin is gone.
  // kNotFound: there is none, or it was removed.
  absl::StatusOr<SegmentPin> PinSegment(uint32_t id) ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // Makes the block, held by this member, one with `references.size()` owners (1 to
  // kMaxReferences), all of which this member holds at first. Failed, nothing has changed:
  // kResourceExhausted.
  absl::Status Share(Segment& segment, const Block& block, std::span<Reference> references);
  // A further reference to what `*reference` stands for. `*reference` may become one of another
  // group. kResourceExhausted: the table of groups is full, or the block has some 200 000 already.
  absl::StatusOr<Reference> Copy(Reference* reference);
  void Release(const Reference& reference) { groups_->Release(reference); }
  // What a reference reads; the caller holds it.
  std::optional<BlockView> View(const Reference& reference);
  // held -> sent(self -> receiver), as Segment::Mark.
  HoldWord Mark(const Reference& reference, uint32_t receiver) {
    return HoldMoves<RealSync>::Mark(groups_->ReferenceWord(reference.row, reference.index),
                                     reference.hold, receiver);
  }
  // As Segment::Accept, AcceptPosted and TakeBack; `name` says kReference.
  std::optional<Reference> AcceptReference(const PartName& name);
  std::optional<Reference> AcceptPostedReference(const PartName& name, uint32_t channel);
  std::optional<Reference> TakeBackReference(const PartName& name);

  // Takes and frees a block that was sent to this member, or posted on a channel, in a segment that
  // it cannot map: SegmentAt() is null. Nothing, if the name is stale or forged.
  void AcceptAndRelease(const PartName& name, std::optional<uint32_t> channel = std::nullopt);

  // Makes one message of parts that this member holds, under the generations in their names (1 to
  // kMaxParts, kBlock, kReference and kEmpty). They belong to the bundle then. Failed, nothing has
  // changed: kResourceExhausted.
  absl::StatusOr<RowTable::Row> Bundle(std::span<const PartName> parts);
  HoldWord MarkBundle(const RowTable::Row& bundle, uint32_t receiver) {
    return HoldMoves<RealSync>::Mark(bundles_->BundleWord(bundle.row), bundle.hold, receiver);
  }
  std::optional<RowTable::Row> AcceptBundle(const PartName& name);
  std::optional<RowTable::Row> AcceptPostedBundle(const PartName& name, uint32_t channel);
  std::optional<RowTable::Row> TakeBackBundle(const PartName& name);
  // The parts, held by this member from here on, under the generations in their names; the bundle
  // is gone. False: the list was damaged, and everything is freed.
  [[nodiscard]] bool Unpack(const RowTable::Row& bundle, std::vector<PartName>* parts) {
    return bundles_->Unpack(bundle.row, bundle.hold, parts);
  }
  // Frees a bundle that this member holds, unread.
  void Release(const RowTable::Row& bundle) { bundles_->Free(bundle.row, bundle.hold); }

  // Endpoints and rings. Sockets register there for the member's regular work.
  RingTable& rings() { return *rings_; }

  // Channels of sockets that post.
  ChannelTable& channels() { return *channels_; }

  const Groups& groups() const { return *groups_; }
  const Bundles<RealSync, MemberNames>& bundles() const { return *bundles_; }
  const RowTable& group_rows() const { return *group_rows_; }
  const RowTable& bundle_rows() const { return *bundle_rows_; }

  // A handle was dropped because its word said otherwise: told to the session's event log with the
  // next tick. Any thread.
  void CountStaleHandle() { stale_handles_.fetch_add(1, std::memory_order_relaxed); }

  // Looks for members that have died and takes back what they had, sweeps up what was left half
  // freed, and frees what was posted and may have nobody left to take it. True if anybody was dead
  // or anything came back. For who runs out of memory; the session's watch does the first by
  // itself.
  bool ReclaimDead();

 private:
  friend class MemberNames;

  // The objects of a segment that stays mapped as long as this member.
  struct OwnedSegment {
    SegmentObjects objects;
    std::unique_ptr<Segment> segment;
    bool emptied = false;         // once retired
    uint64_t shortage_bytes = 0;  // told, and no block of that size was free since
    absl::Mutex gate;  // read-locked during an allocation, locked to retire; after mutex_
  };

  explicit Member(std::unique_ptr<Session> session);

  absl::Status OpenTables();
  absl::Status OpenRings(Mapping table, Mapping data);
  absl::StatusOr<OwnedSegment*> Attach(SegmentObjects objects)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<OwnedSegment*> Find(uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Segment* MapSegment(uint32_t row);

  bool ReclaimMember(MemberId victim) override;
  void Tick() override;
  void StopMoves() override;
  // A reference whose word is ours now, if its block has room for what its name says.
  std::optional<Reference> Taken(const PartName& name, std::optional<HoldWord> held);
  void RetireSegments();
  void TellShortages();
  void SweepGroups();
  // Frees what was posted on channels that are abandoned, or aged where memory is short, and lets
  // channels be used again that no hold names any more. True if anything was freed.
  bool SweepPosted(bool memory_is_short);
  // A row, also if others have to be freed for it first.
  absl::StatusOr<RowTable::Row> AllocateRow(RowTable& table, uint32_t pages);

  // A reference of a full group becomes the target of another: chains longer than this are not made
  // and not followed.
  static constexpr int kMaxGroupDepth = 64;
  int Depth(uint32_t row) const;

  std::unique_ptr<Session> session_;
  absl::Mutex mutex_;
  std::array<std::unique_ptr<OwnedSegment>, kMaxSegments> owned_ ABSL_GUARDED_BY(mutex_);
  // Removed, and of no use to this member any more. A thread may still be looking at their tables,
  // so they stay mapped; their payload goes back once nobody needs it.
  std::vector<std::unique_ptr<OwnedSegment>> retired_ ABSL_GUARDED_BY(mutex_);
  std::array<std::atomic<Segment*>, kMaxSegments> segments_{};
  Segment* main_segment_ = nullptr;
  UnmappedSegments unmapped_;
  std::atomic<uint64_t> stale_handles_{0};
  uint64_t ticks_ = 0;  // by the thread that ticks
  Mapping channel_area_;
  std::optional<ChannelTable> channels_;
  Mapping ring_table_area_;
  Mapping ring_data_area_;
  std::unique_ptr<RingTable> rings_;
  std::unique_ptr<RowTable> group_rows_;
  std::unique_ptr<RowTable> bundle_rows_;
  std::optional<Groups> groups_;
  std::optional<Bundles<RealSync, MemberNames>> bundles_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_MEMBER_H_

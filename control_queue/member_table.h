// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_CONTROL_QUEUE_MEMBER_TABLE_H_
#define HANDOFF_CONTROL_QUEUE_MEMBER_TABLE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/cache_line.h"
#include "base/check.h"
#include "base/sync.h"
#include "control_queue/atomic_max.h"
#include "control_queue/member_id.h"

namespace handoff {

enum class MemberState : uint32_t {
  kFree = 0,  // nobody; the epoch is the one the next member will have
  kLive = 1,  // joined, and not found dead yet
  kDead = 2,  // found dead, or leaving; waits for its reclaim to end
};

// The word of a row, `epoch 32 | state`. A row is the truth about its member: alive(slot, epoch) is
// exactly "the word of the slot is (epoch, live)".
struct MemberWord {
  uint32_t epoch = 0;
  MemberState state = MemberState::kFree;

  constexpr uint64_t Packed() const { return uint64_t{epoch} << 32 | static_cast<uint32_t>(state); }
  static constexpr MemberWord FromPacked(uint64_t packed) {
    return {static_cast<uint32_t>(packed >> 32),
            static_cast<MemberState>(static_cast<uint32_t>(packed))};
  }

  friend constexpr bool operator==(MemberWord, MemberWord) = default;
};

// What a member says about itself when it joins. Plain bytes of another process: check them before
// use.
struct MemberIdentity {
  static constexpr size_t kMaxNameBytes = 32;

  uint32_t pid = 0;         // in the PID namespace below
  uint32_t uid = 0;         // effective user
  uint64_t start_time = 0;  // of the process, clock ticks since boot (field 22 of /proc/<pid>/stat)
  uint64_t pid_namespace =
      0;  // inode of /proc/self/ns/pid; pids of different namespaces do not compare
  uint64_t joined_at_ns = 0;  // nanoseconds since the Unix epoch, for display
  uint64_t build_hash = 0;    // of the build that joined, for display and refusal
  std::array<char, kMaxNameBytes> name =
      {};  // zero-filled at the end; without a zero if it fills all bytes

  // Cuts `text` to kMaxNameBytes.
  void SetName(std::string_view text) {
    name.fill('\0');
    std::memcpy(name.data(), text.data(), std::min(text.size(), name.size()));
  }
  std::string_view NameView() const {
    return {name.data(),
            static_cast<size_t>(std::find(name.begin(), name.end(), '\0') - name.begin())};
  }

  friend bool operator==(const MemberIdentity&, const MemberIdentity&) = default;
};

// One row in shared memory. Written by the member that joins while the row is free; afterwards only
// `word` changes. The identity is kept in atomic words because a reader may still be copying it
// while the next member writes its own.
template <class Sync>
struct alignas(2 * kCacheLineSize) MemberRow {
  template <class T>
  using Atomic = typename Sync::template Atomic<T>;

  Atomic<uint64_t> word;         // MemberWord
  Atomic<uint64_t> pid_and_uid;  // pid in the low half
  Atomic<uint64_t> start_time;
  Atomic<uint64_t> pid_namespace;
  Atomic<uint64_t> joined_at_ns;
  Atomic<uint64_t> build_hash;
  Atomic<uint64_t> name[MemberIdentity::kMaxNameBytes / sizeof(uint64_t)];
};
static_assert(std::is_standard_layout_v<MemberRow<RealSync>> &&
              sizeof(MemberRow<RealSync>) == 2 * kCacheLineSize);

// In front of the rows.
template <class Sync>
struct alignas(2 * kCacheLineSize) MemberTableHeader {
  template <class T>
  using Atomic = typename Sync::template Atomic<T>;

  Atomic<uint64_t> slots_used;  // no slot from here on was ever used; never falls
  Atomic<uint64_t> changes;     // +1 after every change of a row word
};
static_assert(std::is_standard_layout_v<MemberTableHeader<RealSync>> &&
              sizeof(MemberTableHeader<RealSync>) == 2 * kCacheLineSize);

// The members of a session: one row for each slot, over bytes that the caller supplies and keeps
// alive. Zeroed bytes are an empty table. Any thread of any process may call any function, under
// the rules given at each.
//
// A row goes round free -> live -> dead -> free, and the epoch moves on at the last step:
//   1. Joining member J, which holds the guard byte and byte `slot` of the lock file, loads the
//      word: (e, free)                                                                   (acquire)
//   2. J stores its identity                                                             (release)
//   3. J raises `slots_used` above the slot                                              (release)
//   4. J moves the word (e, free) -> (e, live): J is a member                       (CAS, acq_rel)
//   5. Reader R loads the word: (e, live) pairs with 4: R sees 2 and 3                   (acquire)
//   6. R copies the identity (acquire) and loads the word again. Unchanged: the copy is that of
//      epoch e. Had R seen a part of the next identity, it would also see, by 1 and 2, the word at
//      (e + 1, free) or later.
//   7. Who is sure that the member is dead, or the member itself when it leaves, moves the word
//      (e, live) -> (e, dead)                                                       (CAS, acq_rel)
//   8. Who has ended its reclaim moves the word (e, dead) -> (e + 1, free)          (CAS, acq_rel)
//   9. After 4, 7 and 8 `changes` + 1                                                    (release)
// Death after 1 or 2: the row is still free and the next one to join writes over it. After 3: scans
// look at one row more. After 4: the member is found by its life lock and reclaimed. After 7:
// whoever finds a dead row reclaims it; any number may. Before 9: the change is not counted, so
// whoever waits for changes also looks at the rows now and then.
template <class Sync>
class MemberTable {
 public:
  static constexpr size_t BytesNeeded() {
    return sizeof(MemberTableHeader<Sync>) + kMaxMembers * sizeof(MemberRow<Sync>);
  }

  // `bytes` must be BytesNeeded() or more, aligned to two cache lines.
  explicit MemberTable(std::span<std::byte> bytes)
      : header_(reinterpret_cast<MemberTableHeader<Sync>*>(bytes.data())),
        rows_(reinterpret_cast<MemberRow<Sync>*>(bytes.data() + sizeof(MemberTableHeader<Sync>))) {
    HANDOFF_CHECK(bytes.size() >= BytesNeeded())
        << "member table: " << bytes.size() << " bytes given";
    HANDOFF_CHECK(reinterpret_cast<uintptr_t>(bytes.data()) % alignof(MemberRow<Sync>) == 0)
        << "member table at " << static_cast<const void*>(bytes.data());
  }

  // Is the member still in? One load; for the path of a message. False for a slot outside the
  // table.
  bool Alive(MemberId member) const {
    return member.slot < kMaxMembers &&
           // Step 5.
           rows_[member.slot].word.load(std::memory_order_acquire) ==
               MemberWord{member.epoch, MemberState::kLive}.Packed();
  }

  // The word of a slot below kMaxMembers (acquire).
  MemberWord Word(uint32_t slot) const {
    return MemberWord::FromPacked(rows_[slot].word.load(std::memory_order_acquire));
  }

  struct Member {
    MemberWord word;
    MemberIdentity identity;  // of that epoch unless word.state is kFree; then it is of no use
  };

  // A consistent copy of a row; `slot` is below kMaxMembers. Repeats only while the row is changing
  // hands.
  Member Load(uint32_t slot) const;

  // Joins: free -> live. Returns the member with its epoch, or nothing if the row is not free. The
  // caller holds the guard byte, so that nobody else writes the row, and byte `slot`, so that
  // nobody takes it for dead.
  std::optional<MemberId> Publish(uint32_t slot, const MemberIdentity& identity);

  // live -> dead. True if the row now says so, whoever wrote it; false if the slot has moved on.
  // Only for a member that is known to have ended, or by itself after its last plain store to
  // shared memory.
  bool MarkDead(MemberId member);

  // dead -> free with the next epoch; the last step of a reclaim. True for the one caller that did
  // it.
  bool Free(MemberId member);

  // Every slot that was ever used is below this; 0 if none was. At most kMaxMembers, whatever the
  // bytes say.
  uint32_t SlotsUsed() const {
    return static_cast<uint32_t>(
        std::min<uint64_t>(header_->slots_used.load(std::memory_order_acquire), kMaxMembers));
  }

  // Differs from an earlier value if a row has changed since then. May miss a change whose author
  // died in the middle.
  uint64_t Changes() const { return header_->changes.load(std::memory_order_acquire); }

  // Calls visit(MemberId, MemberState) for every row that is live or dead, in the order of slots.
  template <class Visit>
  void ForEach(Visit&& visit) const {
    for (uint32_t slot = 1, end = SlotsUsed(); slot < end; ++slot) {
      const MemberWord word = Word(slot);
      if (word.state != MemberState::kFree) visit(MemberId{slot, word.epoch}, word.state);
    }
  }

  // Calls visit(MemberId) for every live row, in the order of slots.
  template <class Visit>
  void ForEachLive(Visit&& visit) const {
    ForEach([&](MemberId member, MemberState state) {
      if (state == MemberState::kLive) visit(member);
    });
  }

  // The lowest free slot from `from` on, or nothing. From 1 on to join; the slot is only a
  // candidate until its byte of the lock file has been granted.
  std::optional<uint32_t> NextFree(uint32_t from) const {
    for (uint32_t slot = std::max<uint32_t>(from, 1); slot < kMaxMembers; ++slot) {
      if (Word(slot).state == MemberState::kFree) return slot;
    }
    return std::nullopt;
  }

 private:
  // Steps 4, 7, 8 and then 9. True if this call moved the word.
  bool Move(uint32_t slot, MemberWord from, MemberWord to) {
    uint64_t expected = from.Packed();
    if (!rows_[slot].word.compare_exchange_strong(expected, to.Packed(), std::memory_order_acq_rel,
                                                  std::memory_order_acquire)) {
      return false;
    }
    header_->changes.fetch_add(1, std::memory_order_release);
    return true;
  }

  MemberTableHeader<Sync>* header_;
  MemberRow<Sync>* rows_;
};

template <class Sync>
auto MemberTable<Sync>::Load(uint32_t slot) const -> Member {
  const MemberRow<Sync>& row = rows_[slot];
  uint64_t word = row.word.load(std::memory_order_acquire);  // Step 5.
  for (;;) {
    Member member;
    MemberIdentity& identity = member.identity;
    // Step 6. Acquire, so that the second look at the word comes last.
    const uint64_t pid_and_uid = row.pid_and_uid.load(std::memory_order_acquire);
    identity.pid = static_cast<uint32_t>(pid_and_uid);
    identity.uid = static_cast<uint32_t>(pid_and_uid >> 32);
    identity.start_time = row.start_time.load(std::memory_order_acquire);
    identity.pid_namespace = row.pid_namespace.load(std::memory_order_acquire);
    identity.joined_at_ns = row.joined_at_ns.load(std::memory_order_acquire);
    identity.build_hash = row.build_hash.load(std::memory_order_acquire);
    for (size_t i = 0; i < std::size(row.name); ++i) {
      const uint64_t part = row.name[i].load(std::memory_order_acquire);
      std::memcpy(identity.name.data() + i * sizeof(part), &part, sizeof(part));
    }
    const uint64_t again = row.word.load(std::memory_order_acquire);
    if (again == word) {
      member.word = MemberWord::FromPacked(word);
      return member;
    }
    word = again;
  }
}

template <class Sync>
std::optional<MemberId> MemberTable<Sync>::Publish(uint32_t slot, const MemberIdentity& identity) {
  HANDOFF_CHECK(slot > 0 && slot < kMaxMembers) << "slot " << slot;
  MemberRow<Sync>& row = rows_[slot];
  const MemberWord word = Word(slot);  // Step 1.
  if (word.state != MemberState::kFree) return std::nullopt;
  // Step 2. Release: whoever sees one of these also sees the row free, hence no longer at an
  // earlier epoch.
  row.pid_and_uid.store(uint64_t{identity.uid} << 32 | identity.pid, std::memory_order_release);
  row.start_time.store(identity.start_time, std::memory_order_release);
  row.pid_namespace.store(identity.pid_namespace, std::memory_order_release);
  row.joined_at_ns.store(identity.joined_at_ns, std::memory_order_release);
  row.build_hash.store(identity.build_hash, std::memory_order_release);
  for (size_t i = 0; i < std::size(row.name); ++i) {
    uint64_t part;
    std::memcpy(&part, identity.name.data() + i * sizeof(part), sizeof(part));
    row.name[i].store(part, std::memory_order_release);
  }
  internal::RaiseTo(header_->slots_used, uint64_t{slot} + 1);                    // Step 3.
  if (!Move(slot, word, {word.epoch, MemberState::kLive})) return std::nullopt;  // Step 4.
  return MemberId{slot, word.epoch};
}

template <class Sync>
bool MemberTable<Sync>::MarkDead(MemberId member) {
  if (member.slot >= kMaxMembers) return false;
  const MemberWord dead = {member.epoch, MemberState::kDead};
  return Move(member.slot, {member.epoch, MemberState::kLive}, dead) ||
         Word(member.slot) == dead;  // Step 7.
}

template <class Sync>
bool MemberTable<Sync>::Free(MemberId member) {
  return member.slot < kMaxMembers && Move(member.slot, {member.epoch, MemberState::kDead},
                                           {member.epoch + 1, MemberState::kFree});  // Step 8.
}

}  // namespace handoff

#endif  // HANDOFF_CONTROL_QUEUE_MEMBER_TABLE_H_

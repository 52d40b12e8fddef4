// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_PLAIN_RINGS_H_
#define HANDOFF_ALLOCATOR_TESTING_PLAIN_RINGS_H_

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "allocator/hold_moves.h"
#include "allocator/part_name.h"
#include "allocator/ring_table.h"
#include "base/check.h"
#include "control_queue/member_table.h"

namespace handoff {

// Shared anonymous memory for a ring table, a member table and some holds, without a session. A
// child forked by a test sees the same memory.
class PlainRings {
 public:
  static constexpr uint32_t kHolds = 64;

  PlainRings()
      : table_(Map(kRingTableBytes)),
        data_(Map(kRingDataBytes)),
        rows_(Map(MemberTable<RealSync>::BytesNeeded())),
        holds_(reinterpret_cast<std::atomic<uint64_t>*>(
            Map(kHolds * sizeof(std::atomic<uint64_t>)).data())),
        members_(rows_) {}
  ~PlainRings() {
    for (const auto& map : maps_) munmap(map.data(), map.size());
  }
  PlainRings(const PlainRings&) = delete;
  PlainRings& operator=(const PlainRings&) = delete;

  // How RingTable finds the holds; row i names hold i.
  class Names {
   public:
    using Word = HoldMoves<RealSync>::Word;
    explicit Names(std::atomic<uint64_t>* holds) : holds_(holds) {}
    Word* Find(const PartName& name) const {
      return name.kind == PartKind::kBlock && name.row < kHolds ? &holds_[name.row] : nullptr;
    }
    bool Release(const PartName& name, HoldWord seen) const {
      Word* word = Find(name);
      return word != nullptr && HoldMoves<RealSync>::Swap(*word, seen, seen.Freed());
    }

   private:
    std::atomic<uint64_t>* holds_;
  };
  Names names() const { return Names(holds_); }
  HoldWord hold(uint32_t i) const { return HoldMoves<RealSync>::Load(holds_[i]); }
  std::atomic<uint64_t>& hold_word(uint32_t i) const { return holds_[i]; }

  MemberTable<RealSync>& members() { return members_; }
  // The entries of the ring in this row.
  std::span<std::byte> ring_window(uint32_t row) const {
    return data_.subspan(row * kRingWindowBytes, kRingWindowBytes);
  }
  RingTableLayout& layout() { return *reinterpret_cast<RingTableLayout*>(table_.data()); }

  // A new member in `slot`, and the table as it uses it.
  std::unique_ptr<RingTable> Join(uint32_t slot) {
    const auto self = members_.Publish(slot, MemberIdentity{});
    HANDOFF_CHECK(self.has_value()) << "slot " << slot;
    RingTableParts parts;
    parts.table = table_;
    parts.data = data_;
    parts.self = *self;
    parts.members = &members_;
    auto table = RingTable::Attach(std::move(parts));
    HANDOFF_CHECK(table.ok()) << table.status().ToString();
    return *std::move(table);
  }

  // Hold i: allocated, marked and published by `from`; its name.
  PartName Send(uint32_t i, MemberId from, MemberId to, RingProducer<RealSync>& producer) {
    const auto held = HoldMoves<RealSync>::Allocate(holds_[i], from.slot);
    HANDOFF_CHECK(held.has_value()) << "hold " << i;
    const HoldWord sent = HoldMoves<RealSync>::Mark(holds_[i], *held, to.slot);
    const PartName name{PartKind::kBlock, 0, i, sent.generation(), 1};
    const PartName::Words words = name.Packed();
    HANDOFF_CHECK(producer.HasRoom() == RingLook::kReady);
    producer.Publish({words.word, words.tag});
    return name;
  }

  // What a survivor does when it has found that `victim` is dead; the row is free afterwards.
  void Reclaim(RingTable& by, MemberId victim) {
    members_.MarkDead(victim);
    by.Reclaim(victim, names());
    for (uint32_t i = 0; i < kHolds; ++i) {
      HoldWord seen = hold(i);
      const bool dead = seen.IsHeldBy(victim.slot) ||
                        (seen.state() == HoldState::kSent &&
                         (seen.holder() == victim.slot ||
                          (seen.holder() == kNobody && seen.receiver() == victim.slot)));
      if (dead) HoldMoves<RealSync>::Swap(holds_[i], seen, seen.Freed());
    }
    members_.Free(victim);
  }

 private:
  std::span<std::byte> Map(uint64_t bytes) {
    void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HANDOFF_CHECK(address != MAP_FAILED);
    maps_.emplace_back(static_cast<std::byte*>(address), bytes);
    return maps_.back();
  }

  std::vector<std::span<std::byte>> maps_;
  const std::span<std::byte> table_;
  const std::span<std::byte> data_;
  const std::span<std::byte> rows_;
  std::atomic<uint64_t>* const holds_;
  MemberTable<RealSync> members_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_PLAIN_RINGS_H_

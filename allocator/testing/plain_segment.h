// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_PLAIN_SEGMENT_H_
#define HANDOFF_ALLOCATOR_TESTING_PLAIN_SEGMENT_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "allocator/segment.h"
#include "base/check.h"

namespace handoff {

// Shared anonymous memory for one segment and a member table, without a session: what tests of the
// heap run on. A child forked by a test sees the same memory.
class PlainSegmentMemory {
 public:
  // Refuses to reserve payload beyond `payload_limit_bytes`, like a full file system.
  explicit PlainSegmentMemory(uint64_t size_bytes, uint64_t payload_limit_bytes = UINT64_MAX)
      : payload_limit_bytes_(payload_limit_bytes),
        area_(Map(SegmentAreaBytes(size_bytes), kPageBytes)),
        payload_(Map(size_bytes, kMaxAlignment)),
        rows_(Map(MemberTable<RealSync>::BytesNeeded(), kPageBytes)),
        members_(rows_) {
    Backing backing(payload_limit_bytes_);
    HANDOFF_CHECK(Segment::Initialize(area_, size_bytes, backing).ok());
  }
  ~PlainSegmentMemory() {
    for (const auto& [address, bytes] : maps_) munmap(address, bytes);
  }
  PlainSegmentMemory(const PlainSegmentMemory&) = delete;
  PlainSegmentMemory& operator=(const PlainSegmentMemory&) = delete;

  MemberTable<RealSync>& members() { return members_; }
  // The tables of the segment, byte by byte.
  std::span<std::byte> area() const { return area_; }
  // The member table.
  std::span<std::byte> rows() const { return rows_; }
  SegmentView<RealSync> view() const {
    return SegmentView<RealSync>(area_.data(), payload_.size() / kPageBytes);
  }

  // A new member in `slot`, and the segment as it uses it.
  std::unique_ptr<Segment> Join(uint32_t slot) {
    const auto self = members_.Publish(slot, MemberIdentity{});
    HANDOFF_CHECK(self.has_value()) << "slot " << slot;
    return Attach(*self);
  }
  std::unique_ptr<Segment> Attach(MemberId self) {
    SegmentParts parts;
    parts.name = "plain";
    parts.payload = payload_;
    parts.area = area_;
    parts.backing = std::make_unique<Backing>(payload_limit_bytes_);
    parts.self = self;
    parts.members = &members_;
    auto segment = Segment::Attach(std::move(parts));
    HANDOFF_CHECK(segment.ok()) << segment.status().ToString();
    return *std::move(segment);
  }

  // What a survivor does when it has found that `victim` is dead; the row is free afterwards.
  ReclaimCount Reclaim(Segment& by, MemberId victim) {
    ReclaimCount count;
    members_.MarkDead(victim);
    by.Reclaim(victim, &count);
    members_.Free(victim);
    return count;
  }

 private:
  class Backing : public SegmentBacking {
   public:
    explicit Backing(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
    absl::Status ReservePayload(uint64_t offset, uint64_t length) override {
      if (offset + length > limit_bytes_) return absl::ResourceExhaustedError("no room left");
      return absl::OkStatus();
    }
    absl::Status ReserveArea(uint64_t, uint64_t) override { return absl::OkStatus(); }

   private:
    const uint64_t limit_bytes_;
  };

  // Between pages that nobody may touch, so that a step outside ends the test.
  std::span<std::byte> Map(uint64_t bytes, uint64_t alignment) {
    const uint64_t reserved = bytes + alignment + 2 * kPageBytes;
    void* address =
        mmap(nullptr, reserved, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HANDOFF_CHECK(address != MAP_FAILED);
    maps_.emplace_back(address, reserved);
    const uintptr_t begin =
        (reinterpret_cast<uintptr_t>(address) + kPageBytes + alignment - 1) / alignment * alignment;
    auto* const bytes_begin = reinterpret_cast<std::byte*>(begin);
    HANDOFF_CHECK(mprotect(bytes_begin, bytes, PROT_READ | PROT_WRITE) == 0);
    return {bytes_begin, bytes};
  }

  std::vector<std::pair<void*, uint64_t>> maps_;
  const uint64_t payload_limit_bytes_;
  const std::span<std::byte> area_;
  const std::span<std::byte> payload_;
  const std::span<std::byte> rows_;
  MemberTable<RealSync> members_;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_PLAIN_SEGMENT_H_

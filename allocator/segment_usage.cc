// SPDX-License-Identifier: Apache-2.0
#include "allocator/segment_usage.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "allocator/hold_moves.h"
#include "base/byte_size.h"

namespace handoff {

namespace {

// "camera, pid 812: ". The name comes from another process: nothing that could move a cursor.
std::string DescribeMember(const MemberTable<RealSync>& members, uint32_t slot) {
  const MemberTable<RealSync>::Member row = members.Load(slot);
  if (row.word.state == MemberState::kFree || row.identity.pid == 0) return "";
  std::string name(row.identity.NameView());
  for (char& c : name) {
    if (c < ' ' || c > '~') c = '?';
  }
  return absl::StrCat(name, ", pid ", row.identity.pid, ": ");
}

}  // namespace

std::vector<uint32_t> SegmentUsage::TopHolders(size_t count) const {
  const auto bytes = [this](uint32_t slot) {
    return members[slot].held_bytes + members[slot].sent_bytes;
  };
  std::vector<uint32_t> slots;
  for (uint32_t slot = 0; slot < kMaxMembers; ++slot) {
    if (bytes(slot) > 0) slots.push_back(slot);
  }
  std::sort(slots.begin(), slots.end(),
            [&](uint32_t a, uint32_t b) { return bytes(a) > bytes(b); });
  if (slots.size() > count) slots.resize(count);
  return slots;
}

SegmentUsage ScanUsage(const SegmentView<RealSync>& view) {
  SegmentUsage usage;
  usage.size_bytes = view.page_count() * kPageBytes;
  std::map<uint32_t, SegmentUsage::SpansOfClass> classes;
  uint64_t free_run = 0;  // bytes up to here that are free, or wholly free spans
  const auto end_free_run = [&] {
    usage.largest_free_bytes = std::max(usage.largest_free_bytes, free_run);
    free_run = 0;
  };
  const uint32_t backed = view.backed_pages();
  for (uint32_t page = 0; page < backed;) {
    const PageWord head = view.LoadPage(page);
    if (head.IsFree()) {
      free_run += kPageBytes;
      ++page;
      continue;
    }
    if (!head.IsHead() || head.IsPending()) {  // changing hands just now
      end_free_run();
      ++page;
      continue;
    }
    const bool small = head.size_class() < kSmallClassCount;
    const uint32_t pages = small ? kSizeClasses[head.size_class()].pages
                                 : std::max(uint32_t{1}, view.LoadRun(page).PagesOf(head));
    const uint64_t block_bytes =
        small ? kSizeClasses[head.size_class()].block_bytes : pages * kPageBytes;
    const uint32_t count = view.BlockCount(page, head);
    uint32_t used = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const HoldWord hold = HoldMoves<RealSync>::Load(view.HoldAt(page, head, i));
      if (hold.IsFree()) continue;
      ++used;
      const bool under_way = hold.state() == HoldState::kSent || hold.state() == HoldState::kPosted;
      if (under_way && hold.holder() == kNobody) {
        ++usage.nobodys_blocks;
        usage.nobodys_bytes += block_bytes;
      }
      if (hold.holder() >= kMaxMembers) continue;
      MemberUsage& member = usage.members[hold.holder()];
      if (hold.state() == HoldState::kHeld) {
        ++member.held_blocks;
        member.held_bytes += block_bytes;
      } else if (under_way) {
        ++member.sent_blocks;
        member.sent_bytes += block_bytes;
      }
    }
    usage.used_blocks += used;
    usage.used_bytes += used * block_bytes;
    if (head.state() == PageState::kOwnerless) {
      usage.ownerless_blocks += used;
    } else if (head.owner() < kMaxMembers) {
      usage.members[head.owner()].span_bytes += pages * kPageBytes;
    }
    auto& of_class = classes[head.size_class()];
    of_class.size_class = head.size_class();
    ++of_class.spans;
    of_class.bytes += pages * kPageBytes;
    of_class.used_blocks += used;
    if (used == 0) {
      free_run += pages * kPageBytes;
    } else {
      end_free_run();
      if (small && used < count) {
        usage.largest_free_bytes = std::max(usage.largest_free_bytes, block_bytes);
      }
    }
    page += pages;
  }
  free_run += (view.page_count() - backed) * kPageBytes;
  end_free_run();
  usage.free_bytes = usage.size_bytes - std::min(usage.size_bytes, usage.used_bytes);
  for (const auto& [size_class, spans] : classes) usage.classes.push_back(spans);
  return usage;
}

std::string DescribeShortage(const SegmentUsage& usage, uint64_t requested_bytes,
                             const MemberTable<RealSync>* members) {
  std::string text =
      absl::StrCat("requested ", FormatByteSize(requested_bytes), "; ",
                   FormatByteSize(usage.free_bytes), " of ", FormatByteSize(usage.size_bytes),
                   " free, largest free block ", FormatByteSize(usage.largest_free_bytes));
  const std::vector<uint32_t> top = usage.TopHolders(3);
  if (!top.empty()) absl::StrAppend(&text, "; most is held by");
  const char* separator = " ";
  for (uint32_t slot : top) {
    const MemberUsage& member = usage.members[slot];
    absl::StrAppend(&text, separator, "member ", slot, " (",
                    members == nullptr ? "" : DescribeMember(*members, slot),
                    FormatByteSize(member.held_bytes + member.sent_bytes), " in ",
                    member.held_blocks + member.sent_blocks, " blocks)");
    separator = ", ";
  }
  return text;
}

}  // namespace handoff

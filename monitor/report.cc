// SPDX-License-Identifier: Apache-2.0
#include "monitor/report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "allocator/size_class.h"
#include "base/byte_size.h"
#include "nlohmann/json.hpp"

namespace handoff {

namespace {

using nlohmann::ordered_json;

const char* StateName(SessionState state) {
  switch (state) {
    case SessionState::kAbsent:
      return "absent";
    case SessionState::kHalfMade:
      return "half made";
    case SessionState::kOtherBuild:
      return "of another build";
    case SessionState::kUsable:
      return "usable";
  }
  return "?";
}

const char* MemberStateName(const MemberSnapshot& member) {
  if (!member.row_live) return "dead, being reclaimed";
  if (!member.lock_held) return "dead, not reclaimed yet";
  if (member.process_stopped) return "stopped";
  return member.stalled ? "stalled" : "alive";
}

// What the two numbers of an event say, by its kind; see EventKind.
std::string DescribeArguments(const Event& event) {
  const uint64_t first = event.arguments[0];
  const uint64_t second = event.arguments[1];
  switch (event.kind) {
    case EventKind::kMemberJoined:
    case EventKind::kMemberLeft:
    case EventKind::kMemberDied:
      return absl::StrCat("pid ", first);
    case EventKind::kSegmentCreated:
    case EventKind::kSegmentRemoved:
    case EventKind::kRegionCreated:
    case EventKind::kRegionRemoved:
      return absl::StrCat("id ", first, ", ", FormatByteSize(second));
    case EventKind::kMemoryLow:
      return absl::StrCat("segment ", first, ", ", FormatByteSize(second), " free");
    case EventKind::kBlocksReclaimed:
      return absl::StrCat(first, " blocks, ", FormatByteSize(second));
    case EventKind::kStaleHandles:
      return absl::StrCat(first);
    case EventKind::kObjectsRemoved:
      break;
  }
  return "";
}

// Since an event; none if clocks or a peer's numbers say that it is to come.
double SecondsSince(const Event& event, uint64_t now_ns) {
  return event.time_ns < now_ns ? static_cast<double>(now_ns - event.time_ns) * 1e-9 : 0;
}

MemberUsage UsageOf(const SessionSnapshot& snapshot, uint32_t slot) {
  MemberUsage total;
  for (const SegmentSnapshot& segment : snapshot.segments) {
    const MemberUsage& part = segment.usage.members[slot];
    total.held_blocks += part.held_blocks;
    total.held_bytes += part.held_bytes;
    total.sent_blocks += part.sent_blocks;
    total.sent_bytes += part.sent_bytes;
    total.span_bytes += part.span_bytes;
  }
  return total;
}

// Names come from other processes: nothing that could move a terminal's cursor.
std::string Printable(std::string_view text) {
  std::string printable;
  for (const char c : text) printable += c >= ' ' && c < 127 ? c : '?';
  return printable;
}

}  // namespace

std::string ReportText(const SessionSnapshot& snapshot) {
  std::string text = absl::StrCat("session ", snapshot.session, ": ", StateName(snapshot.state));
  if (!snapshot.problem.empty()) absl::StrAppend(&text, " (", snapshot.problem, ")");
  absl::StrAppend(&text, "\n");
  if (snapshot.state == SessionState::kUsable) {
    absl::StrAppendFormat(
        &text, "nonce %016x, made by uid %d at %s\n", snapshot.nonce, snapshot.owner_uid,
        absl::FormatTime("%Y-%m-%d %H:%M:%S",
                         absl::FromUnixNanos(static_cast<int64_t>(snapshot.created_at_ns)),
                         absl::LocalTimeZone()));
    absl::StrAppendFormat(&text, "\n%-6s %-8s %-24s %-24s %10s %10s %12s %10s %12s\n", "member",
                          "pid", "name", "state", "heartbeats", "held", "bytes", "sent", "bytes");
    for (const MemberSnapshot& member : snapshot.members) {
      const MemberUsage usage = UsageOf(snapshot, member.id.slot);
      absl::StrAppendFormat(&text, "%-6d %-8d %-24s %-24s %10d %10d %12s %10d %12s\n",
                            member.id.slot, member.identity.pid,
                            Printable(member.identity.NameView()),
                            member.stalled ? absl::StrCat(MemberStateName(member), ", silent for ",
                                                          member.silence_ms, " ms or more")
                                           : MemberStateName(member),
                            member.heartbeats, usage.held_blocks, FormatByteSize(usage.held_bytes),
                            usage.sent_blocks, FormatByteSize(usage.sent_bytes));
    }
    if (snapshot.members.empty()) absl::StrAppend(&text, "none\n");
    absl::StrAppendFormat(&text, "\n%-8s %-32s %10s %10s %10s %12s %10s\n", "segment", "name",
                          "total", "used", "free", "largest free", "blocks");
    for (const SegmentSnapshot& segment : snapshot.segments) {
      const SegmentUsage& usage = segment.usage;
      absl::StrAppendFormat(&text, "%-8d %-32s %10s %10s %10s %12s %10d\n", segment.id,
                            Printable(segment.name), FormatByteSize(usage.size_bytes),
                            FormatByteSize(usage.used_bytes), FormatByteSize(usage.free_bytes),
                            FormatByteSize(usage.largest_free_bytes), usage.used_blocks);
      for (const SegmentUsage::SpansOfClass& spans : usage.classes) {
        const std::string blocks =
            spans.size_class < kSmallClassCount
                ? absl::StrCat("blocks of ", kSizeClasses[spans.size_class].block_bytes, " bytes")
                : std::string("large blocks");
        absl::StrAppendFormat(&text, "         %-32s %10s in %d spans, %d in use\n", blocks,
                              FormatByteSize(spans.bytes), spans.spans, spans.used_blocks);
      }
      if (usage.nobodys_blocks > 0) {
        absl::StrAppendFormat(&text, "         sent by members that are dead: %d blocks, %s\n",
                              usage.nobodys_blocks, FormatByteSize(usage.nobodys_bytes));
      }
      absl::StrAppendFormat(&text,
                            "         reclaimed from the dead: %d blocks, %s; failed "
                            "allocations: %d%s\n",
                            segment.reclaimed_blocks, FormatByteSize(segment.reclaimed_bytes),
                            segment.failed_allocations,
                            segment.waiters ? "; somebody waits for memory" : "");
    }
  }
  if (!snapshot.objects.empty()) {
    absl::StrAppendFormat(&text, "\n%-40s %12s %12s\n", "object", "size", "reserved");
    for (const ObjectSnapshot& object : snapshot.objects) {
      absl::StrAppendFormat(&text, "%-40s %12s %12s\n", Printable(object.name),
                            FormatByteSize(object.size_bytes),
                            FormatByteSize(object.reserved_bytes));
    }
  }
  if (!snapshot.events.empty()) {
    absl::StrAppendFormat(&text, "\n%12s  %-18s %-10s\n", "seconds ago", "event", "member");
  }
  for (const Event& event : snapshot.events) {
    const std::string member = event.member.slot == 0 ? "" : absl::StrCat(event.member.slot);
    absl::StrAppendFormat(&text, "%12.1f  %-18s %-10s %s\n",
                          SecondsSince(event, snapshot.taken_at_ns), EventKindName(event.kind),
                          member, DescribeArguments(event));
  }
  return text;
}

std::string ReportJson(const SessionSnapshot& snapshot) {
  ordered_json json;
  json["session"] = snapshot.session;
  json["state"] = StateName(snapshot.state);
  if (!snapshot.problem.empty()) json["problem"] = snapshot.problem;
  json["nonce"] = absl::StrFormat("%016x", snapshot.nonce);
  json["created_at_ns"] = snapshot.created_at_ns;
  json["owner_uid"] = snapshot.owner_uid;
  json["members"] = ordered_json::array();
  for (const MemberSnapshot& member : snapshot.members) {
    const MemberUsage usage = UsageOf(snapshot, member.id.slot);
    json["members"].push_back({{"slot", member.id.slot},
                               {"epoch", member.id.epoch},
                               {"pid", member.identity.pid},
                               {"uid", member.identity.uid},
                               {"name", Printable(member.identity.NameView())},
                               {"state", MemberStateName(member)},
                               {"joined_at_ns", member.identity.joined_at_ns},
                               {"heartbeats", member.heartbeats},
                               {"stalled", member.stalled},
                               {"silence_ms", member.silence_ms},
                               {"held_blocks", usage.held_blocks},
                               {"held_bytes", usage.held_bytes},
                               {"sent_blocks", usage.sent_blocks},
                               {"sent_bytes", usage.sent_bytes},
                               {"span_bytes", usage.span_bytes}});
  }
  json["segments"] = ordered_json::array();
  for (const SegmentSnapshot& segment : snapshot.segments) {
    const SegmentUsage& usage = segment.usage;
    ordered_json classes = ordered_json::array();
    for (const SegmentUsage::SpansOfClass& spans : usage.classes) {
      classes.push_back(
          {{"block_bytes",
            spans.size_class < kSmallClassCount ? kSizeClasses[spans.size_class].block_bytes : 0},
           {"spans", spans.spans},
           {"bytes", spans.bytes},
           {"used_blocks", spans.used_blocks}});
    }
    json["segments"].push_back({{"id", segment.id},
                                {"name", segment.name},
                                {"size_bytes", usage.size_bytes},
                                {"used_bytes", usage.used_bytes},
                                {"free_bytes", usage.free_bytes},
                                {"largest_free_bytes", usage.largest_free_bytes},
                                {"used_blocks", usage.used_blocks},
                                {"ownerless_blocks", usage.ownerless_blocks},
                                {"nobodys_blocks", usage.nobodys_blocks},
                                {"nobodys_bytes", usage.nobodys_bytes},
                                {"reserved_bytes", segment.reserved_bytes},
                                {"reclaimed_blocks", segment.reclaimed_blocks},
                                {"reclaimed_bytes", segment.reclaimed_bytes},
                                {"failed_allocations", segment.failed_allocations},
                                {"waiters", segment.waiters},
                                {"classes", std::move(classes)}});
  }
  json["objects"] = ordered_json::array();
  for (const ObjectSnapshot& object : snapshot.objects) {
    json["objects"].push_back({{"name", object.name},
                               {"size_bytes", object.size_bytes},
                               {"reserved_bytes", object.reserved_bytes}});
  }
  json["events"] = ordered_json::array();
  for (const Event& event : snapshot.events) {
    json["events"].push_back({{"kind", EventKindName(event.kind)},
                              {"seconds_ago", SecondsSince(event, snapshot.taken_at_ns)},
                              {"slot", event.member.slot},
                              {"epoch", event.member.epoch},
                              {"arguments", event.arguments}});
  }
  return json.dump(2);
}

}  // namespace handoff

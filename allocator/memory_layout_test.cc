// SPDX-License-Identifier: Apache-2.0
// docs/memory_layout.md says where every field of every shared object is: as the compiler has it.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "allocator/management_layout.h"
#include "allocator/ring_layout.h"
#include "allocator/segment_layout.h"
#include "allocator/share_group.h"
#include "base/sync.h"
#include "control_queue/control_queue_layout.h"
#include "control_queue/event_log.h"
#include "control_queue/heartbeat.h"
#include "control_queue/member_table.h"
#include "control_queue/spsc_ring.h"

namespace handoff {
namespace {

struct Field {
  std::string name;
  uint64_t offset_bytes;
  uint64_t width_bytes;

  friend bool operator==(const Field&, const Field&) = default;
  friend void PrintTo(const Field& field, std::ostream* out) {
    *out << field.name << " at " << field.offset_bytes << ", " << field.width_bytes << " bytes";
  }
};
struct Struct {
  uint64_t size_bytes = 0;
  std::vector<Field> fields;
};
using Layouts = std::map<std::string, Struct>;

// Rows "| offset | width | `field` | meaning |" under headings "### `Struct`, N bytes".
Layouts Documented() {
  Layouts layouts;
  std::ifstream file("docs/memory_layout.md");
  EXPECT_TRUE(file.good());
  Struct* current = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("#", 0) == 0) current = nullptr;
    if (line.rfind("### `", 0) == 0) {
      const size_t end = line.find('`', 5);
      current = &layouts[line.substr(5, end - 5)];
      std::istringstream(line.substr(end + 2)) >> current->size_bytes;
    }
    char bar = 0;
    Field field;
    std::istringstream row(line);
    if (current == nullptr || !(row >> bar >> field.offset_bytes >> bar >> field.width_bytes)) {
      continue;
    }
    const size_t begin = line.find('`') + 1;
    field.name = line.substr(begin, line.find('`', begin) - begin);
    current->fields.push_back(field);
  }
  return layouts;
}

#define HANDOFF_FIELD(field) \
  Field { #field, offsetof(Type, field), sizeof(Type::field) }

Layouts Compiled() {
  Layouts layouts;
  {
    using Type = ManagementLayout;
    layouts["ManagementLayout"] = {
        sizeof(Type), {HANDOFF_FIELD(header), HANDOFF_FIELD(segments), HANDOFF_FIELD(members)}};
  }
  {
    using Type = ManagementHeader;
    layouts["ManagementHeader"] = {
        sizeof(Type),
        {HANDOFF_FIELD(object), HANDOFF_FIELD(fences), HANDOFF_FIELD(area_end),
         HANDOFF_FIELD(areas), HANDOFF_FIELD(lock_inode), HANDOFF_FIELD(group_plus_one),
         HANDOFF_FIELD(main_segment)}};
  }
  {
    using Type = ObjectHeader;
    layouts["ObjectHeader"] = {
        sizeof(Type),
        {HANDOFF_FIELD(magic), HANDOFF_FIELD(layout_version), HANDOFF_FIELD(ready),
         HANDOFF_FIELD(build_hash), HANDOFF_FIELD(nonce), HANDOFF_FIELD(fixed_bytes),
         HANDOFF_FIELD(created_at_ns), HANDOFF_FIELD(owner_uid), HANDOFF_FIELD(creator_pid)}};
  }
  {
    using Type = AreaEntry;
    layouts["AreaEntry"] = {sizeof(Type), {HANDOFF_FIELD(offset_bytes), HANDOFF_FIELD(size_bytes)}};
  }
  {
    using Type = SegmentRow;
    layouts["SegmentRow"] = {
        sizeof(Type),
        {HANDOFF_FIELD(word), HANDOFF_FIELD(size_bytes), HANDOFF_FIELD(area_offset_bytes),
         HANDOFF_FIELD(area_size_bytes), HANDOFF_FIELD(id), HANDOFF_FIELD(flags)}};
  }
  {
    using Type = MemberTableHeader<RealSync>;
    layouts["MemberTableHeader"] = {sizeof(Type),
                                    {HANDOFF_FIELD(slots_used), HANDOFF_FIELD(changes)}};
  }
  {
    using Type = MemberRow<RealSync>;
    layouts["MemberRow"] = {
        sizeof(Type),
        {HANDOFF_FIELD(word), HANDOFF_FIELD(pid_and_uid), HANDOFF_FIELD(start_time),
         HANDOFF_FIELD(pid_namespace), HANDOFF_FIELD(joined_at_ns), HANDOFF_FIELD(build_hash),
         HANDOFF_FIELD(name)}};
  }
  {
    using Type = SegmentHeader<RealSync>;
    layouts["SegmentHeader"] = {
        sizeof(Type),
        {HANDOFF_FIELD(magic), HANDOFF_FIELD(size_bytes), HANDOFF_FIELD(page_count),
         HANDOFF_FIELD(backed_pages), HANDOFF_FIELD(ownerless), HANDOFF_FIELD(waiters),
         HANDOFF_FIELD(wake_sequence), HANDOFF_FIELD(reclaimed_blocks),
         HANDOFF_FIELD(reclaimed_bytes), HANDOFF_FIELD(failed_allocations), HANDOFF_FIELD(waiting),
         HANDOFF_FIELD(mapped)}};
  }
  {
    using Type = GroupTarget<RealSync>;
    layouts["GroupTarget"] = {
        sizeof(Type), {HANDOFF_FIELD(name), HANDOFF_FIELD(word_count), HANDOFF_FIELD(spare)}};
  }
  {
    using Type = RingTableLayout;
    layouts["RingTableLayout"] = {sizeof(Type),
                                  {HANDOFF_FIELD(header), HANDOFF_FIELD(endpoints),
                                   HANDOFF_FIELD(rings), HANDOFF_FIELD(topics)}};
  }
  {
    using Type = RingTableHeader;
    layouts["RingTableHeader"] = {sizeof(Type),
                                  {HANDOFF_FIELD(magic), HANDOFF_FIELD(endpoints_used),
                                   HANDOFF_FIELD(rings_used), HANDOFF_FIELD(changes)}};
  }
  {
    using Type = EndpointRow;
    layouts["EndpointRow"] = {
        sizeof(Type),
        {HANDOFF_FIELD(word), HANDOFF_FIELD(member), HANDOFF_FIELD(options),
         HANDOFF_FIELD(name_bytes), HANDOFF_FIELD(name), HANDOFF_FIELD(door)}};
  }
  {
    using Type = TopicRow;
    layouts["TopicRow"] = {sizeof(Type), {HANDOFF_FIELD(count), HANDOFF_FIELD(topics)}};
  }
  {
    using Type = RingRow;
    layouts["RingRow"] = {sizeof(Type),
                          {HANDOFF_FIELD(header), HANDOFF_FIELD(producer), HANDOFF_FIELD(consumer),
                           HANDOFF_FIELD(entries_shift)}};
  }
  {
    using Type = RingHeader<RealSync>;
    layouts["RingHeader"] = {
        sizeof(Type),
        {HANDOFF_FIELD(word), HANDOFF_FIELD(producer), HANDOFF_FIELD(consumer),
         HANDOFF_FIELD(take_back_from_living), HANDOFF_FIELD(consumer_sleeping),
         HANDOFF_FIELD(producer_sleeping), HANDOFF_FIELD(head)}};
  }
  {
    using Type = RingEntry<RealSync>;
    layouts["RingEntry"] = {sizeof(Type), {HANDOFF_FIELD(word), HANDOFF_FIELD(seal)}};
  }
  {
    using Type = ControlQueueHeader;
    layouts["ControlQueueHeader"] = {sizeof(Type),
                                     {HANDOFF_FIELD(magic), HANDOFF_FIELD(layout_version),
                                      HANDOFF_FIELD(member_slots), HANDOFF_FIELD(size_bytes)}};
  }
  {
    using Type = Heartbeat<RealSync>;
    layouts["Heartbeat"] = {sizeof(Type), {HANDOFF_FIELD(beats)}};
  }
  {
    using Type = EventLogHeader<RealSync>;
    layouts["EventLogHeader"] = {sizeof(Type), {HANDOFF_FIELD(rings_used)}};
  }
  {
    using Type = EventRecord<RealSync>;
    layouts["EventRecord"] = {
        sizeof(Type),
        {HANDOFF_FIELD(sequence), HANDOFF_FIELD(time_ns), HANDOFF_FIELD(member),
         HANDOFF_FIELD(arguments), HANDOFF_FIELD(kind)}};
  }
  return layouts;
}

TEST(MemoryLayoutTest, IsWhatItsDocumentSays) {
  const Layouts documented = Documented();
  const Layouts compiled = Compiled();
  for (const auto& [name, layout] : compiled) {
    const auto found = documented.find(name);
    ASSERT_NE(found, documented.end()) << name;
    EXPECT_EQ(found->second.size_bytes, layout.size_bytes) << name;
    EXPECT_EQ(found->second.fields, layout.fields) << name;
  }
  EXPECT_EQ(documented.size(), compiled.size());
}

TEST(MemoryLayoutTest, SectionsOfAnAreaFollowEachOther) {
  const SegmentAreaLayout layout(1024);
  EXPECT_EQ(layout.page_words, 4096u);
  EXPECT_EQ(layout.large_rows, 4096u + 8 * 1024);
  EXPECT_EQ(layout.small_holds, 4096u + 24 * 1024);
  EXPECT_EQ(layout.end, 4096u + 24 * 1024 + 512 * 1024);
}

}  // namespace
}  // namespace handoff

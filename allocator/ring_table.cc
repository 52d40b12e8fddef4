// SPDX-License-Identifier: Apache-2.0
#include "allocator/ring_table.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/futex.h"
#include "control_queue/atomic_max.h"

namespace handoff {

namespace {

uint64_t PackOptions(const EndpointOptions& options, uint32_t door) {
  return uint64_t{door & 0xFFFF} << 48 | uint64_t{options.capacity & 0xFFFFFF} << 24 |
         uint64_t{options.policy} << 16 | uint64_t{options.bound ? 1u : 0u} << 8 | options.pattern;
}

EndpointOptions UnpackOptions(uint64_t packed) {
  EndpointOptions options;
  options.pattern = static_cast<uint8_t>(packed);
  options.bound = (packed >> 8 & 0xFF) != 0;
  options.policy = static_cast<uint8_t>(packed >> 16);
  options.capacity =
      std::clamp(static_cast<uint32_t>(packed >> 24 & 0xFFFFFF), 1u, kMaxRingEntries);
  return options;
}

uint64_t OffsetOf(const RingTableLayout* layout, const void* row) {
  return static_cast<uint64_t>(static_cast<const std::byte*>(row) -
                               reinterpret_cast<const std::byte*>(layout));
}

// Release, as all fields of a row (Add).
void StoreTopics(std::span<const std::string> topics, TopicRow* row) {
  for (size_t i = 0; i < topics.size(); ++i) {
    uint64_t words[8] = {};
    auto* bytes = reinterpret_cast<char*>(words);
    bytes[0] = static_cast<char>(topics[i].size());
    std::memcpy(bytes + 1, topics[i].data(), topics[i].size());
    for (size_t j = 0; j < 8; ++j) row->topics[i][j].store(words[j], std::memory_order_release);
  }
  row->count.store(topics.size(), std::memory_order_release);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RingTable>> RingTable::Attach(RingTableParts parts) {
  if (parts.table.size() < kRingTableBytes || parts.data.size() < kRingDataBytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "ring table of ", parts.table.size(), " bytes with data of ", parts.data.size(),
        "; this program expects ", kRingTableBytes, " and ", kRingDataBytes));
  }
  auto* layout = reinterpret_cast<RingTableLayout*>(parts.table.data());
  uint64_t magic = 0;
  // All who attach store the same.
  if (!layout->header.magic.compare_exchange_strong(magic, kRingTableMagic,
                                                    std::memory_order_acq_rel) &&
      magic != kRingTableMagic) {
    return absl::FailedPreconditionError(absl::StrCat("ring table: begins with ", absl::Hex(magic),
                                                      ", this program writes ",
                                                      absl::Hex(kRingTableMagic)));
  }
  return std::unique_ptr<RingTable>(new RingTable(std::move(parts)));
}

RingTable::RingTable(RingTableParts parts)
    : parts_(std::move(parts)), layout_(reinterpret_cast<RingTableLayout*>(parts_.table.data())) {}

absl::Status RingTable::Reserve(bool table, uint64_t offset_bytes, uint64_t length_bytes) const {
  const auto& reserve = table ? parts_.reserve_table : parts_.reserve_data;
  return reserve == nullptr ? absl::OkStatus() : reserve(offset_bytes, length_bytes);
}

uint32_t RingTable::endpoints_used() const {
  return std::min(layout_->header.endpoints_used.load(std::memory_order_acquire), kMaxEndpoints);
}

uint32_t RingTable::rings_used() const {
  return std::min(layout_->header.rings_used.load(std::memory_order_acquire), kMaxRings);
}

absl::StatusOr<uint32_t> RingTable::ClaimEndpoint(EndpointWord* word) {
  for (uint32_t row = 0; row < kMaxEndpoints; ++row) {
    if (row >= endpoints_used()) {  // 1
      for (const auto& [address, bytes] :
           {std::pair<const void*, uint64_t>(&layout_->endpoints[row], sizeof(EndpointRow)),
            std::pair<const void*, uint64_t>(&layout_->topics[row], sizeof(TopicRow))}) {
        const absl::Status status = Reserve(true, OffsetOf(layout_, address), bytes);
        if (!status.ok()) return status;
      }
      internal::RaiseTo(layout_->header.endpoints_used, row + 1);
    }
    EndpointWord seen{layout_->endpoints[row].word.load(std::memory_order_acquire)};
    if (seen.state() != EndpointState::kFree) continue;
    *word = seen.Claimed(self().slot);
    if (layout_->endpoints[row].word.compare_exchange_strong(  // 2
            seen.raw, word->raw, std::memory_order_acq_rel, std::memory_order_acquire)) {
      return row;
    }
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kMaxEndpoints, " ring endpoints of the session are in use"));
}

absl::StatusOr<EndpointId> RingTable::Add(const EndpointOptions& options,
                                          std::span<const std::string> topics) {
  if (options.name.empty() || options.name.size() > kMaxEndpointNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("ring name \"", options.name, "\" has ",
                                                   options.name.size(), " bytes; 1 to ",
                                                   kMaxEndpointNameBytes, " are possible"));
  }
  if (options.capacity == 0 || options.capacity > kMaxRingEntries) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a ring for ", options.capacity, " messages; 1 to ", kMaxRingEntries, " are possible"));
  }
  if (topics.size() > kMaxTopics) {
    return absl::ResourceExhaustedError(
        absl::StrCat(topics.size(), " topics; a subscriber may have ", kMaxTopics));
  }
  for (const std::string& topic : topics) {
    if (topic.size() <= kMaxTopicBytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("a topic of ", topic.size(), " bytes; at most ",
                                                   kMaxTopicBytes, " are possible"));
  }
  EndpointWord word;
  const absl::StatusOr<uint32_t> claimed = ClaimEndpoint(&word);
  if (!claimed.ok()) return claimed.status();
  HANDOFF_CRASH_POINT("ring_table.add.after_claim");
  EndpointRow& row = layout_->endpoints[*claimed];
  // 3. Release: whoever sees one of these also sees the word of this claim.
  row.member.store(self().Packed(), std::memory_order_release);
  const uint32_t door = options.door.has_value() ? options.door->row : *claimed;
  row.options.store(PackOptions(options, door), std::memory_order_release);
  row.name_bytes.store(options.name.size(), std::memory_order_release);
  uint64_t words[kMaxEndpointNameBytes / sizeof(uint64_t)] = {};
  std::memcpy(words, options.name.data(), options.name.size());
  for (size_t i = 0; i < std::size(words); ++i) {
    row.name[i].store(words[i], std::memory_order_release);
  }
  row.door.sleeping.store(0, std::memory_order_release);
  StoreTopics(topics, &layout_->topics[*claimed]);
  HANDOFF_CRASH_POINT("ring_table.add.after_fields");
  uint64_t expected = word.raw;
  if (!row.word.compare_exchange_strong(expected, word.MadeLive().raw, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {  // 4
    return absl::FailedPreconditionError("this member was declared dead");
  }
  HANDOFF_CRASH_POINT("ring_table.add.after_live");
  Changed();  // 5
  HANDOFF_CRASH_POINT("ring_table.add.after_changed");
  WakeAll(options.name);  // 6
  return EndpointId{*claimed, word.generation()};
}

bool RingTable::FreeEndpoint(EndpointId endpoint) {
  if (endpoint.row >= endpoints_used()) return false;
  std::atomic<uint64_t>& word = layout_->endpoints[endpoint.row].word;
  EndpointWord seen{word.load(std::memory_order_acquire)};
  return seen.generation() == endpoint.generation && seen.state() == EndpointState::kLive &&
         word.compare_exchange_strong(seen.raw, seen.Freed().raw, std::memory_order_acq_rel,
                                      std::memory_order_acquire);
}

bool RingTable::FreeEndpointsOf(MemberId victim, std::vector<std::string>* names) {
  bool freed = false;
  for (uint32_t row = 0, end = endpoints_used(); row < end; ++row) {
    std::atomic<uint64_t>& word = layout_->endpoints[row].word;
    EndpointWord seen{word.load(std::memory_order_acquire)};
    if (seen.state() == EndpointState::kFree || seen.maker() != victim.slot) continue;
    const std::optional<EndpointInfo> info = Look(row);
    // The word names the slot; it is the victim's as long as the row of the slot has not moved on.
    if (!StillDead(victim)) return freed;
    if (!word.compare_exchange_strong(seen.raw, seen.Freed().raw, std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
      continue;
    }
    HANDOFF_CRASH_POINT("ring_table.reclaim.after_endpoint");
    freed = true;
    if (info.has_value()) names->push_back(info->options.name);
  }
  return freed;
}

std::optional<EndpointInfo> RingTable::Look(uint32_t row) const {
  if (row >= endpoints_used()) return std::nullopt;
  const EndpointRow& endpoint = layout_->endpoints[row];
  EndpointWord word{endpoint.word.load(std::memory_order_acquire)};
  while (word.state() == EndpointState::kLive) {
    EndpointInfo info;
    info.id = {row, word.generation()};
    // Acquire, so that the second look at the word comes last.
    info.member = MemberId::FromPacked(endpoint.member.load(std::memory_order_acquire));
    const uint64_t packed = endpoint.options.load(std::memory_order_acquire);
    info.options = UnpackOptions(packed);
    const uint32_t door_row = static_cast<uint32_t>(packed >> 48);
    const uint64_t bytes = std::min<uint64_t>(endpoint.name_bytes.load(std::memory_order_acquire),
                                              kMaxEndpointNameBytes);
    char name[kMaxEndpointNameBytes];
    for (size_t i = 0; i < std::size(endpoint.name); ++i) {
      const uint64_t part = endpoint.name[i].load(std::memory_order_acquire);
      std::memcpy(name + i * sizeof(part), &part, sizeof(part));
    }
    info.options.name.assign(name, bytes);
    info.options.door = EndpointId{door_row, 0};
    const EndpointWord again{endpoint.word.load(std::memory_order_acquire)};
    if (again == word) return info;
    word = again;
  }
  return std::nullopt;
}

bool RingTable::IsLive(EndpointId endpoint) const {
  if (endpoint.row >= endpoints_used()) return false;
  const EndpointWord word{layout_->endpoints[endpoint.row].word.load(std::memory_order_acquire)};
  return word.state() == EndpointState::kLive && word.generation() == endpoint.generation;
}

std::vector<EndpointInfo> RingTable::Find(std::string_view name) const {
  std::vector<EndpointInfo> found;
  for (uint32_t row = 0, end = endpoints_used(); row < end; ++row) {
    std::optional<EndpointInfo> info = Look(row);
    if (info.has_value() && info->options.name == name) found.push_back(*std::move(info));
  }
  return found;
}

std::optional<std::vector<std::string>> RingTable::TopicsOf(EndpointId endpoint) const {
  if (!IsLive(endpoint)) return std::nullopt;
  const TopicRow& from = layout_->topics[endpoint.row];
  // Acquire, so that the second look at the word comes last.
  const uint64_t count = std::min<uint64_t>(from.count.load(std::memory_order_acquire), kMaxTopics);
  std::vector<std::string> topics;
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t words[8];
    for (size_t j = 0; j < 8; ++j) words[j] = from.topics[i][j].load(std::memory_order_acquire);
    const auto* bytes = reinterpret_cast<const char*>(words);
    topics.emplace_back(bytes + 1,
                        std::min<size_t>(static_cast<uint8_t>(bytes[0]), kMaxTopicBytes));
  }
  if (!IsLive(endpoint)) return std::nullopt;
  return topics;
}

Door& RingTable::DoorOf(uint32_t row) const {
  static constinit Door nobodys{};
  if (row >= endpoints_used()) return nobodys;
  const uint64_t packed = layout_->endpoints[row].options.load(std::memory_order_acquire);
  const uint32_t door = static_cast<uint32_t>(packed >> 48);
  return layout_->endpoints[door < endpoints_used() ? door : row].door;
}

void RingTable::WakeSleeper(Door& door) {
  const uint32_t sleeping = door.sleeping.exchange(0, std::memory_order_acq_rel);
  HANDOFF_CRASH_POINT("ring_table.wake.after_exchange");
  if (sleeping != 0) FutexWake(door.sleeping, INT_MAX);
}

void RingTable::WakeAll(std::string_view name) const {
  RealSync::FullFence();
  for (const EndpointInfo& info : Find(name)) Wake(DoorOf(info.id.row));
}

uint64_t RingTable::EntriesOf(uint32_t row) const {
  const uint64_t shift = layout_->rings[row].entries_shift.load(std::memory_order_acquire);
  return std::min<uint64_t>(uint64_t{1} << (shift & 63), kMaxRingEntries);
}

SpscRing<RealSync> RingTable::Ring(uint32_t row, uint64_t entries) const {
  auto* window =
      reinterpret_cast<RingEntry<RealSync>*>(parts_.data.data() + row * kRingWindowBytes);
  return SpscRing<RealSync>(layout_->rings[row].header, {window, entries});
}

std::optional<RingInfo> RingTable::LookAtRing(uint32_t row) const {
  if (row >= rings_used()) return std::nullopt;
  const RingRow& ring = layout_->rings[row];
  for (;;) {
    RingInfo info;
    info.row = row;
    info.word = {ring.header.word.load(std::memory_order_acquire)};
    if (info.word.free() || info.word.opening()) return std::nullopt;
    info.entries = EntriesOf(row);
    info.producer = EndpointId::FromPacked(ring.producer.load(std::memory_order_acquire));
    info.consumer = EndpointId::FromPacked(ring.consumer.load(std::memory_order_acquire));
    const auto look = Ring(row, info.entries).Look();
    if (!look.has_value()) return std::nullopt;
    if (look->word != info.word) continue;
    info.ends = look->ends;
    return info;
  }
}

absl::StatusOr<uint32_t> RingTable::FreeRingRow(uint32_t from) {
  for (uint32_t row = from; row < kMaxRings; ++row) {
    if (row >= rings_used()) {
      const absl::Status status =
          Reserve(true, OffsetOf(layout_, &layout_->rings[row]), sizeof(RingRow));
      if (!status.ok()) return status;
      // The least that a ring can have, so that whoever looks at it may read one entry.
      if (absl::Status data = Reserve(false, row * kRingWindowBytes, 4096); !data.ok()) return data;
      internal::RaiseTo(layout_->header.rings_used, row + 1);
    }
    if (RingWord{layout_->rings[row].header.word.load(std::memory_order_acquire)}.free()) {
      return row;
    }
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kMaxRings, " rings of the session are in use"));
}

absl::StatusOr<RingInfo> RingTable::Open(EndpointId producer, const EndpointInfo& consumer,
                                         uint32_t capacity, bool take_back_from_living) {
  HANDOFF_CHECK(capacity >= 1 && capacity <= kMaxRingEntries) << "capacity " << capacity;
  RingInfo info;
  info.entries = std::bit_ceil(capacity);
  info.ends = {self(), consumer.member, take_back_from_living};
  info.producer = producer;
  info.consumer = consumer.id;
  const auto shift = static_cast<uint64_t>(std::countr_zero(info.entries));
  for (uint32_t from = 0;; from = info.row + 1) {
    const absl::StatusOr<uint32_t> row = FreeRingRow(from);
    if (!row.ok()) return row.status();
    info.row = *row;
    absl::Status status = Reserve(false, info.row * kRingWindowBytes,
                                  info.entries * sizeof(RingEntry<RealSync>));  // i
    if (!status.ok()) return status;
    SpscRing<RealSync> ring = Ring(info.row, info.entries);
    const std::optional<RingWord> word = ring.Open(self().slot, info.ends, [&] {  // ii
      RingRow& fields = layout_->rings[info.row];
      fields.entries_shift.store(shift, std::memory_order_release);
      fields.producer.store(producer.Packed(), std::memory_order_release);
      fields.consumer.store(consumer.id.Packed(), std::memory_order_release);
      HANDOFF_CRASH_POINT("ring_table.open.opening");
    });
    if (!word.has_value()) continue;
    info.word = *word;
    HANDOFF_CRASH_POINT("ring_table.open.after_open");
    RealSync::FullFence();
    if (!IsLive(consumer.id) || !members().Alive(consumer.member)) {  // iii
      RingWord seen = info.word;
      // Fails if the consumer, or its reclaimer, was faster.
      if (!ring.SetConsumerGone(&seen)) seen = ring.Word();
      while (seen.generation() == info.word.generation() && !seen.producer_gone() &&
             !ring.SetProducerGone(&seen)) {
      }
      return absl::UnavailableError("the peer has just gone");
    }
    Changed();  // iv
    HANDOFF_CRASH_POINT("ring_table.open.after_changed");
    return info;
  }
}

void RingTable::RingEndGone(const RingInfo& ring) {
  Changed();
  RealSync::FullFence();
  Wake(DoorOf(ring.producer.row));
  Wake(DoorOf(ring.consumer.row));
}

void RingTable::Register(RingUser* user) {
  absl::MutexLock lock(&users_mutex_);
  users_.push_back(user);
}

void RingTable::Unregister(RingUser* user) {
  absl::MutexLock lock(&users_mutex_);
  users_.erase(std::remove(users_.begin(), users_.end(), user), users_.end());
}

}  // namespace handoff

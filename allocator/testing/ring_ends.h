// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_ALLOCATOR_TESTING_RING_ENDS_H_
#define HANDOFF_ALLOCATOR_TESTING_RING_ENDS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "allocator/member.h"
#include "allocator/part_name.h"
#include "allocator/ring_table.h"
#include "control_queue/spsc_ring.h"

namespace handoff {

// What a member holds, by its name: the generation is that of the word, which says held(member).
// And the moves of any of them, as sockets make them.
PartName HeldBlock(Member& member, uint64_t size_bytes);  // a new one; kEmpty if there is no room
PartName Named(const Member& member, const Block& block);
PartName Named(const Reference& reference);
PartName Named(const RowTable::Row& bundle);
Block BlockOf(Member& member, const PartName& held);
Reference ReferenceOf(Member& member, const PartName& held);
RowTable::Row BundleOf(Member& member, const PartName& held);
// The name under which it is published.
PartName Mark(Member& member, const PartName& held, uint32_t receiver);
// What was sent to this member, or what it has sent; nothing when the name is stale.
std::optional<PartName> Accept(Member& member, const PartName& sent);
std::optional<PartName> TakeBack(Member& member, const PartName& sent);
void Release(Member& member, const PartName& held);

// An endpoint that receives, with all rings that end there. One thread at a time.
class Inlet {
 public:
  // Stops the program if there is no room for an endpoint.
  Inlet(Member& member, const std::string& name);
  // Lets go of what nobody has received.
  ~Inlet() { Close(); }
  Inlet(const Inlet&) = delete;
  Inlet& operator=(const Inlet&) = delete;

  EndpointId endpoint() const { return endpoint_; }

  // The oldest entry of the first ring that has one, accepted. Stale entries are passed over and
  // counted. Closes rings whose producers have gone.
  std::optional<PartName> Receive();
  uint64_t stale() const { return stale_; }
  void Close();
  // As if its process were dead: nothing is done to close it.
  void Abandon() { open_ = false; }

 private:
  Member& member_;
  const EndpointId endpoint_;
  bool open_ = true;
  uint64_t stale_ = 0;
};

// An endpoint that sends, and its ring to one inlet of that name. One thread at a time.
class Outlet {
 public:
  // Nothing if no inlet of that name is there.
  static std::unique_ptr<Outlet> Open(Member& member, const std::string& name,
                                      uint32_t capacity = 64);
  // What was sent stays deliverable, or is freed if the receiver has gone.
  ~Outlet() { Close(); }
  Outlet(const Outlet&) = delete;
  Outlet& operator=(const Outlet&) = delete;

  uint32_t receiver() const { return info_.ends.consumer.slot; }
  bool ReceiverHasGone() const;

  // False: no room, and the caller still has it.
  bool Send(const PartName& held);
  // What the receiver has not taken, held again. Only when it has gone.
  std::vector<PartName> TakeBackAll();
  void Close();
  void Abandon() { open_ = false; }

 private:
  Outlet(Member& member, EndpointId endpoint, const RingInfo& info);

  Member& member_;
  const EndpointId endpoint_;
  const RingInfo info_;
  RingProducer<RealSync> producer_;
  bool open_ = true;
};

}  // namespace handoff

#endif  // HANDOFF_ALLOCATOR_TESTING_RING_ENDS_H_

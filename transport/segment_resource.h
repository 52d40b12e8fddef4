// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_SEGMENT_RESOURCE_H_
#define HANDOFF_TRANSPORT_SEGMENT_RESOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "allocator/block.h"
#include "allocator/segment.h"
#include "transport/message.h"
#include "transport/transport.h"

namespace handoff {

class SegmentResource;

namespace internal {

// The block that a container has from a SegmentResource as a message, cut to `used_bytes`. The
// container must forget it. An error, and nothing was changed: see TakeVector().
absl::StatusOr<Message> TakeMemory(std::pmr::memory_resource* resource, const void* data,
                                   size_t capacity_bytes, size_t used_bytes);

}  // namespace internal

// Memory of a segment for the containers of std::pmr:
//
//   auto resource = SegmentResource::Open(*transport);
//   std::pmr::vector<float> samples(resource->get());
//   ... samples.push_back(...) ...
//   absl::StatusOr<Message> message = TakeVector(std::move(samples));
//
// Every piece of memory is a block of its own, at least 64 bytes: for containers of many small
// nodes put a std::pmr::unsynchronized_pool_resource between. Pointers in what is stored mean
// nothing in another process.
//
// allocate() throws std::bad_alloc when there is no room now (it never waits), for more than the
// segment has, for an alignment above 2 MiB, in a forked child and after the segment was removed.
// deallocate() of what was not allocated from this segment, or not any more, ends the process and
// says so; in a forked child it does nothing.
//
// Any thread may call any function. Must outlive the containers that use it, and be gone before its
// Transport.
class SegmentResource final : public std::pmr::memory_resource {
 public:
  // Of the segment with this id. kNotFound; kFailedPrecondition: Transport::Usable() says why.
  static absl::StatusOr<std::unique_ptr<SegmentResource>> Open(Transport& transport,
                                                               uint32_t segment = 0);

 private:
  friend absl::StatusOr<Message> internal::TakeMemory(std::pmr::memory_resource* resource,
                                                      const void* data, size_t capacity_bytes,
                                                      size_t used_bytes);

  SegmentResource(Transport& transport, Segment& segment)
      : transport_(transport), segment_(segment) {}

  void* do_allocate(size_t size_bytes, size_t alignment) override;
  void do_deallocate(void* data, size_t size_bytes, size_t alignment) override;
  // Two of one segment of one transport may free each other's memory.
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override;

  // The block that begins at `data`, if this member holds it.
  std::optional<Block> HeldAt(const void* data) const;

  Transport& transport_;
  Segment& segment_;
};

// Makes a message of the elements of a vector that grew in a SegmentResource, without copying them.
// The vector is empty then. The capacity that it did not use goes back, where that is whole pages.
// An empty vector is the empty message. The message aligns as the vector did.
//
// Failed, the vector is as it was. kInvalidArgument: its memory is not of a SegmentResource, or not
// a block that this process holds. kFailedPrecondition: this is a forked child.
template <class T>
absl::StatusOr<Message> TakeVector(std::pmr::vector<T>&& vector) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>,
                "a message is bytes: what has a destructor or pointers of its own cannot travel");
  static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no elements in memory");
  absl::StatusOr<Message> message =
      internal::TakeMemory(vector.get_allocator().resource(), vector.data(),
                           vector.capacity() * sizeof(T), vector.size() * sizeof(T));
  if (!message.ok()) return message;
  // The vector takes its memory along into an object that is never destroyed, so nobody frees it.
  using Vector = std::pmr::vector<T>;
  alignas(Vector) std::byte never_destroyed[sizeof(Vector)];
  ::new (never_destroyed) Vector(std::move(vector));
  return message;
}

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_SEGMENT_RESOURCE_H_

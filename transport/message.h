// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_MESSAGE_H_
#define HANDOFF_TRANSPORT_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "allocator/block.h"
#include "allocator/hold.h"
#include "allocator/part_name.h"
#include "allocator/segment.h"

namespace handoff {

class Member;

namespace internal {
class MessageAccess;
}  // namespace internal

// One message: a block in shared memory that this object owns, or a reference to one that others
// refer to as well, or no bytes at all, which is a valid message, too. Made by
// Transport::Allocate() or Socket::Receive(); moves, and is never copied. Gives its memory back
// when it is destroyed.
//
// For one thread at a time; threads may hand it on. Must be gone before its Transport. In a forked
// child an inherited message may be read, but its memory stays the parent's whatever the child
// does.
class Message {
 public:
  // The empty message.
  Message() = default;
  Message(Message&& other) noexcept
      : segment_(other.segment_),
        member_(other.member_),
        block_(other.block_),
        reference_index_(other.reference_index_),
        size_(std::exchange(other.size_, 0)) {}
  Message& operator=(Message&& other) noexcept {
    if (this != &other) {
      Release();
      segment_ = other.segment_;
      member_ = other.member_;
      block_ = other.block_;
      reference_index_ = other.reference_index_;
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  ~Message() { Release(); }

  // Bytes in use.
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Bytes that the memory has room for; at least size().
  size_t capacity() const { return size_ == 0 ? 0 : block_.size_bytes; }

  // Where the bytes begin in their segment, the same in every process: shows that nobody has copied
  // them. 0 if empty.
  uint64_t segment_offset() const {
    return size_ == 0 ? 0 : static_cast<uint64_t>(block_.data - segment_->payload());
  }

  // nullptr if empty. At a different address in every process.
  const std::byte* data() const { return size_ == 0 ? nullptr : block_.data; }
  std::span<const std::byte> bytes() const { return {data(), size_}; }

  // Others refer to the same bytes, in this process or in another, or did when it was received:
  // nobody may write them.
  bool shared() const { return size_ != 0 && member_ != nullptr; }

  // The bytes to be written, also in a message that was received. Those of a shared message are
  // copied first, without waiting: into a block of its own, and the message is not shared any more.
  // Empty if there is no memory for that; then nothing was changed.
  std::span<std::byte> mutable_bytes() {
    if (__builtin_expect(shared(), 0) && !CopyToOwn()) return {};
    return {size_ == 0 ? nullptr : block_.data, size_};
  }

  // Uses only the first `size_bytes` from now on, and gives back the pages of a large message that
  // are not needed for them, at once. Zero empties it. kLarger: more than size(), nothing was
  // changed. kShared: others refer to the same bytes, nothing was changed.
  ShrinkResult Shrink(size_t size_bytes);

  // Empties it: gives the memory back now.
  void Release() {
    if (size_ != 0) ReleaseBlock();
  }

 private:
  friend class internal::MessageAccess;

  Message(Segment& segment, const Block& block, size_t size_bytes)
      : segment_(&segment), block_(block), size_(size_bytes) {}

  void ReleaseBlock();
  [[gnu::noinline]] void ReleaseReference();
  bool CopyToOwn();

  // Of no meaning while size_ is zero. A reference has a member; `block_` then has the bytes, and
  // the reference in the place of the block: its row as id, its hold as hold.
  Segment* segment_ = nullptr;
  Member* member_ = nullptr;
  Block block_;
  uint32_t reference_index_ = 0;
  size_t size_ = 0;
};
static_assert(sizeof(Message) <= 64);

namespace internal {

// How carriers make messages and take them apart.
class MessageAccess {
 public:
  // A message that owns `block`. `size_bytes` is not zero and not more than the block has.
  static Message Make(Segment& segment, const Block& block, size_t size_bytes) {
    return Message(segment, block, size_bytes);
  }
  // The same into an empty message.
  static void Fill(Message* message, Segment& segment, const Block& block, size_t size_bytes) {
    message->segment_ = &segment;
    message->member_ = nullptr;
    message->block_ = block;
    message->size_ = size_bytes;
  }
  // The same with a new block, as Segment::TryAllocate(); `size_bytes` is not zero.
  static AllocateResult AllocateInto(Message* message, Segment& segment, size_t size_bytes,
                                     size_t alignment) {
    const AllocateResult result = segment.TryAllocate(size_bytes, alignment, &message->block_);
    if (__builtin_expect(result == AllocateResult::kOk, 1)) {
      message->segment_ = &segment;
      message->member_ = nullptr;
      message->size_ = size_bytes;
    }
    return result;
  }
  // The same with a block that was sent to this member, as Segment::AcceptFrom(); `used_bytes` of
  // the name is not zero.
  [[gnu::always_inline]] static bool AcceptInto(Message* message, Segment& segment, HoldWord sent,
                                                const PartName& name) {
    if (!segment.AcceptFrom(sent, name.row, name.generation, name.used_bytes, &message->block_)) {
      return false;
    }
    message->segment_ = &segment;
    message->member_ = nullptr;
    message->size_ = name.used_bytes;
    return true;
  }
  // A reference that `member` holds, `index` of group `view.id`, under `view.hold`, into an empty
  // message; `view` has the bytes that it stands for.
  static void FillShared(Message* message, Member& member, Segment& segment, const Block& view,
                         uint32_t index, size_t size_bytes) {
    message->segment_ = &segment;
    message->member_ = &member;
    message->block_ = view;
    message->reference_index_ = index;
    message->size_ = size_bytes;
  }
  // Of a shared message.
  static uint32_t reference_index(const Message& message) { return message.reference_index_; }
  static const Member* member(const Message& message) { return message.member_; }

  // Of a message that is not empty.
  static Segment& segment(const Message& message) { return *message.segment_; }
  static const Block& block(const Message& message) { return message.block_; }
  // After a move of the hold that left the block with this message: taken back.
  static void SetHold(Message& message, HoldWord hold) { message.block_.hold = hold; }

  // Empties a message whose block belongs to somebody else now.
  static void Forget(Message& message) { message.size_ = 0; }
};

}  // namespace internal

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_MESSAGE_H_

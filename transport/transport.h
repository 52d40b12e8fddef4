// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_TRANSPORT_TRANSPORT_H_
#define HANDOFF_TRANSPORT_TRANSPORT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "allocator/member.h"
#include "allocator/object_names.h"
#include "allocator/segment.h"
#include "allocator/segment_memory.h"
#include "allocator/segment_usage.h"
#include "allocator/session.h"
#include "base/clock.h"
#include "base/fork_guard.h"
#include "transport/door_watch.h"
#include "transport/interruption.h"
#include "transport/message.h"
#include "transport/socket.h"
#include "transport/socket_options.h"
#include "transport/zeromq_context.h"

namespace handoff {

class SegmentResource;
namespace internal {
absl::StatusOr<Message> TakeMemory(std::pmr::memory_resource*, const void*, size_t, size_t);
}  // namespace internal

struct TransportOptions {
  // Processes that exchange messages are in one session. Up to 200 letters, digits and `_ - . : +
  // @`. Give programs that have nothing to do with each other different ones.
  std::string session = kDefaultSession;

  // Name of the main segment's file, where it is not to be <session>_main. Counts for the first
  // member only.
  std::string segment_name = "";

  // Size of the main segment, in bytes, where all messages of the session are; 4 KiB to 64 GiB.
  // Counts for the first member only. It is reserved as it is used, so a large one costs nothing
  // until then.
  uint64_t segment_size_bytes = uint64_t{2} << 30;

  // How the main segment's memory is had: huge pages, zero and NUMA node count for the first member
  // only, lock and populate for each that asks.
  SegmentMemory segment_memory = {};

  // An absolute path, of a memory file system. All members give the same.
  std::string shm_dir = kDefaultShmDir;

  // Opens the session to the members of this group (name or number), not only to its user.
  std::string shm_group = "";

  // What the monitor shows for this member, cut to 32 bytes; empty: the program's name.
  std::string member_name = "";

  // How long to wait for another process that joins or leaves at the same time. Positive.
  absl::Duration join_deadline = absl::Seconds(5);

  // Threads of ZeroMQ, 1 to 16, once a socket has an address of ZeroMQ. One carries millions of
  // handles a second.
  uint32_t io_threads = 1;

  // Told of deaths and of damage to the session, as SessionNotice says; by any thread. May be null.
  std::function<void(const SessionNotice&)> on_notice = nullptr;
};

// A further segment. Messages of all segments travel alike, and are received by every member.
struct SegmentRequest {
  // By which all members name it: 1 to 65535. 0 is the main segment.
  uint32_t id = 0;

  // 1 byte to 64 GiB; rounded up to a multiple of 4 KiB. Reserved as it is used.
  uint64_t size_bytes = 0;

  SegmentMemory memory = {};

  // Where there is one of this id and size already: that one, with its memory as it was made, is as
  // good.
  bool may_exist = false;
};

struct SegmentDescription {
  uint32_t id = 0;
  std::string name;  // of its file, in the directory of the session
  uint64_t size_bytes = 0;
};

struct AllocateOptions {
  // Id of the segment to allocate from.
  uint32_t segment = 0;

  // The address of the message is a multiple of this in every process: a power of two up to 2 MiB.
  // Less than 64 means 64.
  size_t alignment = 64;

  // How long to wait for memory when there is none; expired: not at all.
  Deadline deadline = Deadline::Passed();
};

// A process's way into a session: makes messages in its memory, and the sockets that carry them.
//
//   auto transport = Transport::Open({.session = "camera"});
//   auto message = (*transport)->Allocate(1 << 20);
//
// Any thread may call any function; each socket and message is for one thread at a time. A process
// may have several transports, also of one session. In a forked child, which is no member, every
// call fails and says so; the parent is not affected, and the child may open a transport of its
// own.
class Transport {
 public:
  // Joins the session, or makes it and its main segment. kInvalidArgument: an option.
  // kPermissionDenied: another user's session, names him. kFailedPrecondition: another build's
  // session, names both. kResourceExhausted: no room. kDeadlineExceeded: names the process that was
  // waited for.
  static absl::StatusOr<std::unique_ptr<Transport>> Open(const TransportOptions& options);

  // Leaves. All its sockets and messages must be gone; with a socket left it ends the process. What
  // was sent and not received stays with
  // its receivers; the last one to leave removes everything.
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  // A message of `size_bytes`, not initialised. Zero: the empty message.
  // kInvalidArgument: never possible, with the limits. kNotFound: no segment of that id.
  // kResourceExhausted: no memory until the deadline, with what was asked, what is free, the
  // largest free block and who holds most; or the file system is full, with its name. kCancelled:
  // Interrupt(). kFailedPrecondition: Usable() says why.
  absl::StatusOr<Message> Allocate(size_t size_bytes, const AllocateOptions& options = {});

  // The same from the main segment, without waiting and without words, for the path of a message.
  // What was in *message is released first, whatever the result.
  AllocateResult TryAllocate(size_t size_bytes, Message* message, size_t alignment = 64) {
    message->Release();
    if (__builtin_expect(InForkedChild(), 0)) return AllocateResult::kUnusable;
    if (__builtin_expect(size_bytes == 0, 0)) return AllocateResult::kOk;
    return internal::MessageAccess::AllocateInto(message, segment_, size_bytes, alignment);
  }

  // Makes a further segment, up to 64 in a session, which lives as long as the session if it is not
  // removed. Waits for other processes that join, leave or change segments up to `join_deadline`;
  // brings memory in as `memory` says before it returns. Failed, there is none:
  // kInvalidArgument: id or size, with the limits. kAlreadyExists: there is one of this id, of
  // which size; kFailedPrecondition: with may_exist, of another size; or no huge pages here.
  // kResourceExhausted: no room, RLIMIT_MEMLOCK, all 64 in use. kNotFound: no such NUMA node.
  absl::Status CreateSegment(const SegmentRequest& request);

  // Maps a segment now; otherwise it is mapped when it is first needed. `memory` says what to lock
  // or populate; the rest of it does not count. kNotFound: no segment of this id;
  // kResourceExhausted as above, the segment stays mapped then.
  absl::Status OpenSegment(uint32_t id, const SegmentMemory& memory = {});

  // Takes a further segment's id and file away, at once and for all members: nobody can allocate
  // from it any more. Messages in it stay good for processes that have used it before, and are
  // stale for others; the memory goes back with the last message. The id may be used again at once.
  // kInvalidArgument: the main segment. kNotFound.
  absl::Status RemoveSegment(uint32_t id);

  // All segments there are now, with the main segment, by id.
  std::vector<SegmentDescription> Segments() const;

  // A further message of the same bytes, which stay where they are: both are shared() afterwards
  // and nobody may write them any more, here or in another process. They are freed with the last
  // of all messages that refer to them. Any number up to some 200 000 for one block; each takes 8
  // bytes. An empty message gives another one. Failed, *message is as it was, but may be shared().
  // kInvalidArgument: the message is of another transport. kResourceExhausted: no memory for the
  // references, or too many of them. kFailedPrecondition: Usable() says why.
  absl::StatusOr<Message> Share(Message* message);

  // kInvalidArgument: an option. kResourceExhausted: no descriptors left. kFailedPrecondition:
  // Usable() says why.
  absl::StatusOr<std::unique_ptr<Socket>> CreateSocket(Pattern pattern,
                                                       const SocketOptions& options = {});

  // Ends every wait of this transport, in Allocate() and in its sockets, with kCancelled or
  // kInterrupted, and those that would begin before Resume(). Any thread; Interrupt() is
  // async-signal-safe.
  void Interrupt() noexcept;
  void Resume();

  // Messages of the session that were sent on ZeroMQ addresses and freed unread, because their
  // receivers had ended, or might have and memory was short. Those who still get their handles
  // count them as stale.
  uint64_t swept_messages() const { return member_->channels().swept_messages(); }

  // OK unless this is a forked child, or this member has lost its life lock for good.
  absl::Status Usable() const;

  const std::string& session() const { return session_; }

  // What is in use of the main segment, or of that of an id, and by whom. Looks at every block: not
  // for the path of a message. kNotFound: no segment of that id. kFailedPrecondition: Usable() says
  // why.
  SegmentUsage Usage() const { return segment_.Usage(); }
  absl::StatusOr<SegmentUsage> Usage(uint32_t segment) const;

  // For debugging: looks at every word of the session's tables, as AuditSession()
  // (allocator/session_audit.h), and says what is out of place: a line each, with numbers; none if
  // all is well. Means something only while no process of the session sends, receives, allocates or
  // releases. kFailedPrecondition: Usable() says why.
  absl::StatusOr<std::vector<std::string>> Audit() const;

 private:
  friend class SegmentResource;
  friend class Socket;
  friend absl::StatusOr<Message> internal::TakeMemory(std::pmr::memory_resource*, const void*,
                                                      size_t, size_t);

  Transport(const TransportOptions& options, std::unique_ptr<Member> member);

  bool InForkedChild() const { return ForkGeneration() != fork_generation_; }

  const std::string session_;
  const uint32_t fork_generation_ = ForkGeneration();
  const std::unique_ptr<Member> member_;
  Segment& segment_;
  Interruption interruption_;
  internal::ZeromqContext zeromq_;
  internal::DoorWatches door_watches_;
  std::atomic<int> open_sockets_{0};
};

}  // namespace handoff

#endif  // HANDOFF_TRANSPORT_TRANSPORT_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BENCHMARKS_HEAPS_H_
#define HANDOFF_BENCHMARKS_HEAPS_H_

#include <unistd.h>

#include <atomic>
#include <boost/interprocess/indexes/null_index.hpp>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/mem_algo/rbtree_best_fit.hpp>
#include <boost/interprocess/mem_algo/simple_seq_fit.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <boost/interprocess/sync/mutex_family.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "allocator/block.h"
#include "allocator/member.h"
#include "allocator/segment.h"
#include "allocator/session.h"
#include "base/check.h"

namespace handoff {

// A name for shared memory that nobody else has.
inline std::string BenchmarkSession() {
  static std::atomic<int> count{0};
  return absl::StrCat("handoff_benchmark_", getpid(), "_", count.fetch_add(1));
}

// The heaps that are compared. Each has Allocate(size_bytes), which stops the program where there
// is no room, and Release() of what that gave. None touches the payload.

// Ours: the main segment of a session, as this process uses it. Any thread.
class SegmentHeap {
 public:
  SegmentHeap(const std::string& session, uint64_t size_bytes) {
    SessionOptions options;
    options.names.session = session;
    options.main_segment_bytes = size_bytes;
    auto member = Member::Join(std::move(options));
    HANDOFF_CHECK(member.ok()) << member.status().ToString();
    member_ = *std::move(member);
  }

  Block Allocate(size_t size_bytes) {
    Block block;
    HANDOFF_CHECK(segment().TryAllocate(size_bytes, kBlockAlignment, &block) == AllocateResult::kOk)
        << size_bytes << " bytes";
    return block;
  }
  void Release(const Block& block) { segment().Release(block); }

  Member& member() { return *member_; }
  Segment& segment() { return member_->main_segment(); }

 private:
  std::unique_ptr<Member> member_;
};

// One of Boost.Interprocess's algorithms, with its lock between processes, in a shared memory
// object that has no name any more. Children that are forked later use it at the same address.
template <class Algorithm>
class BoostHeap {
 public:
  explicit BoostHeap(uint64_t size_bytes)
      : name_(BenchmarkSession()),
        memory_(boost::interprocess::create_only, name_.c_str(), size_bytes) {
    boost::interprocess::shared_memory_object::remove(name_.c_str());
  }

  void* Allocate(size_t size_bytes) {
    void* piece = memory_.allocate(size_bytes, std::nothrow);
    HANDOFF_CHECK(piece != nullptr) << size_bytes << " bytes";
    return piece;
  }
  void Release(void* piece) { memory_.deallocate(piece); }

 private:
  const std::string name_;
  boost::interprocess::basic_managed_shared_memory<char, Algorithm, boost::interprocess::null_index>
      memory_;
};
using BestFitHeap =
    BoostHeap<boost::interprocess::rbtree_best_fit<boost::interprocess::mutex_family>>;
using SeqFitHeap =
    BoostHeap<boost::interprocess::simple_seq_fit<boost::interprocess::mutex_family>>;

// The C library's, in memory of this process alone.
class MallocHeap {
 public:
  void* Allocate(size_t size_bytes) {
    void* piece = std::malloc(size_bytes);
    HANDOFF_CHECK(piece != nullptr) << size_bytes << " bytes";
    return piece;
  }
  void Release(void* piece) { std::free(piece); }
};

}  // namespace handoff

#endif  // HANDOFF_BENCHMARKS_HEAPS_H_

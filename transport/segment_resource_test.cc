// SPDX-License-Identifier: Apache-2.0
#include "transport/segment_resource.h"

#include <signal.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/testing/child_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/testing/session_fixture.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class SegmentResourceTest : public SessionFixture {
 protected:
  std::unique_ptr<SegmentResource> OpenResource(uint32_t segment = 0) {
    auto resource = SegmentResource::Open(*transport_, segment);
    EXPECT_TRUE(resource.ok()) << resource.status();
    return *std::move(resource);
  }
  uint64_t UsedBlocks() const { return transport_->Usage().used_blocks; }

  std::unique_ptr<Transport> transport_ = OpenTransport();
  std::unique_ptr<SegmentResource> resource_ = OpenResource();
};

TEST_F(SegmentResourceTest, HoldsContainersOfAllKinds) {
  {
    std::pmr::vector<uint64_t> numbers(resource_.get());
    std::pmr::vector<std::pmr::string> texts(resource_.get());
    std::pmr::map<int, std::pmr::string> names(resource_.get());
    for (int i = 0; i < 3000; ++i) {
      numbers.push_back(static_cast<uint64_t>(i));
      texts.emplace_back(static_cast<size_t>(i), static_cast<char>('a' + i % 26));
      names.emplace(i, "name number " + std::to_string(i) + " is long enough for the heap");
    }
    EXPECT_GT(UsedBlocks(), 6000u);
    for (int i = 0; i < 3000; ++i) {
      ASSERT_EQ(numbers[static_cast<size_t>(i)], static_cast<uint64_t>(i));
      ASSERT_EQ(std::string(texts[static_cast<size_t>(i)]),
                std::string(static_cast<size_t>(i), static_cast<char>('a' + i % 26)));
      ASSERT_THAT(std::string(names.at(i)), HasSubstr("number " + std::to_string(i) + " is"));
    }
    for (int i = 0; i < 3000; i += 2) names.erase(i);
    texts.resize(10);
    texts.shrink_to_fit();
  }
  EXPECT_EQ(UsedBlocks(), 0u);
}

template <size_t kAlignment>
void ExpectAligned(SegmentResource& resource) {
  struct alignas(kAlignment) Element {
    std::byte first;
  };
  std::pmr::vector<Element> elements(&resource);
  for (int i = 0; i < 3; ++i) {
    // Made in place: the address sanitizer does not align a temporary as far as that.
    elements.emplace_back().first = std::byte(i);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(elements.data()) % kAlignment, 0u) << kAlignment;
  }
  auto message = TakeVector(std::move(elements));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->segment_offset() % kAlignment, 0u);
  EXPECT_EQ(message->size(), 3 * kAlignment);
  EXPECT_EQ(message->data()[2 * kAlignment], std::byte{2});
}

TEST_F(SegmentResourceTest, AlignsUpToTwoMebibytes) {
  ExpectAligned<64>(*resource_);
  ExpectAligned<128>(*resource_);
  ExpectAligned<4096>(*resource_);
  ExpectAligned<65536>(*resource_);
  ExpectAligned<2 << 20>(*resource_);
  EXPECT_THROW(static_cast<void>(resource_->allocate(1, 4 << 20)), std::bad_alloc);
  void* one = resource_->allocate(0, 1);
  EXPECT_NE(one, nullptr);
  resource_->deallocate(one, 0, 1);
  EXPECT_EQ(UsedBlocks(), 0u);
}

TEST_F(SegmentResourceTest, MakesAMessageOfAVectorWhereItIs) {
  std::pmr::vector<uint32_t> numbers(resource_.get());
  for (uint32_t i = 0; i < 700'000; ++i) numbers.push_back(i);
  const void* data = numbers.data();
  const size_t capacity_bytes = numbers.capacity() * sizeof(uint32_t);
  auto message = TakeVector(std::move(numbers));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_TRUE(numbers.empty());
  EXPECT_EQ(message->data(), data);
  EXPECT_EQ(message->size(), 2'800'000u);
  EXPECT_LT(message->capacity(), 2'800'000u + 4096);
  EXPECT_LT(message->capacity(), capacity_bytes);
  EXPECT_EQ(UsedBlocks(), 1u);
  // The vector is as good as new.
  numbers.assign({1, 2, 3});
  auto second = TakeVector(std::move(numbers));
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->size(), 12u);
  message->Release();
  second->Release();
  EXPECT_EQ(UsedBlocks(), 0u);
}

TEST_F(SegmentResourceTest, SendsAVectorToAnotherProcess) {
  for (const std::string& address : {"ring://" + session_.name(), FileAddress("ipc")}) {
    auto pull = Bind(*transport_, Pattern::kPull, address);
    ChildProcess child = ChildProcess::Start([&] {
      auto mine = OpenTransport();
      auto resource = SegmentResource::Open(*mine);
      auto push = Connect(*mine, Pattern::kPush, address);
      std::pmr::vector<double> samples(1000, resource->get());
      std::iota(samples.begin(), samples.end(), 0.5);
      auto message = TakeVector(std::move(samples));
      EXPECT_TRUE(message.ok()) << message.status();
      EXPECT_EQ(push->Send(*std::move(message), Soon()), SocketResult::kOk);
      return 0;
    });
    Message message;
    ASSERT_EQ(pull->Receive(&message, Soon()), SocketResult::kOk) << address;
    ASSERT_EQ(message.size(), 8000u);
    double last = 0;
    std::memcpy(&last, message.data() + 999 * sizeof(double), sizeof(last));
    EXPECT_EQ(last, 999.5);
    EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  }
}

TEST_F(SegmentResourceTest, TakesAnEmptyVectorAsTheEmptyMessage) {
  std::pmr::vector<int> never_used(resource_.get());
  auto message = TakeVector(std::move(never_used));
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(message->empty());
  std::pmr::vector<int> cleared({1, 2, 3}, resource_.get());
  cleared.clear();
  message = TakeVector(std::move(cleared));
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(message->empty());
  EXPECT_EQ(cleared.capacity(), 0u);
  EXPECT_EQ(UsedBlocks(), 0u);
}

TEST_F(SegmentResourceTest, RefusesVectorsOfOtherMemory) {
  std::pmr::vector<int> of_the_process({1, 2, 3});
  auto message = TakeVector(std::move(of_the_process));
  EXPECT_EQ(message.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(of_the_process, testing::ElementsAre(1, 2, 3));
  // A part of a block, through a resource that carves it up.
  std::pmr::monotonic_buffer_resource carved(1 << 16, resource_.get());
  std::pmr::vector<int> of_a_part({4, 5}, &carved);
  message = TakeVector(std::move(of_a_part));
  EXPECT_EQ(message.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(of_a_part, testing::ElementsAre(4, 5));
}

TEST_F(SegmentResourceTest, ThrowsWhenThereIsNoRoomAndKeepsWhatWasThere) {
  std::pmr::vector<std::byte> bytes(resource_.get());
  bytes.resize(40 << 20, std::byte{7});
  EXPECT_THROW(bytes.resize(60 << 20), std::bad_alloc);
  EXPECT_EQ(bytes.size(), size_t{40} << 20);
  EXPECT_EQ(bytes.back(), std::byte{7});
  EXPECT_THROW(static_cast<void>(resource_->allocate(size_t{1} << 40)), std::bad_alloc);
  const volatile size_t too_much = SIZE_MAX;  // gcc warns of what it can see
  EXPECT_THROW(static_cast<void>(resource_->allocate(too_much)), std::bad_alloc);
  EXPECT_TRUE(TakeVector(std::move(bytes)).ok());
}

TEST_F(SegmentResourceTest, StopsTheProgramThatFreesWhatIsNotItsOwn) {
  const auto ends = [&](auto free) {
    ChildProcess child = ChildProcess::Start([&] {
      auto mine = OpenTransport();
      auto resource = *SegmentResource::Open(*mine);
      free(*mine, *resource);
      return 0;
    });
    return child.Wait() == ChildExit::Signal(SIGABRT);
  };
  EXPECT_TRUE(ends([](Transport&, SegmentResource& resource) {
    int local = 0;
    resource.deallocate(&local, sizeof(local));
  }));
  EXPECT_TRUE(ends([](Transport&, SegmentResource& resource) {
    void* data = resource.allocate(100);
    resource.deallocate(static_cast<std::byte*>(data) + 8, 100);
  }));
  EXPECT_TRUE(ends([](Transport&, SegmentResource& resource) {
    void* data = resource.allocate(100);
    resource.deallocate(data, 100);
    resource.deallocate(data, 100);
  }));
  EXPECT_TRUE(ends([](Transport& mine, SegmentResource& resource) {
    void* outside = nullptr;
    {
      auto message = mine.Allocate(100);
      outside = message->mutable_bytes().data();
    }
    resource.deallocate(outside, 100);
  }));
  ExpectSegmentWhole();
}

TEST_F(SegmentResourceTest, IsEqualToThoseOfTheSameSegment) {
  ASSERT_TRUE(transport_->CreateSegment({.id = 4, .size_bytes = 1 << 20}).ok());
  const auto same = OpenResource();
  const auto further = OpenResource(4);
  EXPECT_TRUE(resource_->is_equal(*same));
  EXPECT_FALSE(resource_->is_equal(*further));
  EXPECT_FALSE(resource_->is_equal(*std::pmr::new_delete_resource()));
  EXPECT_EQ(SegmentResource::Open(*transport_, 5).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SegmentResourceTest, OfARemovedSegmentGivesNoMoreButKeepsWhatItGave) {
  ASSERT_TRUE(transport_->CreateSegment({.id = 4, .size_bytes = 1 << 20}).ok());
  const auto further = OpenResource(4);
  std::pmr::vector<int> numbers({1, 2, 3}, further.get());
  ASSERT_TRUE(transport_->RemoveSegment(4).ok());
  EXPECT_THROW(numbers.resize(1000), std::bad_alloc);
  // Another one of that id is not the same segment.
  ASSERT_TRUE(transport_->CreateSegment({.id = 4, .size_bytes = 1 << 20}).ok());
  EXPECT_THROW(numbers.resize(1000), std::bad_alloc);
  EXPECT_THAT(numbers, testing::ElementsAre(1, 2, 3));
}

TEST_F(SegmentResourceTest, ServesManyThreads) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int turn = 0; turn < 200; ++turn) {
        std::pmr::vector<int> numbers(resource_.get());
        for (int i = 0; i < 500; ++i) numbers.push_back(thread);
        auto message = TakeVector(std::move(numbers));
        ASSERT_TRUE(message.ok());
        ASSERT_EQ(message->size(), 500 * sizeof(int));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(UsedBlocks(), 0u);
}

TEST_F(SegmentResourceTest, IsOfNoUseInAForkedChild) {
  std::pmr::vector<int> numbers({1, 2, 3}, resource_.get());
  ChildProcess child = ChildProcess::Start([&] {
    EXPECT_THROW(numbers.reserve(1000), std::bad_alloc);
    EXPECT_EQ(TakeVector(std::move(numbers)).status().code(),
              absl::StatusCode::kFailedPrecondition);
    std::pmr::vector<int>(std::move(numbers)).clear();  // freed, which does nothing
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_THAT(numbers, testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(UsedBlocks(), 1u);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "transport/handle.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "allocator/management_layout.h"
#include "gtest/gtest.h"

namespace handoff {
namespace {

constexpr uint64_t kNonce = 0x0123456789ABCDEF;

Handle BlockHandle() {
  return {.kind = HandleKind::kBlock,
          .segment = 0x3F,
          .channel = 0x0304,
          .row = 0x05060708,
          .nonce = kNonce,
          .generation = 0x1122334455,
          .used_bytes = 0x0AABBCCDD};
}

Handle ReplyHandle() {
  Handle handle = BlockHandle();
  handle.exchange = 0x6677;
  return handle;
}

std::vector<Handle> OneOfEachKind() {
  return {{.kind = HandleKind::kEmpty, .nonce = kNonce},
          BlockHandle(),
          ReplyHandle(),
          {.kind = HandleKind::kReference,
           .channel = Handle::kMaxChannel,
           .row = Handle::kMaxRow,
           .nonce = kNonce,
           .generation = Handle::kMaxGeneration,
           .used_bytes = Handle::kMaxUsedBytes},
          {.kind = HandleKind::kBundle, .row = 7, .nonce = kNonce, .generation = 1}};
}

HandleFault FaultOf(std::span<const std::byte> bytes) {
  Handle ignored;
  return Decode(bytes, kNonce, &ignored);
}

TEST(HandleTest, HasTheDocumentedBytes) {
  const HandleBytes bytes = Encode(ReplyHandle());
  const auto build = [](int byte) { return static_cast<unsigned>(kBuildHash >> 8 * byte & 0xFF); };
  const std::array<unsigned, Handle::kMaxBytes> expected = {
      'H',      'D',      2,        2,                                 // magic, version, kind
      build(0), build(1), build(2), build(3),                          // build
      0xEF,     0xCD,     0xAB,     0x89,     0x67, 0x45, 0x23, 0x01,  // nonce
      0x55,     0x44,     0x33,     0x22,
      0x11,  // generation
      0xDD,     0xCC,     0xBB,     0xAA,
      0,                                                             // used size
      0x08,     0x07,     0x06,     0x05,     0x3F, 0x04, 0x03,      // row, segment, channel
      0x77,     0x66,     0,        0,        0,    0,    0,    0};  // exchange
  ASSERT_EQ(bytes.size(), expected.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(std::to_integer<unsigned>(bytes.data()[i]), expected[i]) << "byte " << i;
  }
  const HandleBytes shorter = Encode(BlockHandle());
  ASSERT_EQ(shorter.size(), Handle::kBytes);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), bytes.begin()));
}

TEST(HandleTest, ComesBackAsItWasForEveryKind) {
  for (const Handle& handle : OneOfEachKind()) {
    Handle decoded;
    EXPECT_EQ(Decode(Encode(handle), kNonce, &decoded), HandleFault::kNone);
    EXPECT_EQ(decoded, handle);
  }
}

TEST(HandleTest, RefusesEveryOtherLength) {
  for (const Handle& handle : {BlockHandle(), ReplyHandle()}) {
    const HandleBytes bytes = Encode(handle);
    std::vector<std::byte> longer(bytes.begin(), bytes.end());
    longer.resize(4096);
    for (size_t length = 0; length <= longer.size(); ++length) {
      HandleFault expected = HandleFault::kLength;
      if (length == bytes.size() || length == Handle::kBytes) expected = HandleFault::kNone;
      // Zeros behind a message that is neither request nor reply.
      if (length == Handle::kMaxBytes && handle.exchange == 0) expected = HandleFault::kMeaning;
      ASSERT_EQ(FaultOf(std::span(longer).first(length)), expected) << length;
    }
  }
}

TEST(HandleTest, NamesTheOtherSession) {
  Handle handle = BlockHandle();
  handle.nonce = 42;
  Handle decoded;
  EXPECT_EQ(Decode(Encode(handle), kNonce, &decoded), HandleFault::kNonce);
  EXPECT_EQ(decoded.nonce, 42u);
}

TEST(HandleTest, SaysWhatIsWrong) {
  struct Case {
    size_t at;
    unsigned value;
    HandleFault fault;
  };
  const Case cases[] = {
      {0, 'X', HandleFault::kMagic},        {1, 'X', HandleFault::kMagic},
      {2, 1, HandleFault::kVersion},        {3, 0, HandleFault::kKind},
      {3, 5, HandleFault::kKind},           {3, 255, HandleFault::kKind},
      {8, 0, HandleFault::kNonce},          {15, 0, HandleFault::kNonce},
      {20, 0x20, HandleFault::kGeneration}, {25, 0x11, HandleFault::kUsedBytes},
      {25, 0x80, HandleFault::kUsedBytes},  {29, 0x40, HandleFault::kPlace},
      {30, 0x40, HandleFault::kPlace},      {30, 0x80, HandleFault::kPlace},
      {32, 0x10, HandleFault::kPlace},
  };
  for (size_t at = 4; at < 8; ++at) {
    auto bytes = Encode(BlockHandle());
    bytes[at] ^= std::byte{1};
    EXPECT_EQ(FaultOf(bytes), HandleFault::kBuild);
  }
  for (const Case& wrong : cases) {
    auto bytes = Encode(BlockHandle());
    bytes[wrong.at] = std::byte(wrong.value);
    EXPECT_EQ(FaultOf(bytes), wrong.fault)
        << "byte " << wrong.at << ": " << DescribeHandleFault(FaultOf(bytes));
  }
}

TEST(HandleTest, RefusesWhatHasNoMeaningForItsKind) {
  auto bytes = Encode(BlockHandle());
  std::fill_n(&bytes[16], 5, std::byte{0});
  EXPECT_EQ(FaultOf(bytes), HandleFault::kGeneration);  // no block was ever published under 0
  bytes = Encode(BlockHandle());
  std::fill_n(&bytes[21], 5, std::byte{0});
  EXPECT_EQ(FaultOf(bytes), HandleFault::kUsedBytes);  // an empty message has no block
  bytes = Encode(ReplyHandle());
  std::fill_n(&bytes[33], 8, std::byte{0});
  EXPECT_EQ(FaultOf(bytes), HandleFault::kMeaning);
  for (size_t at = 16; at < Handle::kBytes; ++at) {
    bytes = Encode({.kind = HandleKind::kEmpty, .nonce = kNonce});
    bytes[at] ^= std::byte{1};
    EXPECT_NE(FaultOf(bytes), HandleFault::kNone) << at;
  }
  for (const HandleKind kind : {HandleKind::kReference, HandleKind::kBundle}) {
    for (const Handle& handle : OneOfEachKind()) {
      if (handle.kind != kind) continue;
      bytes = Encode(handle);
      bytes[30] = std::byte{1};  // only a block is in a segment
      EXPECT_EQ(FaultOf(bytes), HandleFault::kMeaning);
    }
  }
}

// Whatever the bytes: they are refused, or mean exactly one handle.
void ExpectRefusedOrExact(std::span<const std::byte> bytes) {
  const Handle untouched{.row = 77};
  Handle decoded = untouched;
  const HandleFault fault = Decode(bytes, kNonce, &decoded);
  if (fault == HandleFault::kNone) {
    ASSERT_TRUE(std::ranges::equal(Encode(decoded), bytes));
  } else if (fault != HandleFault::kNonce) {
    ASSERT_EQ(decoded, untouched);
  }
}

TEST(HandleTest, RefusesOrMeansExactlyWhatItGotForEveryFlipOfOneOrTwoBits) {
  for (const Handle& handle : OneOfEachKind()) {
    auto bytes = Encode(handle);
    const size_t bits = bytes.size() * 8;
    for (size_t first = 0; first < bits; ++first) {
      bytes[first / 8] ^= std::byte(1 << (first % 8));
      for (size_t second = first + 1; second < bits; ++second) {
        bytes[second / 8] ^= std::byte(1 << (second % 8));
        ExpectRefusedOrExact(bytes);
        bytes[second / 8] ^= std::byte(1 << (second % 8));
      }
      ExpectRefusedOrExact(bytes);
      bytes[first / 8] ^= std::byte(1 << (first % 8));
    }
  }
}

TEST(HandleTest, RefusesOrMeansExactlyWhatItGotForRandomBytes) {
  std::mt19937_64 random(20240607);
  std::vector<std::byte> bytes(3 * Handle::kMaxBytes);
  for (int round = 0; round < 200'000; ++round) {
    const auto good = Encode(OneOfEachKind()[static_cast<size_t>(round / 2) % 5]);
    const size_t length = round % 4 == 0 ? random() % bytes.size() : good.size();
    for (size_t i = 0; i < length; ++i) bytes[i] = std::byte(random() & 0xFF);
    if (round % 2 == 0 && length == good.size()) {
      // Past the first checks, or nothing else would be tried.
      std::copy_n(good.begin(), 16, bytes.begin());
      for (size_t i = 16; i < length; ++i) {
        if (random() % 4 != 0) bytes[i] = good.data()[i];
      }
    }
    ExpectRefusedOrExact(std::span(bytes).first(length));
  }
}

}  // namespace
}  // namespace handoff

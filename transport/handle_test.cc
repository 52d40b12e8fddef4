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
          .exchange = 0x6677,
          .generation = 0x1122334455,
          .used_bytes = 0x0AABBCCDD};
}

std::vector<Handle> OneOfEachKind() {
  return {{.kind = HandleKind::kEmpty, .nonce = kNonce},
          BlockHandle(),
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
  const std::array<std::byte, Handle::kBytes> bytes = Encode(BlockHandle());
  const auto build = [](int byte) { return static_cast<unsigned>(kBuildHash >> 8 * byte & 0xFF); };
  const std::array<unsigned, Handle::kBytes> expected = {
      'H',      'D',      'A',      'N',
      1,        2,        0,        0,  // magic, version, kind, flags
      0xEF,     0xCD,     0xAB,     0x89,
      0x67,     0x45,     0x23,     0x01,  // nonce
      0x55,     0x44,     0x33,     0x22,
      0x11,     0,        0,        0,  // generation
      0xDD,     0xCC,     0xBB,     0xAA,
      0,        0,        0,        0,  // used size
      0x08,     0x07,     0x06,     0x05,
      0x3F,     0,        0x04,     0x03,  // row, segment, channel
      0x77,     0x66,     0,        0,
      0,        0,        0,        0,  // exchange
      build(0), build(1), build(2), build(3),
      build(4), build(5), build(6), build(7)};
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(std::to_integer<unsigned>(bytes[i]), expected[i]) << "byte " << i;
  }
}

TEST(HandleTest, ComesBackAsItWasForEveryKind) {
  for (const Handle& handle : OneOfEachKind()) {
    Handle decoded;
    EXPECT_EQ(Decode(Encode(handle), kNonce, &decoded), HandleFault::kNone);
    EXPECT_EQ(decoded, handle);
  }
}

TEST(HandleTest, RefusesEveryOtherLength) {
  const auto bytes = Encode(BlockHandle());
  std::vector<std::byte> longer(bytes.begin(), bytes.end());
  longer.resize(4096);
  for (size_t length = 0; length <= longer.size(); ++length) {
    const HandleFault expected =
        length == Handle::kBytes ? HandleFault::kNone : HandleFault::kLength;
    ASSERT_EQ(FaultOf(std::span(longer).first(length)), expected) << length;
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
      {0, 'X', HandleFault::kMagic},        {4, 2, HandleFault::kVersion},
      {5, 0, HandleFault::kKind},           {5, 5, HandleFault::kKind},
      {5, 255, HandleFault::kKind},         {6, 1, HandleFault::kFlags},
      {7, 0x80, HandleFault::kFlags},       {8, 0, HandleFault::kNonce},
      {20, 0x20, HandleFault::kGeneration}, {23, 1, HandleFault::kGeneration},
      {28, 0x11, HandleFault::kUsedBytes},  {31, 0x80, HandleFault::kUsedBytes},
      {35, 0x40, HandleFault::kPlace},      {36, 0x40, HandleFault::kPlace},
      {37, 1, HandleFault::kPlace},         {39, 0x10, HandleFault::kPlace},
  };
  for (size_t at = 48; at < Handle::kBytes; ++at) {
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
  std::fill_n(bytes.begin() + 16, 8, std::byte{0});
  EXPECT_EQ(FaultOf(bytes), HandleFault::kGeneration);  // no block was ever published under 0
  bytes = Encode(BlockHandle());
  std::fill_n(bytes.begin() + 24, 8, std::byte{0});
  EXPECT_EQ(FaultOf(bytes), HandleFault::kUsedBytes);  // an empty message has no block
  for (size_t at = 16; at < Handle::kBytes; ++at) {
    if (at == 40) at = 48;  // an empty message may be a request
    bytes = Encode({.kind = HandleKind::kEmpty, .nonce = kNonce});
    bytes[at] ^= std::byte{1};
    EXPECT_NE(FaultOf(bytes), HandleFault::kNone) << at;
  }
  for (const size_t kind : {2, 3}) {
    bytes = Encode(OneOfEachKind()[kind]);
    bytes[36] = std::byte{1};  // only a block is in a segment
    EXPECT_EQ(FaultOf(bytes), HandleFault::kMeaning);
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
  constexpr size_t kBits = Handle::kBytes * 8;
  for (const Handle& handle : OneOfEachKind()) {
    auto bytes = Encode(handle);
    for (size_t first = 0; first < kBits; ++first) {
      bytes[first / 8] ^= std::byte(1 << (first % 8));
      for (size_t second = first + 1; second < kBits; ++second) {
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
  std::vector<std::byte> bytes(3 * Handle::kBytes);
  for (int round = 0; round < 200'000; ++round) {
    const size_t length = round % 4 == 0 ? random() % bytes.size() : Handle::kBytes;
    for (size_t i = 0; i < length; ++i) bytes[i] = std::byte(random() & 0xFF);
    if (round % 2 == 0 && length == Handle::kBytes) {
      // Past the first checks, or nothing else would be tried.
      const auto good = Encode(OneOfEachKind()[static_cast<size_t>(round / 2) % 4]);
      std::copy_n(good.begin(), 16, bytes.begin());
      for (size_t i = 16; i < length; ++i) {
        if (random() % 4 != 0) bytes[i] = good[i];
      }
    }
    ExpectRefusedOrExact(std::span(bytes).first(length));
  }
}

}  // namespace
}  // namespace handoff

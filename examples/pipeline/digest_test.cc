// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/digest.h"

#include <array>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace handoff::pipeline {
namespace {

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(DigestTest, IsThatOfSha256sum) {
  std::array<std::byte, 32> out;
  Digest digest;
  digest.Add(Bytes("a"));
  digest.Add(Bytes("bc"));
  digest.Finish(out.data());
  EXPECT_EQ(DigestText(out.data()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ChecksumTest, NoticesEveryChangedByteAndSwappedWords) {
  std::string text(100, 'x');
  const uint64_t sum = Checksum(Bytes(text));
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] ^= 1;
    EXPECT_NE(Checksum(Bytes(changed)), sum) << i;
  }
  std::string words = "0123456701234567abcdefghABCDEFGH";
  std::string swapped = "0123456701234567ABCDEFGHabcdefgh";
  EXPECT_NE(Checksum(Bytes(words)), Checksum(Bytes(swapped)));
  EXPECT_NE(Checksum(Bytes("")), Checksum(Bytes(std::string(1, '\0'))));
}

}  // namespace
}  // namespace handoff::pipeline

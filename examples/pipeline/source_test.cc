// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/source.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace handoff::pipeline {
namespace {

std::string ReadAll(Source& source, uint64_t* messages) {
  std::string all;
  *messages = 0;
  while (const uint64_t size = source.NextSize()) {
    std::vector<std::byte> buffer(size);
    const auto got = source.Read(buffer);
    EXPECT_TRUE(got.ok());
    if (!got.ok() || *got == 0) break;
    all.append(reinterpret_cast<const char*>(buffer.data()), *got);
    ++*messages;
  }
  return all;
}

class SourceTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::path(testing::TempDir()) / ("source_test_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_ / "inner");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }

  std::filesystem::path folder_;
};

TEST_F(SourceTest, ReadsAFileInMessages) {
  Write("file", std::string(1000, 'a') + std::string(500, 'b'));
  auto source = OpenFiles((folder_ / "file").string(), 400);
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->total_bytes(), 1500u);
  uint64_t messages = 0;
  EXPECT_EQ(ReadAll(**source, &messages), std::string(1000, 'a') + std::string(500, 'b'));
  EXPECT_EQ(messages, 4u);
}

TEST_F(SourceTest, ReadsTheFilesOfAFolderInTheOrderOfTheirNames) {
  Write("b", "second ");
  Write("a", "first ");
  Write("c", "third");
  Write("inner/d", "not this one");
  auto source = OpenFiles(folder_.string(), 1000);
  ASSERT_TRUE(source.ok());
  uint64_t messages = 0;
  EXPECT_EQ(ReadAll(**source, &messages), "first second third");
}

TEST_F(SourceTest, NamesAPathThatIsNotThere) {
  const auto source = OpenFiles((folder_ / "missing").string(), 1000);
  EXPECT_NE(source.status().ToString().find("missing"), std::string::npos);
}

TEST_F(SourceTest, EndsWhereAFileHasBecomeShorter) {
  Write("file", std::string(1000, 'a'));
  auto source = OpenFiles((folder_ / "file").string(), 400);
  ASSERT_TRUE(source.ok());
  std::filesystem::resize_file(folder_ / "file", 500);
  uint64_t messages = 0;
  EXPECT_EQ(ReadAll(**source, &messages).size(), 500u);
}

TEST_F(SourceTest, GeneratesTheSameFramesEveryTime) {
  uint64_t messages = 0;
  const auto first = GenerateFrames(10 << 20, 1 << 20);
  const auto second = GenerateFrames(10 << 20, 1 << 20);
  const std::string text = ReadAll(*first, &messages);
  EXPECT_EQ(text.size(), size_t{10} << 20);
  EXPECT_GT(messages, 5u);
  EXPECT_TRUE(text == ReadAll(*second, &messages));
}

}  // namespace
}  // namespace handoff::pipeline

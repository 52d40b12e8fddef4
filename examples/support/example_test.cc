// SPDX-License-Identifier: Apache-2.0
// Runs an example as a user does: its path, then the lines that it has to print, in any order.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

std::string program;
std::vector<std::string> expected;

// What the sessions of the example's process have left in /dev/shm.
std::vector<std::string> ObjectsOf(const std::string& pid) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("example_" + pid + "_", 0) == 0) names.push_back(name);
  }
  return names;
}

TEST(ExampleTest, PrintsWhatItShowsAndLeavesNothing) {
  // The shell says its process id and becomes the example.
  std::FILE* out = popen(("echo $$; exec " + program).c_str(), "r");
  ASSERT_NE(out, nullptr);
  std::vector<std::string> lines;
  for (char line[1000]; std::fgets(line, sizeof(line), out) != nullptr;) {
    lines.emplace_back(line);
    lines.back().pop_back();
  }
  EXPECT_EQ(pclose(out), 0);
  ASSERT_FALSE(lines.empty());
  const std::string pid = lines.front();
  lines.erase(lines.begin());
  EXPECT_THAT(lines, testing::UnorderedElementsAreArray(expected));
  EXPECT_THAT(ObjectsOf(pid), testing::IsEmpty());
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  program = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) expected.emplace_back(argv[i]);
  return RUN_ALL_TESTS();
}

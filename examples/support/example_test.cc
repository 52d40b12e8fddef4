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

std::vector<std::string> ObjectsOfExamples() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    // example_<pid>_...: of this run, if the process is not there.
    if (name.rfind("example_", 0) != 0) continue;
    const std::string pid = name.substr(8, name.find('_', 8) - 8);
    if (!std::filesystem::exists("/proc/" + pid)) names.push_back(name);
  }
  return names;
}

TEST(ExampleTest, PrintsWhatItShowsAndLeavesNothing) {
  std::FILE* out = popen(program.c_str(), "r");
  ASSERT_NE(out, nullptr);
  std::vector<std::string> lines;
  for (char line[1000]; std::fgets(line, sizeof(line), out) != nullptr;) {
    lines.emplace_back(line);
    lines.back().pop_back();
  }
  EXPECT_EQ(pclose(out), 0);
  EXPECT_THAT(lines, testing::UnorderedElementsAreArray(expected));
  EXPECT_THAT(ObjectsOfExamples(), testing::IsEmpty());
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  program = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) expected.emplace_back(argv[i]);
  return RUN_ALL_TESTS();
}

// SPDX-License-Identifier: Apache-2.0
#include "base/testing/test_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "base/testing/child_process.h"

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

std::string Touch(const std::string& path) {
  std::ofstream(path) << "x";
  return path;
}

TEST(TestSessionTest, HasANameOfItsOwn) {
  const TestSession first;
  const TestSession second;
  EXPECT_NE(first.name(), second.name());
  EXPECT_THAT(first.name(), MatchesRegex("test_[0-9a-f]{16}"));
  EXPECT_EQ(first.directory(), "/dev/shm");
}

TEST(TestSessionTest, FailsTheTestForWhatIsLeftBehindAndRemovesIt) {
  static std::string path;
  EXPECT_NONFATAL_FAILURE(
      {
        const TestSession session;
        path = Touch(session.directory() + "/" + session.name() + "_main");
        EXPECT_THAT(session.Objects(), ElementsAre(session.name() + "_main"));
      },
      "_main was left behind");
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(TestSessionTest, DoesNotMindObjectsOfOthers) {
  const TestSession other;
  const std::string path = Touch(other.directory() + "/" + other.name());
  {
    const TestSession session;
    EXPECT_THAT(session.Objects(), IsEmpty());
  }
  EXPECT_TRUE(std::filesystem::remove(path));
}

TEST(TestSessionTest, RemovesItsOwnDirectoryAndMindsEverythingInIt) {
  static std::string directory;
  {
    const TestSession session({.own_directory = true});
    directory = session.directory();
    EXPECT_TRUE(std::filesystem::is_directory(directory));
  }
  EXPECT_FALSE(std::filesystem::exists(directory));
  EXPECT_NONFATAL_FAILURE(
      {
        const TestSession session({.own_directory = true});
        directory = session.directory();
        Touch(directory + "/other");
      },
      "other was left behind");
  EXPECT_FALSE(std::filesystem::exists(directory));
}

TEST(TestSessionTest, DoesNothingInAChild) {
  std::optional<TestSession> session(std::in_place);
  const std::string path = Touch(session->directory() + "/" + session->name());
  ChildProcess child = ChildProcess::Start([&] {
    session.reset();
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_TRUE(std::filesystem::remove(path));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "allocator/object_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ObjectNamesTest : public ::testing::Test {
 protected:
  ObjectNamesTest() {
    std::string pattern = ::testing::TempDir() + "/object_names_XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }
  ~ObjectNamesTest() override { std::filesystem::remove_all(dir_); }

  void Touch(const std::string& name) const { std::ofstream(dir_ + "/" + name) << "x"; }

  ObjectNames Names(const std::string& session, const std::string& main_segment = "") const {
    return ObjectNames::Create({.session = session, .shm_dir = dir_, .main_segment = main_segment})
        .value();
  }

  std::vector<std::string> Present(const ObjectNames& names) const {
    std::vector<std::string> result;
    const auto present = names.ListPresent();
    EXPECT_TRUE(present.ok()) << present.status();
    for (const SessionObject& object : present.value()) result.push_back(object.name);
    return result;
  }

  std::string dir_;
};

TEST_F(ObjectNamesTest, HasTheNamesThatUsersKnowByDefault) {
  const ObjectNames names = ObjectNames::Create({}).value();
  EXPECT_EQ(names.SegmentPath(0), "/dev/shm/fairmq_shmem_main");
  EXPECT_EQ(names.SegmentPath(7), "/dev/shm/fairmq_shmem_main_7");
  EXPECT_EQ(names.ManagementPath(), "/dev/shm/fairmq_shmem_management");
  EXPECT_EQ(names.ControlQueuePath(), "/dev/shm/fairmq_shmem_control_queue");
  EXPECT_EQ(names.LockFilePath(), "/dev/shm/fairmq_shmem_mutex");
  EXPECT_EQ(names.RegionPath(12), "/dev/shm/fairmq_shmem_region_12");
  EXPECT_FALSE(names.main_is_renamed());
}

TEST_F(ObjectNamesTest, RenamesTheMainSegmentAndNothingElse) {
  const ObjectNames names = Names("run", "detector");
  EXPECT_EQ(names.Segment(0), "detector");
  EXPECT_EQ(names.Segment(1), "run_main_1");
  EXPECT_EQ(names.Management(), "run_management");
  EXPECT_TRUE(names.main_is_renamed());
}

TEST_F(ObjectNamesTest, DropsSlashesBehindTheDirectory) {
  const ObjectNames names = ObjectNames::Create({.session = "a", .shm_dir = "/tmp//"}).value();
  EXPECT_EQ(names.LockFilePath(), "/tmp/a_mutex");
}

TEST_F(ObjectNamesTest, RefusesNamesThatAreNoFileNamesAndSaysWhy) {
  const auto error = [](const std::string& session) {
    return std::string(ObjectNames::Create({.session = session}).status().message());
  };
  EXPECT_THAT(error(""), HasSubstr("empty"));
  EXPECT_THAT(error("a/b"), HasSubstr("position 1"));
  EXPECT_THAT(error("a b"), HasSubstr("session name 'a b'"));
  EXPECT_THAT(error("../x"), HasSubstr("begin with"));
  EXPECT_THAT(error("-x"), HasSubstr("begin with"));
  EXPECT_THAT(error(std::string(201, 'x')), HasSubstr("201 bytes, the longest allowed is 200"));
  EXPECT_TRUE(ObjectNames::Create({.session = std::string(200, 'x')}).ok());
  EXPECT_TRUE(ObjectNames::Create({.session = "_a-b.c:d+e@f9"}).ok());
}

TEST_F(ObjectNamesTest, RefusesARelativeDirectory) {
  const auto names = ObjectNames::Create({.session = "a", .shm_dir = "tmp"});
  EXPECT_EQ(names.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ObjectNamesTest, RefusesAMainSegmentUnderTheNameOfAnotherObject) {
  for (const char* name :
       {"s_mutex", "s_management", "s_control_queue", "s_region_1", "s_main_1"}) {
    const auto names = ObjectNames::Create({.session = "s", .main_segment = name});
    EXPECT_EQ(names.status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_TRUE(ObjectNames::Create({.session = "s", .main_segment = "s_main"}).ok());
  EXPECT_TRUE(ObjectNames::Create({.session = "s", .main_segment = "s_other"}).ok());
}

TEST_F(ObjectNamesTest, ListsItsObjectsInTheOrderOfRemoval) {
  for (const char* name : {"a_mutex", "a_management", "a_control_queue", "a_main", "a_main_3",
                           "a_main_11", "a_region_2"}) {
    Touch(name);
  }
  EXPECT_THAT(Present(Names("a")), ElementsAre("a_main", "a_main_3", "a_main_11", "a_region_2",
                                               "a_control_queue", "a_management", "a_mutex"));
}

TEST_F(ObjectNamesTest, DoesNotListTheObjectsOfASessionWhoseNameBeginsTheSame) {
  for (const char* name : {"a_b_main", "a_main_main", "a_main_management", "a_main_mutex",
                           "ab_main", "a_main_1_mutex", "a_region_1_main", "a_main_main_1"}) {
    Touch(name);
  }
  EXPECT_THAT(Present(Names("a")), IsEmpty());
  EXPECT_THAT(Present(Names("a_main")),
              ElementsAre("a_main_main", "a_main_main_1", "a_main_management", "a_main_mutex"));
}

TEST_F(ObjectNamesTest, DoesNotListNamesThatOnlyLookLikeItsOwn) {
  for (const char* name : {"a_main_", "a_main_x", "a_main_01", "a_main_0", "a_main_99999999999",
                           "a_region_", "a_region_-1", "a_region_1x", "a_Mutex", "a_mutex2", "a"}) {
    Touch(name);
  }
  EXPECT_THAT(Present(Names("a")), IsEmpty());
}

TEST_F(ObjectNamesTest, ListsARenamedMainSegmentAsTheSegmentZero) {
  Touch("detector");
  Touch("other");
  const auto present = Names("a", "detector").ListPresent().value();
  EXPECT_THAT(present, ElementsAre(SessionObject{"detector", ObjectKind::kSegment, 0}));
}

TEST_F(ObjectNamesTest, SaysWhenTheDirectoryCannotBeRead) {
  const ObjectNames names =
      ObjectNames::Create({.session = "a", .shm_dir = dir_ + "/missing"}).value();
  const auto present = names.ListPresent();
  EXPECT_EQ(present.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(present.status().message()), HasSubstr("/missing"));
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/unique_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <utility>

namespace handoff {
namespace {

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

UniqueFd OpenSomething() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

TEST(UniqueFdTest, ClosesWhatItOwns) {
  int number = -1;
  {
    const UniqueFd fd = OpenSomething();
    ASSERT_TRUE(fd.valid());
    number = fd.get();
    EXPECT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFdTest, IsInvalidUntilGivenADescriptor) {
  UniqueFd fd;
  EXPECT_FALSE(fd.valid());
  EXPECT_EQ(fd.get(), -1);
  fd = OpenSomething();
  EXPECT_TRUE(fd.valid());
}

TEST(UniqueFdTest, MovesOwnership) {
  UniqueFd first = OpenSomething();
  const int number = first.get();
  UniqueFd second = std::move(first);
  EXPECT_FALSE(first.valid());
  EXPECT_EQ(second.get(), number);
  UniqueFd third = OpenSomething();
  const int replaced = third.get();
  third = std::move(second);
  EXPECT_FALSE(IsOpen(replaced));
  EXPECT_EQ(third.get(), number);
  EXPECT_TRUE(IsOpen(number));
}

TEST(UniqueFdTest, ReleaseLeavesTheDescriptorOpen) {
  UniqueFd fd = OpenSomething();
  const int number = fd.release();
  EXPECT_FALSE(fd.valid());
  EXPECT_TRUE(IsOpen(number));
  fd.reset(number);
  fd.reset();
  EXPECT_FALSE(IsOpen(number));
}

}  // namespace
}  // namespace handoff

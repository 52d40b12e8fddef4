// SPDX-License-Identifier: Apache-2.0
// What happens when a process may not have more addresses. Not under the sanitizers, which take all
// there are.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "allocator/mapping.h"
#include "allocator/session.h"
#include "allocator/testing/session_fixture.h"
#include "base/testing/child_process.h"

namespace handoff {
namespace {

using ::testing::HasSubstr;

class AddressSpaceTest : public SessionFixture {};

TEST_F(AddressSpaceTest, NamesTheLimitOfTheAddressSpace) {
  if (kAddressSanitizer || kThreadSanitizer) GTEST_SKIP() << "a sanitizer needs terabytes";
  ChildProcess child = ChildProcess::Start([&] {
    const rlimit limit = {.rlim_cur = 256 * kMiB, .rlim_max = 256 * kMiB};
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    for (const uint64_t alignment_bytes : {uint64_t{0}, kPayloadAlignmentBytes}) {
      const auto mapping = Mapping::Create(
          Path("_a"), {.size_bytes = 512 * kMiB, .alignment_bytes = alignment_bytes});
      EXPECT_EQ(mapping.status().code(), absl::StatusCode::kResourceExhausted);
      EXPECT_THAT(std::string(mapping.status().message()), HasSubstr("RLIMIT_AS is 256 MiB"));
      EXPECT_FALSE(std::filesystem::exists(Path("_a")));
    }
    return 0;
  });
  EXPECT_EQ(child.Wait(), ChildExit::Code(0));
}

TEST_F(AddressSpaceTest, DoesNotTouchWhatLivesWhenItCannotJoin) {
  const std::unique_ptr<Session> session = Join();
  const std::vector<std::string> before = Objects();
  ChildProcess child = ChildProcess::Start([&] {
    // A little more than it has now, but not enough for the management object.
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t bytes = pages * static_cast<uint64_t>(getpagesize()) + (96 << 10);
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    const auto joined = Session::Join(Options());
    EXPECT_EQ(joined.status().code(), absl::StatusCode::kResourceExhausted) << joined.status();
    return 0;
  });
  ASSERT_EQ(child.Wait(), ChildExit::Code(0));
  EXPECT_EQ(Objects(), before);
  EXPECT_NE(Join(), nullptr);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0
#include "base/counter.h"

#include <thread>

#include "gtest/gtest.h"

namespace handoff {
namespace {

TEST(CounterTest, IsReadByAnyThreadWhileOneAdds) {
  Counter counter;
  std::thread adder([&] {
    for (int i = 0; i < 1000; ++i) counter.Add(3);
  });
  uint64_t last = 0;
  while (last < 3000) {
    const uint64_t now = counter.value();
    ASSERT_GE(now, last);
    last = now;
    std::this_thread::yield();
  }
  adder.join();
  EXPECT_EQ(counter.value(), 3000u);
}

}  // namespace
}  // namespace handoff

// SPDX-License-Identifier: Apache-2.0

// One call into every third-party library: the label links, and the headers are the library's own.

#include <benchmark/benchmark.h>
#include <curses.h>
#include <gflags/gflags.h>
#include <httplib.h>
#include <openssl/sha.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>
#include <zmq.h>

#include <array>
#include <boost/interprocess/anonymous_shared_memory.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <zmq.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/random/random.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

DEFINE_string(libraries_test_word, "default", "Read back by the test.");

namespace handoff {
namespace {

TEST(LibrariesTest, AbseilLinks) {
  const absl::StatusOr<int> refused = absl::NotFoundError(absl::StrFormat("%d of %d", 3, 4));
  EXPECT_EQ(absl::StrCat("said: ", refused.status().message()), "said: 3 of 4");

  absl::flat_hash_map<std::string, int> map = {{"a", 1}};
  EXPECT_TRUE(map.contains("a"));

  absl::BitGen random;
  EXPECT_LT(absl::Uniform(random, 0, 10), 10);

  absl::Notification done;
  {
    const absl::Cleanup notify = [&done] { done.Notify(); };
  }
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::ZeroDuration()));
}

TEST(LibrariesTest, BoostInterprocessMapsMemory) {
  boost::interprocess::mapped_region region = boost::interprocess::anonymous_shared_memory(4096);
  EXPECT_EQ(region.get_size(), 4096U);
}

TEST(LibrariesTest, CryptoKnowsSha256) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>("abc"), 3, digest.data());
  EXPECT_EQ(digest[0], 0xba);
  EXPECT_EQ(digest[31], 0xad);
}

TEST(LibrariesTest, HttplibAnswersARequest) {
  httplib::Server server;
  server.Get("/", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("hello", "text/plain");
  });
  const int port = server.bind_to_any_port("127.0.0.1");
  std::thread serving([&server] { server.listen_after_bind(); });
  httplib::Client client("127.0.0.1", port);
  const httplib::Result result = client.Get("/");
  server.stop();
  serving.join();
  ASSERT_TRUE(result);
  EXPECT_EQ(result->body, "hello");
}

TEST(LibrariesTest, ZeroMqPassesAMessage) {
  int major = 0;
  int minor = 0;
  int patch = 0;
  zmq_version(&major, &minor, &patch);
  EXPECT_EQ(major, 4);

  zmq::context_t context;
  zmq::socket_t receiver(context, zmq::socket_type::pair);
  zmq::socket_t sender(context, zmq::socket_type::pair);
  receiver.bind("inproc://libraries_test");
  sender.connect("inproc://libraries_test");
  ASSERT_TRUE(sender.send(zmq::str_buffer("hello"), zmq::send_flags::none));
  zmq::message_t message;
  ASSERT_TRUE(receiver.recv(message, zmq::recv_flags::none));
  EXPECT_EQ(message.to_string(), "hello");
}

TEST(LibrariesTest, GflagsKnowsTheFlag) {
  EXPECT_EQ(gflags::SetCommandLineOption("libraries_test_word", "new"),
            "libraries_test_word set to new\n");
  EXPECT_EQ(FLAGS_libraries_test_word, "new");
}

TEST(LibrariesTest, BenchmarkLinks) {
  int value = 1;
  benchmark::DoNotOptimize(value);
  EXPECT_EQ(benchmark::GetBenchmarkVerbosity(), 0);
}

TEST(LibrariesTest, NcursesTellsItsVersion) {
  EXPECT_THAT(curses_version(), testing::StartsWith("ncurses"));
}

TEST(LibrariesTest, JsonIsParsed) {
  EXPECT_EQ(nlohmann::json::parse(R"({"a": [1, 2]})")["a"][1], 2);
}

TEST(LibrariesTest, SpdlogFormats) {
  spdlog::set_level(spdlog::level::info);
  EXPECT_EQ(fmt::format("member reclaimed: blocks={}", 3), "member reclaimed: blocks=3");
}

}  // namespace
}  // namespace handoff

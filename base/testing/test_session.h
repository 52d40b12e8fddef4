// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_TESTING_TEST_SESSION_H_
#define HANDOFF_BASE_TESTING_TEST_SESSION_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace handoff {

struct TestSessionOptions {
  // Make a directory below /dev/shm for this session alone, to be used as its --shm-dir.
  bool own_directory = false;
};

// A session name that no other test has, and the watch that nothing of it stays behind.
class TestSession {
 public:
  explicit TestSession(const TestSessionOptions& options = {});
  TestSession(const TestSession&) = delete;
  TestSession& operator=(const TestSession&) = delete;

  // Fails the running test for every object left over, and removes it. Does nothing in a forked
  // child.
  ~TestSession();

  // "test_" and 16 hexadecimal digits.
  const std::string& name() const { return name_; }

  // Where the session's objects are: /dev/shm or the own directory. No '/' at the end.
  const std::string& directory() const { return directory_; }

  // Names of the files in directory() that belong to the session, sorted: those that begin with
  // name(), or all in an own directory.
  std::vector<std::string> Objects() const;

 private:
  const bool owns_directory_;
  const pid_t creator_;
  const std::string name_;
  const std::string directory_;
};

}  // namespace handoff

#endif  // HANDOFF_BASE_TESTING_TEST_SESSION_H_

// SPDX-License-Identifier: Apache-2.0
#include "examples/support/example.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace handoff::example {

int RunTogether(std::initializer_list<Role> roles) {
  const std::string session = "example_" + std::to_string(getpid());
  for (const Role& role : roles) {
    const pid_t child = fork();
    if (child < 0) Fail(std::strerror(errno));
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      setvbuf(stdout, nullptr, _IOLBF, 0);
      role(session);
      std::exit(EXIT_SUCCESS);
    }
  }
  int result = EXIT_SUCCESS;
  for (int status = 0; wait(&status) > 0;) {
    const bool good = (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                      (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    if (!good) result = EXIT_FAILURE;
  }
  return result;
}

void AwaitPeers(const Socket& socket, uint32_t count) {
  for (const Deadline deadline = Soon(); socket.Statistics().connected_peers != count;) {
    if (deadline.expired()) Fail("the peers do not come");
    usleep(1000);
  }
}

}  // namespace handoff::example

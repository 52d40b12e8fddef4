// SPDX-License-Identifier: Apache-2.0
#include "transport/zeromq_departures.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <set>
#include <utility>

#include "absl/time/clock.h"

namespace handoff::internal {

namespace {

// Nothing tells when the peer of a Unix socket has read all, so it is looked at that often.
constexpr absl::Duration kPause = absl::Milliseconds(1);

bool IsUnixSocket(int fd) {
  int domain = 0;
  socklen_t length = sizeof(domain);
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

bool SameSocket(int a, int b) {
  struct stat of_a {};
  struct stat of_b {};
  return fstat(a, &of_a) == 0 && fstat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
         of_a.st_ino == of_b.st_ino;
}

}  // namespace

void ZeromqDepartures::Keep(ZeromqPeers& peers, absl::Duration linger) {
  const Deadline end = Deadline::After(linger);
  std::vector<Connection> kept;
  for (const int fd : peers.Descriptors()) {
    UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (copy.valid() && IsUnixSocket(copy.get())) kept.push_back({fd, std::move(copy), end});
  }
  // ZeroMQ reports an end before it closes the descriptor: what is not reported by now was the
  // connection when it was copied, and not what has got its number since.
  const std::set<int> left = peers.Descriptors();
  absl::MutexLock lock(&mutex_);
  for (Connection& connection : kept) {
    if (left.contains(connection.original)) connections_.push_back(std::move(connection));
  }
}

bool ZeromqDepartures::IsOver(const Connection& connection) {
  if (connection.end.expired()) return true;
  // ZeroMQ may have more to hand to the system.
  if (SameSocket(connection.original, connection.copy.get())) return false;
  // None is unread as well when the peer has closed.
  int unread = 0;
  return ioctl(connection.copy.get(), SIOCOUTQ, &unread) != 0 || unread == 0;
}

bool ZeromqDepartures::Settle() {
  absl::MutexLock lock(&mutex_);
  std::erase_if(connections_, IsOver);
  return connections_.empty();
}

void ZeromqDepartures::Wait() {
  while (!Settle()) absl::SleepFor(kPause);
}

}  // namespace handoff::internal

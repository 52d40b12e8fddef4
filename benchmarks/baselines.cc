// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/baselines.h"

#include <sys/mman.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <atomic>
#include <boost/interprocess/ipc/message_queue.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cache_line.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/futex.h"
#include "benchmarks/bare_ring.h"

namespace handoff {

namespace {

constexpr size_t kFrameBytes = 56;
constexpr int kUnderWay = 1024;

int64_t NowNs() { return MonotonicClock().NowNanoseconds(); }

// One T in memory that a process shares with the children that it forks later.
template <class T>
std::shared_ptr<T> MapShared() {
  void* bytes = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  HANDOFF_CHECK(bytes != MAP_FAILED);
  return {new (bytes) T(), [](T* object) { munmap(object, sizeof(T)); }};
}

struct BareRings {
  std::array<BareRing, 2> ring;
};

struct FutexBall {
  struct alignas(kCacheLineSize) Word {
    std::atomic<uint32_t> count{0};
  };
  std::array<Word, 2> word;
};

// A's word is for B to sleep on, and the other way round.
void Throw(FutexBall::Word& word, uint32_t count) {
  word.count.store(count, std::memory_order_release);
  FutexWake(word.count, 1);
}
void Catch(const FutexBall::Word& word, uint32_t count) {
  while (word.count.load(std::memory_order_acquire) != count) {
    (void)FutexWait(word.count, count - 1, Deadline::Infinite());
  }
}

template <class Producer, class Consumer>
Contender RingOneWay(const char* name) {
  const auto rings = MapShared<BareRings>();
  return {.name = name, .open = [rings](Side side) -> Burst {
            if (side == Side::kA) {
              return [rings, producer = Producer(rings->ring[0]), next = uint64_t{0}](
                         uint64_t messages, std::vector<double>&) mutable {
                for (uint64_t i = 0; i < messages; ++i) producer.Push(next++);
              };
            }
            return [rings, consumer = Consumer(rings->ring[0]), next = uint64_t{0}](
                       uint64_t messages, std::vector<double>&) mutable {
              for (uint64_t i = 0; i < messages; ++i) HANDOFF_CHECK_EQ(consumer.Pop(), next++);
            };
          }};
}

// A socket of libzmq with its context.
class ZeromqEnd {
 public:
  ZeromqEnd(int type, const std::string& address) : context_(zmq_ctx_new()) {
    socket_ = zmq_socket(context_, type);
    HANDOFF_CHECK(socket_ != nullptr);
    const int most = kUnderWay;
    HANDOFF_CHECK_EQ(zmq_setsockopt(socket_, ZMQ_SNDHWM, &most, sizeof(most)), 0);
    HANDOFF_CHECK_EQ(zmq_setsockopt(socket_, ZMQ_RCVHWM, &most, sizeof(most)), 0);
    const int result = type == ZMQ_PUSH ? zmq_bind(socket_, address.c_str())
                                        : zmq_connect(socket_, address.c_str());
    HANDOFF_CHECK_EQ(result, 0) << address << ": " << zmq_strerror(errno);
  }
  ~ZeromqEnd() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  ZeromqEnd(const ZeromqEnd&) = delete;
  ZeromqEnd& operator=(const ZeromqEnd&) = delete;

  void* socket() const { return socket_; }

 private:
  void* context_;
  void* socket_;
};

}  // namespace

Contender BareRingOneWay() { return RingOneWay<BareProducer, BareConsumer>("bare ring"); }
Contender LapRingOneWay() { return RingOneWay<LapProducer, LapConsumer>("bare ring without tail"); }

Contender LibzmqOneWay() {
  const std::string address = absl::StrCat("ipc://@handoff_benchmark_", getpid());
  return {.name = "libzmq, 56 bytes",
          .open = [address](Side side) -> Burst {
            auto end = std::make_shared<ZeromqEnd>(side == Side::kA ? ZMQ_PUSH : ZMQ_PULL, address);
            std::array<std::byte, kFrameBytes> frame{};
            if (side == Side::kA) {
              return [end, frame](uint64_t messages, std::vector<double>&) {
                for (uint64_t i = 0; i < messages; ++i) {
                  HANDOFF_CHECK_EQ(zmq_send(end->socket(), frame.data(), frame.size(), 0),
                                   static_cast<int>(kFrameBytes));
                }
              };
            }
            return [end, frame](uint64_t messages, std::vector<double>&) mutable {
              for (uint64_t i = 0; i < messages; ++i) {
                HANDOFF_CHECK_EQ(zmq_recv(end->socket(), frame.data(), frame.size(), 0),
                                 static_cast<int>(kFrameBytes));
              }
            };
          },
          .yields = true,
          .least_messages = 4 * kUnderWay};
}

Contender MessageQueueOneWay() {
  using boost::interprocess::message_queue;
  const std::string name = absl::StrCat("handoff_benchmark_", getpid());
  return {.name = "Boost message_queue, 56 bytes",
          .open = [name](Side side) -> Burst {
            std::array<std::byte, kFrameBytes> frame{};
            if (side == Side::kA) {
              message_queue::remove(name.c_str());
              // Both have opened it before the first burst, so it needs no name after that.
              std::shared_ptr<message_queue> queue(
                  new message_queue(boost::interprocess::create_only, name.c_str(), kUnderWay,
                                    kFrameBytes),
                  [name](message_queue* one) {
                    delete one;
                    message_queue::remove(name.c_str());
                  });
              return [queue, frame](uint64_t messages, std::vector<double>&) {
                for (uint64_t i = 0; i < messages; ++i) queue->send(frame.data(), frame.size(), 0);
              };
            }
            auto queue =
                std::make_shared<message_queue>(boost::interprocess::open_only, name.c_str());
            return [queue, frame](uint64_t messages, std::vector<double>&) mutable {
              size_t size_bytes = 0;
              unsigned int priority = 0;
              for (uint64_t i = 0; i < messages; ++i) {
                queue->receive(frame.data(), frame.size(), size_bytes, priority);
              }
            };
          },
          .yields = true,
          .least_messages = 4 * kUnderWay};
}

Contender BareRingRoundTrip() {
  const auto rings = MapShared<BareRings>();
  return {.name = "bare rings", .open = [rings](Side side) -> Burst {
            const size_t own = side == Side::kA ? 0 : 1;
            return [rings, side, producer = BareProducer(rings->ring[own]),
                    consumer = BareConsumer(rings->ring[1 - own])](
                       uint64_t messages, std::vector<double>& latencies_ns) mutable {
              for (uint64_t i = 0; i < messages; ++i) {
                if (side == Side::kB) {
                  producer.Push(consumer.Pop());
                  continue;
                }
                const int64_t begin_ns = NowNs();
                producer.Push(i);
                HANDOFF_CHECK_EQ(consumer.Pop(), i);
                latencies_ns.push_back(static_cast<double>(NowNs() - begin_ns));
              }
            };
          }};
}

Contender FutexRoundTrip() {
  const auto ball = MapShared<FutexBall>();
  return {.name = "futex",
          .open = [ball](Side side) -> Burst {
            const size_t own = side == Side::kA ? 0 : 1;
            return [ball, own, count = uint32_t{0}](uint64_t messages,
                                                    std::vector<double>& latencies_ns) mutable {
              for (uint64_t i = 0; i < messages; ++i) {
                ++count;
                if (own == 1) {
                  Catch(ball->word[0], count);
                  Throw(ball->word[1], count);
                  continue;
                }
                const int64_t begin_ns = NowNs();
                Throw(ball->word[0], count);
                Catch(ball->word[1], count);
                latencies_ns.push_back(static_cast<double>(NowNs() - begin_ns));
              }
            };
          },
          .yields = true};
}

}  // namespace handoff

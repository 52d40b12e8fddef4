// SPDX-License-Identifier: Apache-2.0
#include "base/fork_guard.h"

#include <pthread.h>

#include <array>

#include "base/check.h"

namespace handoff {

namespace internal {
constinit std::atomic<uint32_t> fork_generation{0};
}  // namespace internal

namespace {

struct Registration {
  ForkHook hook;  // nullptr: unused
  void* argument;
};

// Held by fork() from before the copy until after it, in parent and child, so the child never sees
// the array half changed. Guards `registrations`.
pthread_mutex_t fork_mutex = PTHREAD_MUTEX_INITIALIZER;
constinit std::array<Registration, kMaxForkHooks> registrations{};

void Lock() { HANDOFF_CHECK_EQ(::pthread_mutex_lock(&fork_mutex), 0); }
void Unlock() { HANDOFF_CHECK_EQ(::pthread_mutex_unlock(&fork_mutex), 0); }

void StartChild() {
  internal::fork_generation.fetch_add(1, std::memory_order_relaxed);
  for (const Registration& registration : registrations) {
    if (registration.hook != nullptr) registration.hook(registration.argument);
  }
  Unlock();
}

// Whoever calls ForkGeneration() links this file, so the handlers are in place before main().
[[maybe_unused]] const int installed = [] {
  HANDOFF_CHECK_EQ(::pthread_atfork(&Lock, &Unlock, &StartChild), 0);
  return 0;
}();

Registration* Find(ForkHook hook, void* argument) {
  for (Registration& registration : registrations) {
    if (registration.hook == hook && registration.argument == argument) return &registration;
  }
  return nullptr;
}

}  // namespace

ForkLock::ForkLock() { Lock(); }
ForkLock::~ForkLock() { Unlock(); }

bool AtForkInChild(const ForkLock&, ForkHook hook, void* argument) {
  HANDOFF_CHECK(hook != nullptr);
  Registration* const unused = Find(nullptr, nullptr);
  if (unused == nullptr) return false;
  *unused = {.hook = hook, .argument = argument};
  return true;
}

void RemoveAtForkInChild(const ForkLock&, ForkHook hook, void* argument) {
  HANDOFF_CHECK(hook != nullptr);
  Registration* const found = Find(hook, argument);
  if (found != nullptr) *found = {};
}

}  // namespace handoff

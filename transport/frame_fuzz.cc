// SPDX-License-Identifier: Apache-2.0
// For libFuzzer: whatever frames come, in whatever order, a member takes what was posted once and
// nothing else, and goes on.
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "allocator/member.h"
#include "allocator/session.h"
#include "base/check.h"
#include "transport/frame.h"
#include "transport/message.h"
#include "transport/parcel.h"

namespace {

using namespace handoff;            // NOLINT(google-build-using-namespace)
using namespace handoff::internal;  // NOLINT(google-build-using-namespace)

Member& TheMember() {
  static const std::unique_ptr<Member> member = [] {
    SessionOptions options;
    options.names.session = absl::StrCat("frame_fuzz_", getpid());
    options.main_segment_bytes = 8 << 20;
    auto joined = Member::Join(std::move(options));
    HANDOFF_CHECK(joined.ok());
    return *std::move(joined);
  }();
  return *member;
}

Message Make(Member& member) {
  Block block;
  HANDOFF_CHECK(member.main_segment().TryAllocate(100, 64, &block) == AllocateResult::kOk);
  return MessageAccess::Make(member.main_segment(), block, 100);
}

}  // namespace

// Frames of 19 bytes each: kind, then what is in a frame from the generation on; the rest is right.
// A first byte of more than 127 changes a good frame by exclusive or instead.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Member& member = TheMember();
  Message message = Make(member);
  std::vector<Message> parts;
  parts.push_back(Make(member));
  parts.push_back(Make(member));
  Parcel bundle;
  HANDOFF_CHECK(Wrap(member, parts, &bundle).ok());
  const Frame frames[] = {
      MakeFrame(member, Post(member, TakeFrom(message), 7), {7, 0}),
      MakeFrame(member, Post(member, bundle, 7), {7, 0}),
  };
  constexpr size_t kFrom = 16;
  constexpr size_t kCount = Handle::kBytes - kFrom;
  constexpr size_t kStep = kCount + 2;
  FrameContent content;
  for (; size >= kStep; data += kStep, size -= kStep) {
    Frame frame = frames[data[0] % 2];
    const bool change = data[0] > 127;
    for (size_t i = 0; i < kCount; ++i) {
      std::byte& byte = frame[kFrom + i];
      byte = change ? byte ^ std::byte(data[1 + i]) : std::byte(data[1 + i]);
    }
    frame[3] = std::byte(data[kStep - 1]);
    (void)TakeFrame(member, frame, &content);
    content = FrameContent();
  }
  (void)TakeFrame(member, std::as_bytes(std::span(data, size)), &content);
  content = FrameContent();
  for (const Frame& frame : frames) {
    (void)TakeFrame(member, frame, &content);
    content = FrameContent();
    HANDOFF_CHECK(!TakeFrame(member, frame, &content));
  }
  HANDOFF_CHECK(member.main_segment().Usage().used_blocks == 0);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "examples/pipeline/source.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace handoff::pipeline {

namespace {

absl::Status FileError(const std::string& path, int error) {
  return absl::ErrnoToStatus(error, path);
}

class Files : public Source {
 public:
  Files(std::vector<std::string> paths, uint64_t total_bytes, uint64_t message_bytes)
      : paths_(std::move(paths)), total_bytes_(total_bytes), message_bytes_(message_bytes) {}

  uint64_t total_bytes() const override { return total_bytes_; }

  uint64_t NextSize() override {
    return read_bytes_ >= total_bytes_ ? 0 : std::min(message_bytes_, total_bytes_ - read_bytes_);
  }

  absl::StatusOr<uint64_t> Read(std::span<std::byte> out) override {
    uint64_t done = 0;
    while (done < out.size()) {
      if (file_.get() < 0) {
        if (next_ == paths_.size()) break;
        file_ = UniqueFd(open(paths_[next_].c_str(), O_RDONLY | O_CLOEXEC));
        if (file_.get() < 0) return FileError(paths_[next_], errno);
        ++next_;
      }
      const ssize_t got = read(file_.get(), out.data() + done, out.size() - done);
      if (got < 0) {
        if (errno == EINTR) continue;
        return FileError(paths_[next_ - 1], errno);
      }
      if (got == 0) {
        file_ = UniqueFd();
      } else {
        done += static_cast<uint64_t>(got);
      }
    }
    read_bytes_ += done;
    // A file that has become shorter since we asked for its size ends the stream.
    if (done < out.size()) total_bytes_ = read_bytes_;
    return done;
  }

 private:
  const std::vector<std::string> paths_;
  uint64_t total_bytes_;
  const uint64_t message_bytes_;
  uint64_t read_bytes_ = 0;
  size_t next_ = 0;
  UniqueFd file_;
};

class Frames : public Source {
 public:
  Frames(uint64_t total_bytes, uint64_t message_bytes)
      : total_bytes_(total_bytes), largest_(std::max<uint64_t>(2 * message_bytes, kSmallest)) {}

  uint64_t total_bytes() const override { return total_bytes_; }

  uint64_t NextSize() override {
    // Sizes spread evenly over the doublings, so that small and large ones mix.
    std::uniform_real_distribution<double> exponent(0, 1);
    const double ratio = static_cast<double>(largest_) / kSmallest;
    const auto size = static_cast<uint64_t>(kSmallest * std::pow(ratio, exponent(random_)));
    return std::min(size, total_bytes_ - made_bytes_);
  }

  absl::StatusOr<uint64_t> Read(std::span<std::byte> out) override {
    uint64_t word = random_();
    size_t i = 0;
    for (; i + 8 <= out.size(); i += 8) {
      word += 0x9E3779B97F4A7C15;
      const uint64_t mixed = word ^ (word >> 31);
      std::memcpy(out.data() + i, &mixed, 8);
    }
    for (; i < out.size(); ++i) out[i] = static_cast<std::byte>(word >> (8 * (i % 8)));
    made_bytes_ += out.size();
    return out.size();
  }

 private:
  static constexpr uint64_t kSmallest = 4096;

  const uint64_t total_bytes_;
  const uint64_t largest_;
  uint64_t made_bytes_ = 0;
  std::mt19937_64 random_{20261123};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> OpenFiles(const std::string& path, uint64_t message_bytes) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<std::string> paths;
  if (fs::is_directory(path, error)) {
    for (fs::directory_iterator entry(path, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->is_regular_file()) paths.push_back(entry->path().string());
    }
    std::sort(paths.begin(), paths.end());
  } else {
    paths.push_back(path);
  }
  uint64_t total_bytes = 0;
  for (size_t i = 0; !error && i < paths.size(); ++i) total_bytes += fs::file_size(paths[i], error);
  if (error) return FileError(absl::StrCat("--input ", path), error.value());
  return std::make_unique<Files>(std::move(paths), total_bytes, message_bytes);
}

std::unique_ptr<Source> GenerateFrames(uint64_t total_bytes, uint64_t message_bytes) {
  return std::make_unique<Frames>(total_bytes, message_bytes);
}

}  // namespace handoff::pipeline

// libfaultline in C++20: the functions of pin.h. Header only; included by faultline.hpp, whose
// conventions hold: what fails throws faultline::error.
#ifndef FAULTLINE_PIN_HPP
#define FAULTLINE_PIN_HPP

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "faultline/error.hpp"
#include "faultline/pin.h"

namespace faultline {

// What pages are pinned for, by this process or through it, see FL_PIN_WRITE.
enum class pin_for : std::uint32_t { reading = 0, writing = FL_PIN_WRITE };

// Whether a pin holds, and if not, why.
enum class pin_state {
  held,
  unmapped,       // what was pinned is, or a part of it was moved away
  discarded,      // its private pages were
  disconnected,   // the connection to the daemon has ended
  of_the_parent,  // in a fork child
};

// Pages that stay in memory, and what they are, for as long as this lives.
class pin {
 public:
  pin() = default;
  // Every page that the bytes touch. May block until they are in memory. Throws error.
  explicit pin(std::span<const std::byte> bytes, pin_for what = pin_for::reading) {
    const int result =
        fl_pin(bytes.data(), bytes.size(), static_cast<std::uint32_t>(what), &pinned_);
    if (result != 0) throw error(-result, fl_last_error());
  }
  // The same of elements: every page that they touch.
  template <typename T, std::size_t kExtent>
  explicit pin(std::span<T, kExtent> elements, pin_for what = pin_for::reading)
      : pin(std::as_bytes(elements), what) {}
  // Only where all of them are there already. Throws error, for other reasons.
  static std::optional<pin> try_now(std::span<const std::byte> bytes,
                                    pin_for what = pin_for::reading) {
    pin made;
    const int result = fl_pin(bytes.data(), bytes.size(),
                              static_cast<std::uint32_t>(what) | FL_PIN_NOWAIT, &made.pinned_);
    if (result == -EAGAIN) return std::nullopt;
    if (result != 0) throw error(-result, fl_last_error());
    return made;
  }
  // The other is none afterwards.
  pin(pin&& other) noexcept : pinned_(std::exchange(other.pinned_, {})) {}
  // Ends this one; the other is none afterwards.
  pin& operator=(pin&& other) noexcept {
    if (this != &other) {
      (void)release();
      pinned_ = std::exchange(other.pinned_, {});
    }
    return *this;
  }
  pin(const pin&) = delete;
  pin& operator=(const pin&) = delete;
  ~pin() { (void)release(); }

  // Ends it now, and says what it was in the end. Of none: held.
  pin_state release() noexcept {
    if (!*this) return pin_state::held;
    return to_state(fl_unpin(&pinned_));
  }
  // Whether it still holds. Does not block. Of none: held.
  [[nodiscard]] pin_state state() const noexcept {
    return *this ? to_state(fl_pin_state(&pinned_)) : pin_state::held;
  }

  // Whether there is one, also where it holds nothing any more.
  explicit operator bool() const noexcept { return pinned_.parts != 0; }
  // The whole pages.
  [[nodiscard]] std::span<std::byte> bytes() const noexcept {
    return {static_cast<std::byte*>(pinned_.address), pinned_.length};
  }
  // Where they are in their objects, in the order of their addresses; none once it is not held.
  [[nodiscard]] std::vector<fl_pin_run> runs() const {
    std::vector<fl_pin_run> found(4);
    for (;;) {
      const int count = fl_pin_runs(&pinned_, found.data(), found.size());
      if (count < 0) return {};
      const bool all = static_cast<std::size_t>(count) <= found.size();
      found.resize(static_cast<std::size_t>(count));
      if (all) return found;
    }
  }
  // For readv(2), writev(2), or IORING_REGISTER_BUFFERS, which takes at most 1 GiB in each; and the
  // kernel then holds the pages itself, from before this lets go of them.
  [[nodiscard]] std::vector<iovec> iovecs(std::size_t most = std::size_t{1} << 30) const {
    std::vector<iovec> vectors;
    for (std::size_t done = 0; done < pinned_.length;) {
      const std::size_t length = std::min(most, pinned_.length - done);
      vectors.push_back({static_cast<std::byte*>(pinned_.address) + done, length});
      done += length;
    }
    return vectors;
  }
  // For the functions of pin.h; it stays this one's.
  [[nodiscard]] const fl_pinned& get() const noexcept { return pinned_; }

 private:
  friend class pin_job;
  static pin_state to_state(int result) noexcept {
    switch (result) {
      case 0:
        return pin_state::held;
      case -EIDRM:
        return pin_state::discarded;
      case -EPIPE:
        return pin_state::disconnected;
      case -ESTALE:
        return pin_state::of_the_parent;
      default:
        return pin_state::unmapped;
    }
  }

  fl_pinned pinned_{};
};

// A range that is being pinned, of many pages that are not there yet. Given up when it goes, where
// nobody has taken the pin.
class pin_job {
 public:
  pin_job() = default;
  // Begins, and returns. Throws error.
  explicit pin_job(std::span<const std::byte> bytes, pin_for what = pin_for::reading) {
    fl_job* started = nullptr;
    const int result =
        fl_pin_start(bytes.data(), bytes.size(), static_cast<std::uint32_t>(what), &started);
    if (result != 0) throw error(-result, fl_last_error());
    job_.reset(started);
  }

  // Whether there is one.
  explicit operator bool() const noexcept { return job_ != nullptr; }
  // Readable when it has ended, see fl_job_fd; it stays the library's.
  [[nodiscard]] int fd() const noexcept { return fl_job_fd(job_.get()); }
  // How far it is, see fl_job_progress.
  [[nodiscard]] fl_progress progress() const {
    fl_progress progress{};
    const int result = fl_job_progress(job_.get(), &progress);
    if (result != 0) throw error(-result, fl_last_error());
    return progress;
  }
  // Blocks until it has ended, and leaves none here, also where it throws.
  [[nodiscard]] pin take() {
    pin made;
    const int result = fl_pin_take(job_.release(), &made.pinned_);
    if (result != 0) throw error(-result, fl_last_error());
    return made;
  }

 private:
  struct give_up {
    void operator()(fl_job* job) const noexcept { (void)fl_job_free(job); }
  };
  std::unique_ptr<fl_job, give_up> job_;
};

}  // namespace faultline

#endif  // FAULTLINE_PIN_HPP

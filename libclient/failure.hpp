// How the library fails inside: by exception. Must never let one out of the C interface; guarded()
// turns it into a negative errno and the words that fl_last_error() returns.
#pragma once

#include <pthread.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <utility>

namespace faultline::client {

class Failure final : public std::exception {
 public:
  // code: a positive errno. attempted: what, and on what.
  Failure(int code, const std::string& attempted)
      : code_(code), text_(attempted + ": " + std::generic_category().message(code)) {}
  // The daemon's own words, which have all of that in them.
  static Failure in_words(int code, std::string text) { return {code, std::move(text), 0}; }

  [[nodiscard]] int code() const { return code_; }
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }

 private:
  Failure(int code, std::string text, int) : code_(code), text_(std::move(text)) {}

  int code_;
  std::string text_;
};

[[noreturn]] inline void throw_errno(const std::string& attempted) {
  const int code = errno;
  throw Failure(code, attempted);
}

// What the last failed call of this thread came to.
struct LastError {
  std::string text;
  // In place of the text, where a call that must be quick failed: static words, and an errno.
  const char* attempted = nullptr;
  int code = 0;
};
inline LastError& last_error() {
  thread_local LastError last;
  return last;
}
inline void note_failure(std::string text) {
  last_error() = LastError{std::move(text)};
}
// Allocates nothing; the words are put together when somebody asks for them. Returns -code.
inline int failed(int code, const char* attempted) noexcept {
  LastError& last = last_error();
  last.attempted = attempted;
  last.code = code;
  return -code;
}

// pthread_cancel(3) takes effect after it. Unwound out of the middle of a call, what was asked for
// would go on without anybody who knows of it.
class NotCancelled {
 public:
  NotCancelled() { (void)::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  NotCancelled(const NotCancelled&) = delete;
  NotCancelled& operator=(const NotCancelled&) = delete;
  ~NotCancelled() { (void)::pthread_setcancelstate(before_, nullptr); }

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

// For what is to take nanoseconds: NotCancelled stands where it blocks.
template <typename Body>
int guarded_quick(Body body) noexcept {
  try {
    try {
      body();
      return 0;
    } catch (const Failure& failure) {
      note_failure(failure.what());
      return -failure.code();
    } catch (const std::bad_alloc&) {
      return failed(ENOMEM, "allocating memory in libfaultline");
    } catch (const std::system_error& error) {
      note_failure(error.what());
      return error.code().value() > 0 ? -error.code().value() : -EIO;
    }
  } catch (...) {
    return -ENOMEM;  // no memory for the words
  }
}

template <typename Body>
int guarded(Body body) noexcept {
  const NotCancelled until_its_end;
  return guarded_quick(std::move(body));
}

}  // namespace faultline::client

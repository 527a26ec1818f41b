// How the library fails inside: by exception. Must never let one out of the C interface; guarded()
// turns it into a negative errno and the words that fl_last_error() returns.
#pragma once

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

// Of the calling thread.
inline std::string& last_error() {
  thread_local std::string text;
  return text;
}

template <typename Body>
int guarded(Body body) noexcept {
  try {
    try {
      body();
      return 0;
    } catch (const Failure& failure) {
      last_error() = failure.what();
      return -failure.code();
    } catch (const std::bad_alloc&) {
      last_error() =
          "allocating memory in libfaultline: " + std::generic_category().message(ENOMEM);
      return -ENOMEM;
    } catch (const std::system_error& error) {
      last_error() = error.what();
      return error.code().value() > 0 ? -error.code().value() : -EIO;
    }
  } catch (...) {
    return -ENOMEM;  // no memory for the words
  }
}

}  // namespace faultline::client

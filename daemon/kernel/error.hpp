// Errors as values: what was attempted, on what, and the errno. Must never be dropped silently.
#pragma once

#include <cerrno>
#include <string>
#include <system_error>
#include <tl/expected.hpp>
#include <utility>

namespace faultline {

class [[nodiscard]] Error {
 public:
  Error(int code, std::string attempted) : code_(code), attempted_(std::move(attempted)) {}

  [[nodiscard]] int code() const { return code_; }  // a positive errno
  [[nodiscard]] const std::string& attempted() const { return attempted_; }
  [[nodiscard]] std::string message() const {
    return attempted_ + ": " + std::generic_category().message(code_);
  }

 private:
  int code_;
  std::string attempted_;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = tl::expected<void, Error>;

inline tl::unexpected<Error> fail(int code, std::string attempted) {
  return tl::unexpected<Error>(Error{code, std::move(attempted)});
}
inline tl::unexpected<Error> fail_errno(std::string attempted) {
  return fail(errno, std::move(attempted));
}
template <typename T>
tl::unexpected<Error> propagate(tl::expected<T, Error>& result) {
  return tl::unexpected<Error>(std::move(result.error()));
}

}  // namespace faultline

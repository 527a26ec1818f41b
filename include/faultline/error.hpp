// What libfaultline's C++ interface throws, and how it is made of a C function's result.
#ifndef FAULTLINE_ERROR_HPP
#define FAULTLINE_ERROR_HPP

#include <string>
#include <system_error>

#include "faultline/faultline.h"

namespace faultline {

// code() is the errno in std::generic_category; what() tells what was attempted, on what, and why.
class error : public std::system_error {
 public:
  // The errno, and what what() is to say; the text is copied.
  error(int code, const char* text)
      : std::system_error(code, std::generic_category()), text_(text) {}
  // Valid as long as this.
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

namespace detail {
inline void check(int result) {
  if (result < 0) throw error(-result, fl_last_error());
}
}  // namespace detail

}  // namespace faultline

#endif  // FAULTLINE_ERROR_HPP

// Runs a command line as a shell does, and keeps what it printed.
#pragma once

#include <string>

namespace faultline::testing {

struct Ran {
  int code = -1;       // exit code; 128 + signal where one ended it
  std::string output;  // standard output and error
};
Ran run(const std::string& command);

}  // namespace faultline::testing

// Asks a daemon one question over its control socket. Must never attach an address space: looking
// at a daemon takes no userfaultfd.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

// Nobody to ask.
class Unreachable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
// The daemon said no, in its words.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

nlohmann::json ask(const std::string& socket_path, wire::AdminRequest question);

}  // namespace faultline::ctl

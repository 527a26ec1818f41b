// Asks a daemon one question over its control socket. Must never attach an address space: looking
// at a daemon takes no userfaultfd.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

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

inline constexpr std::chrono::seconds kAnswerWithin{5};

// The first of the paths at which a daemon listens. Throws Unreachable, also where it says nothing
// for kAnswerWithin, and Refused.
nlohmann::json ask(const std::vector<std::string>& socket_paths, wire::AdminRequest question);

}  // namespace faultline::ctl

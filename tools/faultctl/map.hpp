// faultctl map: what of an object is where. Must never replace a file with half a picture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

struct Map {
  wire::AdminRequest request;      // buckets: 0 for as many as fit what is drawn
  std::optional<std::string> svg;  // a file, or - for standard output
  bool as_json = false;
};

// 1 to wire::kMostMapBuckets. Throws WrongUsage.
std::uint32_t buckets_from(const std::string& text);

// Throws Unreachable, and Refused, also where the file cannot be written.
void map(const std::vector<std::string>& socket_paths, const Map& what);

}  // namespace faultline::ctl

// An object's map as lines of characters, a cell each. Must never need more than ASCII.
#pragma once

#include <cstddef>
#include <string>

#include "tools/faultctl/object_map.hpp"

namespace faultline::ctl {

// How many cells fit beside the labels.
std::size_t map_cells(std::size_t columns);

std::string map_text(const ObjectMap& map);

}  // namespace faultline::ctl

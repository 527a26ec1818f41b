// An object's map as a picture: SVG 1.1 that stands by itself. Must never let a name be taken for
// markup.
#pragma once

#include <string>

#include "tools/faultctl/object_map.hpp"

namespace faultline::ctl {

// Text as it is written in XML; what XML cannot have is left out.
std::string xml_escaped(const std::string& text);

std::string map_svg(const ObjectMap& map);

}  // namespace faultline::ctl

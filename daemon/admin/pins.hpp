// Who pins which pages since when, and how pins were had, as JSON. Must never show more of one
// process than kMostShown pins.
//
// Reads ledgers, which their processes can make long: not for the control thread.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>

#include "daemon/pin/pin_service.hpp"
#include "daemon/space/address_space.hpp"

namespace faultline::admin {

inline constexpr std::size_t kMostPinsShown = 1'024;

// Nothing where the process has never pinned.
[[nodiscard]] nlohmann::json pins_of(const pin::PinService& pins,
                                     const space::SpaceSnapshot& space);

}  // namespace faultline::admin

// Carries an answer of any length to a client: a sealed memfd with the text. Must never hand out
// one that the other side could change.
#pragma once

#include <string_view>

#include "daemon/kernel/error.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::server {

Result<UniqueFd> json_memfd(std::string_view text);

}  // namespace faultline::server

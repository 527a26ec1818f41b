// What people write on the command line, turned into what is meant. Must never guess: what cannot
// be meant is refused in words.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "faultline/wire/protocol.hpp"
#include "tools/faultctl/failure.hpp"

namespace faultline::ctl {

// what: how it is called in the refusal. All throw WrongUsage.
std::uint32_t pid_from(const std::string& what, const std::string& text);
std::uint64_t count_from(const std::string& what, const std::string& text);
// 0.1 to 3600.
std::chrono::milliseconds seconds_from(const std::string& what, const std::string& text);
// "map,fault": bits of wire::bit_of.
std::uint32_t event_kinds_from(const std::string& text);
// An object's name, or its id: a number is taken for both, whichever fits.
void set_object(wire::WatchRequest& request, const std::string& text);
void set_object(wire::AdminRequest& request, const char* what, const std::string& text);
void set_object(wire::EvictRequest& request, const std::string& text);
// Bytes, a plain number or 0x and hexadecimal digits.
std::uint64_t bytes_from(const std::string& what, const std::string& text);
// As faultctl waiters writes it.
wire::WordKey key_from(const std::string& text);

}  // namespace faultline::ctl

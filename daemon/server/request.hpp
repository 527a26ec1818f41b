// Reads the bodies of requests, and checks what several of them have. Must never trust a field.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/packet.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::server {

// What a request does not take out of its packet is closed elsewhere when the packet goes.
using Packet = wire::PacketOf<kernel::ForeignFd>;

// No process of this architecture has an address beyond.
inline constexpr std::uint64_t kHighestAddress = std::uint64_t{1} << 56;

// Nothing unless the packet has exactly that length.
template <typename Body>
std::optional<Body> body_of(const Packet& packet) {
  Body body{};
  if (!wire::read_body<wire::RequestHeader>(packet.bytes, body)) return std::nullopt;
  return body;
}

// Nothing unless the name is zero-terminated, and zero to its end.
inline std::optional<std::string> text_of(const wire::Name& name) {
  const auto* const end = std::find(name.begin(), name.end(), '\0');
  if (end == name.end() || std::any_of(end, name.end(), [](char c) { return c != '\0'; })) {
    return std::nullopt;
  }
  return std::string(name.begin(), end);
}

inline Error malformed(const char* request) {
  return Error{EPROTO, std::string("reading a malformed ") + request + " request"};
}

// Whether [address, address + length) is whole pages that a process can have.
inline bool whole_pages(std::uint64_t address, std::uint64_t length) {
  return address != 0 && length != 0 && kBasePage.aligned(address) && kBasePage.aligned(length) &&
         length <= kHighestAddress && address <= kHighestAddress - length;
}

}  // namespace faultline::server

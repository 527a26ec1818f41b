#include "libclient/place.hpp"

#include "libclient/fork.hpp"

namespace faultline::client {

Place find_place(std::uintptr_t address) {
  for (const auto& connection : all_connections()) {
    const Place place = connection->mappings().place(address);
    if (place.kind != WordKind::unknown) return place;
  }
  return {};
}

std::shared_ptr<Connection> connection_of(std::uintptr_t address) {
  for (const auto& connection : all_connections()) {
    if (connection->mappings().place(address).kind != WordKind::unknown) return connection;
  }
  return nullptr;
}

}  // namespace faultline::client

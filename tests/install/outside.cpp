// Uses the installed C++ interface.
#include <cstdio>
#include <faultline/faultline.hpp>

int main() try {
  const auto client = faultline::client::connect();
  const auto object = client.create({.size = 8192});
  const auto shared = object.map(faultline::sharing::shared);
  auto view = object.map(faultline::sharing::private_copy);
  shared.bytes()[0] = std::byte{1};
  view.bytes()[1] = std::byte{2};
  if (view.bytes()[0] != std::byte{1} || shared.bytes()[1] != std::byte{0}) return 1;
  const faultline::mapping moved = std::move(view);
  if (view || !moved || moved.stats().breaks != 1) return 2;
  std::printf("faultline %s works\n", fl_version());
  return 0;
} catch (const faultline::error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}

#include "daemon/admin/pins.hpp"

#include <chrono>
#include <system_error>

#include "daemon/admin/since.hpp"
#include "daemon/kernel/process.hpp"

namespace faultline::admin {

namespace {

using nlohmann::json;

json describe(const pin::PinService::ShownPin& shown) {
  const pin::Pin& pin = shown.pin;
  const Since since(std::chrono::nanoseconds(pin.since));
  const PageSize page_size = shown.object ? shown.object->page_size() : kBasePage;
  return {
      {"object", pin.object.value()},
      {"object_name", shown.object ? shown.object->name() : ""},
      {"offset", page_size.offset_of(pin.first).value()},
      {"length", shown.bytes.value()},
      {"address", pin.address.value()},
      {"access", pin.write ? "write" : "read"},
      {"own", pin.own},
      {"since_ns", since.realtime().count()},
      {"held_ms", since.elapsed_ms()},
      {"ended", pin.ended == 0 ? "" : std::generic_category().message(pin.ended)},
  };
}

}  // namespace

json pins_of(const pin::PinService& pins, const space::SpaceSnapshot& space) {
  const auto shown = pins.pins_of(space.id, kMostPinsShown);
  if (!shown) return nullptr;
  using wire::PinFallback;
  const auto fallbacks = [&](PinFallback why) {
    return shown->counts.fallbacks[static_cast<std::size_t>(why)];
  };
  json list = json::array();
  for (const auto& pin : shown->pins) list.push_back(describe(pin));
  return {
      {"pid", space.owner.pid},
      {"space", space.id.value()},
      {"uid", space.owner.uid},
      {"command", space.owner.pid == 0 ? "" : kernel::process_name(space.owner.pid)},
      {"pinned_bytes", shown->pinned.value()},
      {"granted_bytes", shown->granted.value()},
      {"fast", shown->counts.fast},
      {"slow", shown->counts.slow},
      {"fallbacks",
       {{"absent", fallbacks(PinFallback::absent)},
        {"not_own", fallbacks(PinFallback::not_own)},
        {"not_known", fallbacks(PinFallback::not_known)},
        {"budget", fallbacks(PinFallback::budget)}}},
      {"pins", std::move(list)},
      {"left_out", shown->left_out},
  };
}

}  // namespace faultline::admin

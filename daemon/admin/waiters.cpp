#include "daemon/admin/waiters.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/admin/since.hpp"

namespace faultline::admin {

namespace {

using nlohmann::json;

std::string name_in(const wire::Name& name) {
  return {name.begin(), std::find(name.begin(), name.end(), '\0')};
}

const char* name_of(wait::ToldBy who) {
  switch (who) {
    case wait::ToldBy::kernel:
      break;
    case wait::ToldBy::thread:
      return "thread";
    case wait::ToldBy::queue:
      return "queue";
    case wait::ToldBy::eventfd:
      return "eventfd";
    case wait::ToldBy::ring:
      return "ring";
  }
  return "kernel";
}

json describe(const wait::ShownWait& wait, const space::SpaceSnapshot& space) {
  const Since since(wait.since);
  return {
      {"key", to_text(wait.key)},
      {"pid", space.owner.pid},
      {"space", space.id.value()},
      {"uid", space.owner.uid},
      {"thread", wait.thread},
      {"address", wait.address.value()},
      {"object", wait.object->id().value()},
      {"object_name", wait.object->name()},
      {"kept", wait.told_by != wait::ToldBy::kernel},
      {"told_by", name_of(wait.told_by)},
      {"since_ns", since.realtime().count()},
      {"waited_ms", since.elapsed_ms()},
  };
}

}  // namespace

WaiterReport::WaiterReport(const wait::WaitService& waits, const wire::AdminRequest& query)
    : waits_(waits), object_id_(query.object_id), object_name_(name_in(query.object_name)) {}

bool WaiterReport::wanted(const wait::ShownWait& wait) const {
  if (object_id_ == ObjectId{} && object_name_.empty()) return true;
  return (object_id_ != ObjectId{} && wait.object->id() == object_id_) ||
         (!object_name_.empty() && wait.object->name() == object_name_);
}

void WaiterReport::add(const space::SpaceSnapshot& space) {
  std::size_t& looked_at = looked_at_[space.owner.uid];
  const wait::ShownWaits found = waits_.waits_of(space.owner.uid, space.id, kMostShown - looked_at);
  looked_at += found.waits.size();
  left_out_ += found.left_out;
  for (const wait::ShownWait& wait : found.waits) {
    if (wanted(wait)) shown_.push_back(describe(wait, space));
  }
}

void WaiterReport::finish(json& answer) {
  std::stable_sort(shown_.begin(), shown_.end(), [](const json& one, const json& other) {
    return one["since_ns"] < other["since_ns"];
  });
  answer["waiters"] = std::move(shown_);
  answer["left_out"] = left_out_;
}

}  // namespace faultline::admin

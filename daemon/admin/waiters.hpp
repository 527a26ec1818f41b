// Who waits for which word since when, as JSON. Must never show more of one user than kMostShown,
// so that nobody makes a report as long as he likes.
//
// Takes locks of the wait room that a user's own waits make longer: not for the control thread.
#pragma once

#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>

#include "daemon/space/address_space.hpp"
#include "daemon/wait/wait_service.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::admin {

class WaiterReport {
 public:
  // Waits of one user that are looked at, before what an object's name or id leaves of them.
  static constexpr std::size_t kMostShown = 16'384;

  WaiterReport(const wait::WaitService& waits, const wire::AdminRequest& query);

  void add(const space::SpaceSnapshot& space);
  // Puts it into the answer, the longest wait first.
  void finish(nlohmann::json& answer);

 private:
  [[nodiscard]] bool wanted(const wait::ShownWait& wait) const;

  const wait::WaitService& waits_;
  const ObjectId object_id_;
  const std::string object_name_;
  std::map<uid_t, std::size_t> looked_at_;
  std::uint64_t left_out_ = 0;
  std::vector<nlohmann::json> shown_;
};

}  // namespace faultline::admin

// What came of reading the settings again, for the log and for who asked.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "daemon/server/settings.hpp"

namespace faultline::server {

struct Reloaded {
  std::filesystem::path file;
  std::vector<ChangedSetting> changed;

  void log() const;
  // As docs/faultctl.md describes it.
  [[nodiscard]] std::string json() const;
};

}  // namespace faultline::server

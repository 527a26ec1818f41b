#include "tools/faultctl/usage.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <sstream>

#include "tools/faultctl/event_line.hpp"

namespace faultline::ctl {

namespace {

template <typename Number>
std::optional<Number> number_in(const std::string& text, int base = 10) {
  Number number = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, code] = std::from_chars(text.data(), end, number, base);
  if (code != std::errc{} || stopped != end) return std::nullopt;
  return number;
}

template <typename Number>
Number positive(const std::string& what, const std::string& text) {
  const auto number = number_in<Number>(text);
  if (!number || *number == 0) {
    throw WrongUsage(what + " must be a positive whole number, not " + text);
  }
  return *number;
}

}  // namespace

std::uint32_t pid_from(const std::string& what, const std::string& text) {
  return positive<std::uint32_t>(what, text);
}

std::uint64_t count_from(const std::string& what, const std::string& text) {
  return positive<std::uint64_t>(what, text);
}

std::chrono::milliseconds seconds_from(const std::string& what, const std::string& text) {
  constexpr double kLeast = 0.1;
  constexpr double kMost = 3600;
  double seconds = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, code] = std::from_chars(text.data(), end, seconds, std::chars_format::fixed);
  if (code != std::errc{} || stopped != end || !(seconds >= kLeast && seconds <= kMost)) {
    throw WrongUsage(fmt::format("{} must be {} to {} seconds, not {}", what, kLeast, kMost, text));
  }
  return std::chrono::milliseconds(std::llround(seconds * 1000));
}

std::uint32_t event_kinds_from(const std::string& text) {
  const auto& names = event_names();
  std::uint32_t kinds = 0;
  std::istringstream words(text);
  std::string word;
  while (std::getline(words, word, ',')) {
    const auto found = std::find(names.begin(), names.end(), word);
    if (found == names.end()) {
      throw WrongUsage(fmt::format("no such event: {}; there are {}", word, fmt::join(names, ",")));
    }
    kinds |= wire::bit_of(static_cast<wire::EventKind>(found - names.begin()));
  }
  if (kinds == 0) throw WrongUsage("--event of which kinds?");
  return kinds;
}

namespace {

template <typename Request>
void set_object_of(Request& request, const char* what, const std::string& text) {
  if (text.empty() || text.size() > wire::kMaxName) {
    throw WrongUsage(
        fmt::format("{} must be a name of 1 to {} bytes, or an id", what, wire::kMaxName));
  }
  text.copy(request.object_name.data(), wire::kMaxName);
  request.object_id = number_in<std::uint64_t>(text).value_or(0);
}

}  // namespace

void set_object(wire::WatchRequest& request, const std::string& text) {
  set_object_of(request, "--object", text);
}

void set_object(wire::AdminRequest& request, const char* what, const std::string& text) {
  set_object_of(request, what, text);
}

void set_object(wire::EvictRequest& request, const std::string& text) {
  set_object_of(request, "OBJECT", text);
}

std::uint64_t bytes_from(const std::string& what, const std::string& text) {
  const auto number = text.rfind("0x", 0) == 0 ? number_in<std::uint64_t>(text.substr(2), 16)
                                               : number_in<std::uint64_t>(text);
  if (!number) throw WrongUsage(what + " must be a number of bytes, not " + text);
  return *number;
}

wire::WordKey key_from(const std::string& text) {
  const auto key = wire::word_key_from(text);
  if (!key) {
    throw WrongUsage("KEY must be object:ID+OFFSET, space:ID@ADDRESS or frame:ID+OFFSET, not " +
                     text);
  }
  return *key;
}

}  // namespace faultline::ctl

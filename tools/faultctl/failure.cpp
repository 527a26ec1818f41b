#include "tools/faultctl/failure.hpp"

#include <cerrno>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

namespace faultline::ctl {

namespace {

std::string words_of(int code) {
  return std::strerror(code);  // NOLINT(concurrency-mt-unsafe): there is one thread
}

}  // namespace

Failure::Failure(int code, std::string attempted, const std::string& words, int exit_code)
    : std::runtime_error(words),
      code_(code),
      attempted_(std::move(attempted)),
      exit_code_(exit_code) {}

Unreachable::Unreachable(int code, const std::string& attempted, const std::string& advice)
    : Failure(code, attempted,
              attempted + ": " + words_of(code) + (advice.empty() ? "" : " (" + advice + ")"),
              kExitUnreachable) {}

Unreachable::Unreachable(int code, const std::string& words, Whole)
    : Failure(code, words, words, kExitUnreachable) {}

Unreachable Unreachable::in_words(int code, const std::string& words) {
  return {code, words, Whole{}};
}

Refused::Refused(int code, const std::string& attempted)
    : Refused(code, attempted, attempted + ": " + words_of(code)) {}

Refused::Refused(int code, std::string attempted, const std::string& words)
    : Failure(code, std::move(attempted), words, kExitRefused) {}

Refused Refused::in_words(int code, const std::string& words) {
  const std::string end = ": " + words_of(code);
  std::string attempted = words;
  if (attempted.ends_with(end)) attempted.resize(attempted.size() - end.size());
  return {code, std::move(attempted), words};
}

WrongUsage::WrongUsage(const std::string& words) : Failure(EINVAL, words, words, kExitUsage) {}

std::string error_json(const Failure& failure) {
  const char* const name = ::strerrorname_np(failure.code());
  const nlohmann::json out = {
      {"schema", kSchema},
      {"error",
       {{"code", name == nullptr ? "" : name},
        {"errno", failure.code()},
        {"attempted", failure.attempted()},
        {"message", failure.what()},
        {"exit", failure.exit_code()}}},
  };
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void print(const std::string& text) {
  std::cout << text;
  if (!std::cout.flush()) throw Refused(EIO, "writing the answer");
}

}  // namespace faultline::ctl

#include "tools/faultctl/evict.hpp"

#include <fmt/format.h>

#include <array>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/faultctl/connection.hpp"

namespace faultline::ctl {

namespace {

constexpr int kSchema = 1;

// Why pages stayed, as JSON has it and as the text does.
struct Reason {
  const char* name;
  const char* words;
  std::uint64_t wire::EvictReply::*pages;
};
constexpr std::array kReasons{
    Reason{"referenced", "asked for since they were last called cold",
           &wire::EvictReply::referenced},
    Reason{"pinned", "pinned", &wire::EvictReply::pinned},
    Reason{"dirty", "written to, and there is no swap file", &wire::EvictReply::dirty},
    Reason{"busy", "in use by a process that could not be asked in time, or being evicted",
           &wire::EvictReply::busy},
    Reason{"swap_full", "for want of room in the swap file", &wire::EvictReply::swap_full},
    Reason{"failed", "because the swap file could not be written", &wire::EvictReply::failed},
};

nlohmann::json to_json(const wire::EvictReply& reply) {
  nlohmann::json kept = nlohmann::json::object();
  for (const Reason& reason : kReasons) kept[reason.name] = reply.*reason.pages;
  return {{"schema", kSchema},
          {"object", reply.object_id},
          {"page_size", reply.page_size},
          {"evicted_pages", reply.evicted},
          {"swapped_pages", reply.swapped},
          {"kept_pages", std::move(kept)}};
}

std::string to_text(const wire::EvictReply& reply) {
  std::string text =
      fmt::format("{} pages evicted, {} of them to the swap file\n", reply.evicted, reply.swapped);
  for (const Reason& reason : kReasons) {
    if (reply.*reason.pages == 0) continue;
    text += fmt::format("{} pages stay: {}\n", reply.*reason.pages, reason.words);
  }
  return text;
}

}  // namespace

void evict(const std::vector<std::string>& socket_paths, const wire::EvictRequest& request,
           bool as_json) {
  Connection daemon(socket_paths);
  const wire::Packet answer = daemon.ask_patiently(wire::Op::evict, request);
  wire::EvictReply reply;
  if (!wire::read_body<wire::ReplyHeader>(answer.bytes, reply)) {
    throw Unreachable("the daemon's answer is malformed");
  }
  std::cout << (as_json ? to_json(reply).dump(2) + "\n" : to_text(reply));
  if (!std::cout.flush()) throw Refused("writing the answer failed");
}

}  // namespace faultline::ctl

#include "tools/faultctl/evict.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/faultctl/connection.hpp"

namespace faultline::ctl {

namespace {

constexpr std::uint64_t kBasePage = 4096;

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

std::string counted(std::uint64_t pages, const char* of_one, const char* of_many) {
  return fmt::format("{} {}", pages, pages == 1 ? of_one : of_many);
}

std::string to_text(const wire::EvictReply& reply) {
  std::string text = counted(reply.evicted, "page", "pages") +
                     fmt::format(" evicted, {} of them to the swap file\n", reply.swapped);
  for (const Reason& reason : kReasons) {
    const std::uint64_t pages = reply.*reason.pages;
    if (pages == 0) continue;
    // Larger ones are counted as dirty, whatever was done with them and whatever swap there is.
    const bool too_large = reason.pages == &wire::EvictReply::dirty && reply.page_size > kBasePage;
    text += counted(pages, "page stays: ", "pages stay: ") +
            (too_large ? "larger than 4 KiB, which never leave memory" : reason.words) + "\n";
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
    throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
  }
  print(as_json ? to_json(reply).dump(2) + "\n" : to_text(reply));
}

}  // namespace faultline::ctl

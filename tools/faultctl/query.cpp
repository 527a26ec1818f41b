#include "tools/faultctl/query.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tools/faultctl/connection.hpp"

namespace faultline::ctl {

nlohmann::json text_of(const wire::Packet& answer) {
  wire::AdminReply body;
  if (answer.fds.size() != 1 || !wire::read_body<wire::ReplyHeader>(answer.bytes, body)) {
    throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
  }
  // No more than was sent, whatever it says.
  struct stat sent {};
  if (::fstat(answer.fds.front().get(), &sent) != 0 ||
      body.json_bytes != static_cast<std::uint64_t>(sent.st_size)) {
    throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
  }
  std::string text(body.json_bytes, '\0');
  std::size_t got = 0;
  while (got < text.size()) {
    const ssize_t n = ::pread(answer.fds.front().get(), text.data() + got, text.size() - got,
                              static_cast<off_t>(got));
    if (n <= 0) throw Unreachable(n < 0 ? errno : EPROTO, "reading the daemon's answer");
    got += static_cast<std::size_t>(n);
  }
  auto parsed = nlohmann::json::parse(text, nullptr, false);
  if (parsed.is_discarded())
    throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
  return parsed;
}

nlohmann::json ask(const std::vector<std::string>& socket_paths,
                   const wire::AdminRequest& question) {
  Connection daemon(socket_paths);
  return text_of(daemon.ask(wire::Op::admin, question));
}

}  // namespace faultline::ctl

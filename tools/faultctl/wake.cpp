#include "tools/faultctl/wake.hpp"

#include <cerrno>
#include <nlohmann/json.hpp>

#include "tools/faultctl/connection.hpp"

namespace faultline::ctl {

void wake(const std::vector<std::string>& socket_paths, const wire::WakeRequest& request,
          bool as_json) {
  Connection daemon(socket_paths);
  const wire::Packet answer = daemon.ask(wire::Op::wake, request);
  wire::WakeReply reply;
  if (!wire::read_body<wire::ReplyHeader>(answer.bytes, reply)) {
    throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
  }
  if (as_json) {
    const nlohmann::json out = {
        {"schema", kSchema}, {"key", to_text(request.key)}, {"woken", reply.woken}};
    print(out.dump(2) + "\n");
  } else {
    print(std::to_string(reply.woken) + " woken\n");
  }
}

}  // namespace faultline::ctl

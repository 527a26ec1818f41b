#include "tools/faultctl/wake.hpp"

#include <iostream>
#include <nlohmann/json.hpp>

#include "tools/faultctl/connection.hpp"

namespace faultline::ctl {

namespace {

constexpr int kSchema = 1;

}  // namespace

void wake(const std::vector<std::string>& socket_paths, const wire::WakeRequest& request,
          bool as_json) {
  Connection daemon(socket_paths);
  const wire::Packet answer = daemon.ask(wire::Op::wake, request);
  wire::WakeReply reply;
  if (!wire::read_body<wire::ReplyHeader>(answer.bytes, reply)) {
    throw Unreachable("the daemon's answer is malformed");
  }
  if (as_json) {
    const nlohmann::json out = {
        {"schema", kSchema}, {"key", to_text(request.key)}, {"woken", reply.woken}};
    std::cout << out.dump(2) << '\n';
  } else {
    std::cout << reply.woken << " woken\n";
  }
  if (!std::cout.flush()) throw Refused("writing the answer failed");
}

}  // namespace faultline::ctl

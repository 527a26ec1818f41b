// A connection to a daemon's control socket, greeted. Must never attach an address space: looking
// at a daemon takes no userfaultfd.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "faultline/wire/packet.hpp"
#include "faultline/wire/protocol.hpp"
#include "tools/faultctl/failure.hpp"

namespace faultline::ctl {

inline constexpr std::chrono::seconds kAnswerWithin{5};

class Connection {
 public:
  // To the first of the paths at which a daemon listens. Throws Unreachable, also where it says
  // nothing for kAnswerWithin, and Refused.
  explicit Connection(const std::vector<std::string>& socket_paths);
  // The same without waiting for the answer to the greeting: the first receive() reads it.
  struct GreetOnly {};
  Connection(const std::vector<std::string>& socket_paths, GreetOnly);

  // Asks, and returns the answer: its header has been read, and said yes. Throws the same.
  template <typename Body>
  wire::Packet ask(wire::Op op, const Body& body) {
    return exchange(request_of(op, body), Patience::limited);
  }
  // The same of a question without a body.
  wire::Packet ask(wire::Op op) {
    wire::RequestHeader header;
    header.op = op;
    return exchange(std::as_bytes(std::span(&header, 1)), Patience::limited);
  }
  // The same of what takes the daemon its time: the answer is waited for without an end.
  template <typename Body>
  wire::Packet ask_patiently(wire::Op op, const Body& body) {
    return exchange(request_of(op, body), Patience::endless);
  }
  // Asks, and leaves the answer to receive().
  template <typename Body>
  void send(wire::Op op, const Body& body) {
    send(request_of(op, body));
  }
  // A further packet. Throws the same; Unreachable where the daemon has closed the connection.
  wire::Packet receive();

  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  enum class Patience { limited, endless };
  template <typename Body>
  static auto request_of(wire::Op op, const Body& body) {
    wire::RequestHeader header;
    header.op = op;
    header.body_size = sizeof(body);
    return wire::join(header, body);
  }
  void send(std::span<const std::byte> request);
  wire::Packet exchange(std::span<const std::byte> request, Patience patience);

  UniqueFd socket_;
};

}  // namespace faultline::ctl

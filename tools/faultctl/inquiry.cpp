#include "tools/faultctl/inquiry.hpp"

#include <fmt/format.h>

#include <cerrno>

#include "tools/faultctl/query.hpp"

namespace faultline::ctl {

void Inquiry::ask(const wire::AdminRequest& question) {
  try {
    if (connection_) {
      connection_->send(wire::Op::admin, question);
    } else {
      connection_.emplace(paths_, Connection::GreetOnly{});
      unsent_ = question;
    }
  } catch (const Failure&) {
    drop();
    throw;
  }
  asked_ = Clock::now();
}

std::optional<Inquiry::Clock::time_point> Inquiry::give_up_at() const {
  if (!asked_) return std::nullopt;
  return *asked_ + kAnswerWithin;
}

std::optional<nlohmann::json> Inquiry::take() {
  try {
    const wire::Packet packet = connection_->receive();
    if (unsent_) {
      const wire::AdminRequest question = *unsent_;
      unsent_.reset();
      asked_ = Clock::now();
      connection_->send(wire::Op::admin, question);
      return std::nullopt;
    }
    auto answer = text_of(packet);
    took_ = Clock::now() - *asked_;
    asked_.reset();
    return answer;
  } catch (const Unreachable&) {
    drop();
    throw;
  } catch (const Refused&) {
    // The greeting is refused for good, a question for itself.
    if (unsent_) drop();
    asked_.reset();
    throw;
  }
}

void Inquiry::check_time() {
  const auto deadline = give_up_at();
  if (!deadline || Clock::now() < *deadline) return;
  drop();
  throw Unreachable::in_words(
      ETIMEDOUT, fmt::format("asking the daemon: no answer within {} s", kAnswerWithin.count()));
}

void Inquiry::drop() {
  connection_.reset();
  unsent_.reset();
  asked_.reset();
}

}  // namespace faultline::ctl

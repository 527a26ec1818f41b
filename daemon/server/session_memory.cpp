// The requests of a session that concern memory which is mapped already. Must never block, and
// never trust a field of a packet.
#include <boost/asio/post.hpp>
#include <string>
#include <utility>

#include "daemon/kernel/event_signal.hpp"
#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/words.hpp"
#include "daemon/server/request.hpp"
#include "daemon/server/session.hpp"

namespace faultline::server {

namespace {

namespace asio = boost::asio;

Status check_range(const char* doing, std::uint64_t address, std::uint64_t length) {
  if (whole_pages(address, length)) return {};
  return fail(EINVAL, std::string(doing) + " " + std::to_string(length) + " bytes at " +
                          kernel::words_of(Vaddr{address}) +
                          ", which are not whole pages of a process");
}

Status check_fields(const char* doing, std::uint32_t flags, std::uint32_t known,
                    std::uint32_t reserved) {
  if ((flags & ~known) == 0 && reserved == 0) return {};
  return fail(EINVAL, std::string(doing) + " with unknown flags");
}

space::VaRange range_of(const auto& body) {
  return {Vaddr{body.address}, ByteCount{body.length}};
}

}  // namespace

std::function<void(Status)> Session::status_responder() {
  return [respond = responder()](Status status) {
    Reply reply;
    reply.status = std::move(status);
    respond(std::move(reply));
  };
}

void Session::on_protect(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::ProtectRequest>(packet);
  if (!body) return send(bad(malformed("protect")));
  auto checked = check_range("protecting", body->address, body->length);
  if (checked) {
    checked = check_fields("protecting", body->flags, wire::kProtectWrite, body->reserved);
  }
  if (!checked) return send(bad(checked.error()));
  host_.spaces().protect(*space_, range_of(*body), (body->flags & wire::kProtectWrite) != 0,
                         status_responder());
}

void Session::on_advise(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::AdviseRequest>(packet);
  if (!body) return send(bad(malformed("advise")));
  auto checked = check_range("advising about", body->address, body->length);
  if (checked) checked = check_fields("advising", 0, 0, body->reserved);
  if (!checked) return send(bad(checked.error()));
  space::Advice advice{};
  switch (body->advice) {
    case wire::Advice::normal:
      advice = space::Advice::normal;
      break;
    case wire::Advice::sequential:
      advice = space::Advice::sequential;
      break;
    case wire::Advice::random:
      advice = space::Advice::random;
      break;
    case wire::Advice::cold:
    case wire::Advice::page_out:
      return advise_objects(range_of(*body), body->advice == wire::Advice::page_out);
    default:
      return send(bad({EINVAL, "giving unknown advice " +
                                   std::to_string(static_cast<std::uint32_t>(body->advice))}));
  }
  host_.spaces().advise(*space_, range_of(*body), advice, status_responder());
}

void Session::on_rediscover(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::RediscoverRequest>(packet);
  if (!body) return send(bad(malformed("rediscover")));
  auto checked = check_range("looking again at", body->address, body->length);
  if (!checked) return send(bad(checked.error()));
  host_.spaces().rediscover(*space_, range_of(*body), status_responder());
}

// --- jobs

void Session::on_populate(Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::PopulateRequest>(packet);
  if (!body || packet.fds.size() > 1) return send(bad(malformed("populate")));
  auto checked = check_range("populating", body->address, body->length);
  if (checked) {
    checked = check_fields("populating", body->flags, wire::kPopulateWrite, body->reserved);
  }
  if (!checked) return send(bad(checked.error()));
  const bool asked_about = !packet.fds.empty();
  if (asked_about && !kernel::EventSignal::is_eventfd(packet.fds.front().get())) {
    return send(bad({EBADF, "populating with a descriptor that is not an eventfd"}));
  }
  const auto number = jobs_.reserve();
  if (!number) {
    return send(bad({EUSERS, "populating more than " + std::to_string(JobTable::kMost) +
                                 " ranges at a time, or with so many jobs that were not freed"}));
  }
  auto ended = asked_about ? signaller(std::move(packet.fds.front())) : forgetter(*number);
  host_.spaces().populate(
      *space_, range_of(*body), (body->flags & wire::kPopulateWrite) != 0, std::move(ended),
      [self = shared_from_this(), number = *number,
       asked_about](Result<std::shared_ptr<space::PopulateJob>> job) {
        asio::post(self->host_.control(), [self, number, asked_about, job = std::move(job)] {
          self->started(number, asked_about, job);
        });
      });
}

void Session::started(std::uint64_t number, bool asked_about,
                      Result<std::shared_ptr<space::PopulateJob>> job) {
  if (closed_) {
    if (job) (*job)->cancel();
    return;
  }
  if (!job) {
    jobs_.remove(number);
    return send(bad(job.error()));
  }
  // One that nobody asks about may have ended before it was known here, and its forgetter been in
  // vain. Where it ends from now on, the forgetter is still to come.
  const bool forgotten = !asked_about && (*job)->progress().ended;
  if (forgotten) {
    jobs_.remove(number);
  } else {
    jobs_.run(number, std::move(*job));
  }
  send(good(wire::PopulateReply{asked_about ? number : 0}));
}

std::function<void()> Session::signaller(kernel::ForeignFd eventfd) {
  auto shared = std::make_shared<kernel::ForeignFd>(std::move(eventfd));
  return [signal = host_.event_signal(), shared = std::move(shared), uid = peer_.uid] {
    if (auto done = signal->signal(*shared); !done) {
      kernel::log_budget_of(uid).log(log::Level::error, {.uid = uid, .error = done.error().code()},
                                     "a client waits for a job in vain: {}",
                                     done.error().message());
    }
    *shared = kernel::ForeignFd{};  // the job may be kept long after it has ended
  };
}

std::function<void()> Session::forgetter(std::uint64_t number) {
  return [weak = weak_from_this(), number] {
    const auto self = weak.lock();
    if (!self) return;
    asio::post(self->host_.control(), [self, number] { self->jobs_.remove(number); });
  };
}

void Session::on_job_progress(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::JobRequest>(packet);
  if (!body) return send(bad(malformed("job progress")));
  const auto progress = jobs_.progress(body->job);
  if (!progress) return send(bad({ENOENT, "asking about job " + std::to_string(body->job)}));
  wire::JobProgressReply reply;
  reply.pages_wanted = progress->wanted.value();
  reply.pages_done = progress->done.value();
  reply.pages_failed = progress->failed.value();
  reply.ended = progress->ended ? 1 : 0;
  reply.error = progress->error;
  send(good(reply));
}

void Session::on_job_free(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::JobRequest>(packet);
  if (!body) return send(bad(malformed("job free")));
  if (!jobs_.remove(body->job)) {
    return send(bad({ENOENT, "freeing job " + std::to_string(body->job)}));
  }
  send(Reply{});
}

}  // namespace faultline::server

// The C interface to populating: starts jobs in the daemon, and waits for them. Must never hold the
// connection while it waits.
//
// Life of a job:
//   1. fl_populate_start makes an eventfd and sends it with the request; the daemon keeps it.
//   2. The daemon signals the eventfd when the job has ended, whatever became of it. Nobody reads
//      it, so it stays readable.
//   3. fl_job_wait sleeps on the eventfd and on the session, whose end tells that the daemon is
//      gone. Then it asks what became of the job.
//   4. fl_job_free has the daemon forget it, or cancel it first. The end of the session does too.
#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <bit>
#include <string>

#include "libclient/handles.hpp"
#include "libclient/helped_pin.hpp"
#include "libclient/job.hpp"

using faultline::UniqueFd;
using faultline::client::body_of;
using faultline::client::Connection;
using faultline::client::Failure;
using faultline::client::finish_job;
using faultline::client::free_job;
using faultline::client::guarded;
using faultline::client::MapRange;
using faultline::client::range_of;
using faultline::client::require;
using faultline::client::start_job;
using faultline::client::throw_errno;
using faultline::client::words_of;
using faultline::client::words_of_failed;
namespace wire = faultline::wire;

fl_job::fl_job() = default;
fl_job::~fl_job() = default;

namespace {

static_assert(FL_POPULATE_WRITE == wire::kPopulateWrite);
static_assert(sizeof(fl_progress) == sizeof(wire::JobProgressReply));

fl_progress progress_of(const fl_job& job) {
  const auto reply = body_of<wire::JobProgressReply>(job.connection->call_in_process(
      job.forks, wire::Op::job_progress, wire::JobRequest{job.number}));
  auto progress = std::bit_cast<fl_progress>(reply);
  progress.error = -progress.error;
  return progress;
}

// Returns when the job has ended. Throws Failure: ESTALE; EPIPE the session ended before.
void sleep_until_ended(const fl_job& job) {
  const std::shared_ptr<const UniqueFd> session = job.connection->session_in_process(job.forks);
  std::array<pollfd, 2> watched{pollfd{job.ended.get(), POLLIN, 0},
                                pollfd{session ? session->get() : -1, 0, 0}};
  for (;;) {
    // Without a session there is nobody who could end it: look once.
    const int ready = ::poll(watched.data(), watched.size(), session ? -1 : 0);
    if (ready < 0 && errno != EINTR) throw_errno("waiting for a range to be populated");
    if (ready < 0) continue;
    if (watched[0].revents != 0) return;
    throw Failure(EPIPE, "waiting for a range to be populated by a daemon that is gone");
  }
}

}  // namespace

namespace faultline::client {

std::unique_ptr<fl_job> start_job(std::shared_ptr<Connection> connection, MapRange range,
                                  std::uint32_t flags) {
  auto started = std::make_unique<fl_job>();
  started->connection = std::move(connection);
  started->range = range;
  started->ended = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!started->ended) throw_errno("making an eventfd");
  const std::array fds{started->ended.get()};
  const wire::PopulateRequest request{range.start, range.length, flags};
  started->number =
      body_of<wire::PopulateReply>(
          started->connection->call(wire::Op::populate, request, std::span<const int>(fds)))
          .job;
  started->forks = started->connection->forks();
  return started;
}

void finish_job(const fl_job& job) {
  sleep_until_ended(job);
  const fl_progress progress = progress_of(job);
  if (progress.ended == 0) throw Failure(EPROTO, "asking for what became of a job");
  if (progress.error == 0) return;
  throw Failure(-progress.error, (job.pin ? "pinning " : "populating ") + words_of(job.range) +
                                     words_of_failed(progress.pages_failed));
}

void free_job(std::unique_ptr<fl_job> job) {
  if (!job) return;
  (void)job->connection->call_in_process(job->forks, wire::Op::job_free,
                                         wire::JobRequest{job->number});
}

}  // namespace faultline::client

extern "C" {

int fl_populate_start(fl_client* client, void* address, size_t length, uint32_t flags,
                      fl_job** job) {
  return guarded([&] {
    require(client != nullptr && job != nullptr, "fl_populate_start with a null argument");
    *job = nullptr;
    require((flags & ~FL_POPULATE_WRITE) == 0, "populating with an unknown flag");
    const MapRange range = range_of("populating", address, length);
    if ((flags & FL_POPULATE_WRITE) != 0) {
      client->connection->mappings().require_writable(range);
    } else {
      client->connection->mappings().require_mapped(range);
    }
    *job = start_job(client->connection, range, flags).release();
  });
}

int fl_populate(fl_client* client, void* address, size_t length, uint32_t flags) {
  fl_job* job = nullptr;
  if (const int result = fl_populate_start(client, address, length, flags, &job); result != 0) {
    return result;
  }
  const int result = fl_job_wait(job);
  (void)fl_job_free(job);
  return result;
}

int fl_job_fd(const fl_job* job) {
  return job == nullptr ? -EINVAL : job->ended.get();
}

int fl_job_progress(fl_job* job, fl_progress* progress) {
  return guarded([&] {
    require(job != nullptr && progress != nullptr, "fl_job_progress with a null argument");
    *progress = progress_of(*job);
  });
}

int fl_job_wait(fl_job* job) {
  return guarded([&] {
    require(job != nullptr, "fl_job_wait with a null job");
    finish_job(*job);
  });
}

int fl_job_free(fl_job* job) {
  return guarded([&] { free_job(std::unique_ptr<fl_job>(job)); });
}

}  // extern "C"

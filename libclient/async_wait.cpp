// The C interface to waits that no thread sleeps for: they are kept by the daemon. Must never
// deliver an outcome twice, nor one of a wait that was refused.
#include <fcntl.h>

#include <time.h>

#include <algorithm>
#include <array>
#include <span>

#include "faultline/faultline.h"
#include "libclient/handles.hpp"
#include "libclient/slot_wait.hpp"
#include "libclient/timeout.hpp"
#include "libclient/word.hpp"

using faultline::client::body_of;
using faultline::client::Channel;
using faultline::client::Failure;
using faultline::client::guarded;
using faultline::client::kSizeFlags;
using faultline::client::kTimeoutFlags;
using faultline::client::require;
using faultline::client::Timeout;
using faultline::client::Word;
namespace wire = faultline::wire;

namespace {

static_assert(sizeof(fl_completion) == sizeof(wire::Completion));
static_assert(FL_TARGET_EVENTFD == static_cast<unsigned>(wire::TargetKind::eventfd) &&
              FL_TARGET_RING == static_cast<unsigned>(wire::TargetKind::ring));

constexpr std::int64_t kSecond = 1'000'000'000;

// Nanoseconds of CLOCK_MONOTONIC; 0: for ever.
std::uint64_t deadline_of(const Timeout& timeout) {
  if (timeout.until() == nullptr) return 0;
  const auto nanoseconds = [](const timespec& time) {
    std::int64_t whole = 0;
    if (__builtin_mul_overflow(time.tv_sec, kSecond, &whole) ||
        __builtin_add_overflow(whole, time.tv_nsec, &whole)) {
      return INT64_MAX;
    }
    return whole;
  };
  std::int64_t until = nanoseconds(*timeout.until());
  if (timeout.clock() == CLOCK_REALTIME) {
    timespec real{};
    timespec monotonic{};
    (void)::clock_gettime(CLOCK_REALTIME, &real);
    (void)::clock_gettime(CLOCK_MONOTONIC, &monotonic);
    const std::int64_t rest = until - nanoseconds(real);
    if (__builtin_add_overflow(nanoseconds(monotonic), rest, &until)) until = INT64_MAX;
  }
  return static_cast<std::uint64_t>(std::max<std::int64_t>(until, 1));
}

// Of one of the daemon's; the target's number is one less there.
wire::Delivery delivery_of(std::uint32_t target) {
  return target == FL_TARGET_QUEUE ? wire::Delivery::queue : wire::Delivery::target;
}

void cancel(Channel& channel, std::uint64_t id, std::uint16_t flags) {
  // No wait has such a number, and the protocol has no room for it, or another meaning.
  if (id == 0 || id > UINT32_MAX) throw Failure(ENOENT, "cancelling a wait that there never was");
  wire::Submission request;
  request.op = wire::ChannelOp::cancel;
  request.flags = flags;
  request.count = static_cast<std::uint32_t>(id);
  const auto answer = channel.ask(request);
  if (answer.result != 0) throw Failure(-answer.result, "cancelling a wait");
}

}  // namespace

extern "C" {

int fl_target_add(fl_client* client, uint32_t kind, int fd, uint32_t* target) {
  return guarded([&] {
    require(client != nullptr && target != nullptr, "fl_target_add with a null argument");
    require(kind == FL_TARGET_EVENTFD || kind == FL_TARGET_RING,
            "fl_target_add of an unknown kind of target");
    // The message with it would fail, and the connection with that.
    if (::fcntl(fd, F_GETFD) < 0) throw Failure(EBADF, "having outcomes sent to a bad descriptor");
    (void)client->connection->channel();
    wire::AddTargetRequest request;
    request.kind = static_cast<wire::TargetKind>(kind);
    request.ring_fd = fd;
    const std::array fds{fd};
    const bool sent = kind == FL_TARGET_EVENTFD;
    const auto reply = body_of<wire::TargetReply>(client->connection->call(
        wire::Op::add_target, request, std::span<const int>(fds).first(sent ? 1 : 0)));
    *target = reply.target + 1;
  });
}

int fl_target_remove(fl_client* client, uint32_t target) {
  return guarded([&] {
    require(client != nullptr, "fl_target_remove with a null client");
    if (target == FL_TARGET_QUEUE) throw Failure(ENOENT, "removing no target");
    (void)client->connection->call(wire::Op::remove_target, wire::RemoveTargetRequest{target - 1});
  });
}

int fl_wait_async(const fl_async_wait* wait, uint64_t* id) {
  return guarded([&] {
    require(wait != nullptr, "fl_wait_async with a null argument");
    require(wait->struct_size == sizeof(fl_async_wait),
            "fl_wait_async with a struct_size that is not sizeof(fl_async_wait)");
    require((wait->flags & ~(kSizeFlags | kTimeoutFlags)) == 0 &&
                (wait->flags & kTimeoutFlags) != kTimeoutFlags && wait->reserved == 0,
            "fl_wait_async with unknown flags");
    const Word word{reinterpret_cast<std::uintptr_t>(wait->address), wait->expected,
                    wait->flags & kSizeFlags};
    require(word.aligned() && wait->bitset != 0, "waiting for an unaligned word or for no bit");
    Timeout timeout(wait->timeout, wait->flags & kTimeoutFlags);
    if (const int error = timeout.settle(); error != 0) throw Failure(-error, "setting a time-out");
    const auto channel = faultline::client::channel_for(word.address);
    wire::Submission request;
    request.op = wire::ChannelOp::wait;
    request.delivery = delivery_of(wait->target);
    request.target = wait->target - 1;
    request.size = static_cast<std::uint16_t>(word.size);
    request.address = word.address;
    request.expected = word.expected;
    request.mask = wait->bitset;
    request.user_data = wait->user_data;
    request.until = deadline_of(timeout);
    const Channel::Answer answer = channel->ask(request);
    if (answer.result != 0) throw Failure(-answer.result, "beginning to wait for a word");
    if (id != nullptr) *id = answer.values[0];
    const int looked = answer.values[1] == 0 ? 0 : word.look();
    if (looked == 0) return;
    try {
      cancel(*channel, answer.values[0], wire::kTakeBack);
    } catch (const Failure& failure) {
      if (failure.code() == ENOENT) return;  // woken already, and told so
      throw;
    }
    throw Failure(-looked, "beginning to wait for a word");
  });
}

int fl_wait_cancel(fl_client* client, uint64_t id) {
  return guarded([&] {
    require(client != nullptr, "fl_wait_cancel with a null client");
    cancel(*client->connection->channel(), id, 0);
  });
}

int fl_completions(fl_client* client, fl_completion* completions, unsigned most,
                   const struct timespec* timeout) {
  int taken = 0;
  const int failed = guarded([&] {
    require(client != nullptr && completions != nullptr && most > 0,
            "fl_completions with nowhere to put one");
    Timeout until(timeout, 0);
    if (const int error = until.settle(); error != 0) throw Failure(-error, "setting a time-out");
    const auto channel = client->connection->channel();
    taken = channel->take_completions(
        std::span(reinterpret_cast<wire::Completion*>(completions), most), until.until());
    if (taken < 0) throw Failure(-taken, "waiting for an outcome");
  });
  return failed != 0 ? failed : taken;
}

}  // extern "C"

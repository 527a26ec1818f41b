#include "daemon/memory/file_pager.hpp"

#include <pthread.h>
#include <algorithm>

#include <cstdlib>
#include <utility>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/signals.hpp"

namespace faultline::memory {

namespace {
constexpr unsigned kRingEntries = 256;
constexpr std::size_t kMostBuffersKept = 4;
}  // namespace

Result<std::unique_ptr<FilePager>> FilePager::create() {
  auto ring = kernel::Ring::create(kRingEntries);
  if (!ring) return propagate(ring);
  auto mailbox = kernel::Mailbox::create();
  if (!mailbox) return propagate(mailbox);
  std::unique_ptr<FilePager> pager{new FilePager(std::move(*ring), std::move(*mailbox))};
  const kernel::SignalsBlocked none_for_it;
  pager->thread_ = std::thread([self = pager.get()] { self->run(); });
  return pager;
}

FilePager::~FilePager() {
  begin_stop();
  if (thread_.joinable()) thread_.join();
}

void FilePager::post(std::function<void()> step) {
  mailbox_->post(std::move(step));
}

void FilePager::read(kernel::RingOperation& op, int fd, std::span<std::byte> into, ByteCount offset,
                     kernel::Ring::Begin begin) {
  ring_->read(op, fd, into, static_cast<std::int64_t>(offset.value()), begin);
}

Result<kernel::MappedMemory> FilePager::take_buffer(ByteCount size) {
  const auto kept = std::ranges::find_if(
      buffers_, [&](const auto& buffer) { return buffer.bytes().size() == size.value(); });
  if (kept == buffers_.end()) {
    return kernel::MappedMemory::create(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  }
  kernel::MappedMemory buffer = std::move(*kept);
  buffers_.erase(kept);
  return buffer;
}

void FilePager::give_back(kernel::MappedMemory buffer) {
  if (buffers_.size() < kMostBuffersKept) buffers_.push_back(std::move(buffer));
}

void FilePager::begin_stop() {
  mailbox_->post([this] { stopping_ = true; });
}

bool FilePager::join_until(std::chrono::steady_clock::time_point deadline) {
  if (!thread_.joinable()) return true;
  if (ended_.get_future().wait_until(deadline) != std::future_status::ready) return false;
  thread_.join();
  return true;
}

void FilePager::read_mail() {
  ring_->read(mail_, mailbox_->event_fd(), std::as_writable_bytes(std::span(&mail_count_, 1)), -1);
}

void FilePager::run() {
  ::pthread_setname_np(::pthread_self(), "file-pager");
  if (auto owned = ring_->own(); !owned) {
    log::critical("file pager: {}", owned.error().message());
    std::abort();
  }
  read_mail();
  // The read of the mailbox is always in flight.
  while (!stopping_ || ring_->in_flight() > 1) {
    if (auto waited = ring_->wait(); !waited) {
      // Faults that wait for a file would never be answered.
      log::critical("file pager: {}", waited.error().message());
      std::abort();
    }
    if (!std::exchange(mail_.come, false)) continue;
    read_mail();
    for (kernel::Mailbox::Letter& letter : mailbox_->take()) letter();
  }
  mailbox_->close();
  ring_->cancel(mail_);
  while (ring_->in_flight() > 0 && ring_->wait()) {
  }
  ended_.set_value();
}

Result<FilePager*> FilePagers::of(uid_t uid) {
  std::unique_ptr<FilePager>& pager = by_user_[uid];
  if (!pager) {
    auto made = FilePager::create();
    if (!made) return propagate(made);
    pager = std::move(*made);
  }
  return pager.get();
}

bool FilePagers::stop(std::chrono::steady_clock::time_point deadline) {
  for (const auto& [uid, pager] : by_user_) {
    if (pager) pager->begin_stop();
  }
  bool all = true;
  for (const auto& [uid, pager] : by_user_) {
    if (!pager || pager->join_until(deadline)) continue;
    log::line(log::Level::error, {.uid = uid}, "a file behind an object of uid {} does not answer",
              uid);
    all = false;
  }
  return all;
}

}  // namespace faultline::memory

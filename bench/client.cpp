// Handles of libfaultline as C++ objects, and the loops that touch memory.
#include "bench/client.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "bench/benchmark.hpp"

namespace faultline::bench {

namespace {

void require(int result) {
  if (result != 0) throw std::runtime_error(fl_last_error());
}

}  // namespace

Client::Client(const std::string& socket) {
  require(fl_connect(socket.c_str(), &client_));
}

Client::~Client() {
  fl_disconnect(client_);
}

Object Object::create(const Client& client, std::size_t bytes, const char* name) {
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.name = name;
  spec.size = bytes;
  spec.mode = 0600;
  fl_object* object = nullptr;
  require(fl_object_create(client.get(), &spec, &object));
  return Object(object);
}

Object Object::open(const Client& client, const char* name) {
  fl_object* object = nullptr;
  require(fl_object_open(client.get(), name, FL_READ_WRITE, &object));
  return Object(object);
}

Object::Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}

Object::~Object() {
  fl_object_close(object_);
}

FaultlineView::FaultlineView(const Client& client, const Object& object, std::size_t bytes,
                             std::uint32_t flags)
    : client_(client) {
  void* address = nullptr;
  require(fl_map(object.get(), 0, bytes, flags, &address));
  bytes_ = {static_cast<std::byte*>(address), bytes};
}

FaultlineView::~FaultlineView() {
  fl_unmap(client_.get(), const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

fl_stats FaultlineView::stats() const {
  fl_stats stats{};
  require(fl_mapping_stats(client_.get(), const_cast<std::byte*>(bytes_.data()), &stats));
  return stats;
}

PlainView::PlainView(const Object& object, std::size_t bytes, int flags) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, object.fd(), 0);
  if (address == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  bytes_ = {static_cast<std::byte*>(address), bytes};
}

PlainView::~PlainView() {
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void read_pages(Bytes bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += kPage) (void)touch(bytes[at]);
}

void write_pages(Bytes bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += kPage) bytes[at] = std::byte{1};
}

void populate(const Client& client, const Object& object, std::size_t bytes) {
  const FaultlineView view(client, object, bytes, FL_MAP_SHARED | FL_MAP_WRITE);
  write_pages(view.bytes());
}

}  // namespace faultline::bench

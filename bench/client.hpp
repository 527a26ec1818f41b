// The client side of a benchmark: connections, objects and views of them, Faultline's and plain.
// Must never return a view that cannot be used: what fails throws, with the library's own words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "faultline/faultline.h"

namespace faultline::bench {

class Client {
 public:
  explicit Client(const std::string& socket);
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client();
  [[nodiscard]] fl_client* get() const { return client_; }

 private:
  fl_client* client_ = nullptr;
};

class Object {
 public:
  // name may be null.
  static Object create(const Client& client, std::size_t bytes, const char* name);
  static Object open(const Client& client, const char* name);
  Object(Object&& other) noexcept;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ~Object();
  [[nodiscard]] fl_object* get() const { return object_; }
  [[nodiscard]] int fd() const { return fl_object_fd(object_); }

 private:
  explicit Object(fl_object* object) : object_(object) {}
  fl_object* object_;
};

using Bytes = std::span<volatile std::byte>;

// The first bytes of an object, through fl_map.
class FaultlineView {
 public:
  FaultlineView(const Client& client, const Object& object, std::size_t bytes, std::uint32_t flags);
  FaultlineView(const FaultlineView&) = delete;
  FaultlineView& operator=(const FaultlineView&) = delete;
  ~FaultlineView();
  [[nodiscard]] Bytes bytes() const { return bytes_; }
  [[nodiscard]] fl_stats stats() const;

 private:
  const Client& client_;
  Bytes bytes_;
};

// The same memfd, through mmap alone: the kernel answers the faults.
class PlainView {
 public:
  // flags: MAP_SHARED or MAP_PRIVATE
  PlainView(const Object& object, std::size_t bytes, int flags);
  PlainView(const PlainView&) = delete;
  PlainView& operator=(const PlainView&) = delete;
  ~PlainView();
  [[nodiscard]] Bytes bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

// Reads it for certain, whatever the optimizer thinks of it.
inline std::byte touch(const volatile std::byte& byte) {
  return byte;
}

void read_pages(Bytes bytes);   // one read in every page, in order
void write_pages(Bytes bytes);  // one write in every page, in order

// Every page of the object in memory, and the daemon knows it.
void populate(const Client& client, const Object& object, std::size_t bytes);

}  // namespace faultline::bench

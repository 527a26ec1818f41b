// libfaultline in C++20: the functions of faultline.h as owning, move-only types. Header only.
//
// Every function throws faultline::error where the C function fails, unless it is noexcept; it is
// as thread-safe, and blocks as long, as the C function. A default-constructed or moved-from object
// owns nothing, and only assignment, destruction and operator bool may be used on it.
#ifndef FAULTLINE_FAULTLINE_HPP
#define FAULTLINE_FAULTLINE_HPP

#if __cplusplus <= 201703L
#error "faultline.hpp needs C++20 (-std=c++20)"
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "faultline/error.hpp"
#include "faultline/faultline.h"

namespace faultline {

namespace detail {
struct disconnect {
  void operator()(fl_client* client) const noexcept { (void)fl_disconnect(client); }
};
struct close_object {
  void operator()(fl_object* object) const noexcept { (void)fl_object_close(object); }
};
struct free_job {
  void operator()(fl_job* job) const noexcept { (void)fl_job_free(job); }
};
}  // namespace detail

// What an object is opened for.
enum class access : std::uint32_t { read_only = FL_READ_ONLY, read_write = FL_READ_WRITE };
// Whose stores are seen through a mapping.
enum class sharing : std::uint32_t {
  shared = FL_MAP_SHARED,
  private_copy = FL_MAP_PRIVATE,
  private_by_page = FL_MAP_PRIVATE | FL_MAP_WAIT_BY_PAGE,  // whose words are waited for by page
};
// What may be done with a mapping; a store where it may only be read raises SIGSEGV.
enum class protection : std::uint32_t { read = 0, read_write = FL_MAP_WRITE };
// What becomes of what is mapped at a chosen address: it goes, or it stays, with EEXIST.
enum class placing : std::uint32_t {
  replace = FL_MAP_FIXED,
  only_where_free = FL_MAP_FIXED_NOREPLACE,
};

// What is given up, see fl_discard: this process's private pages, or the object's own.
enum class discard : std::uint32_t { copies = FL_DISCARD_COPIES, content = FL_DISCARD_CONTENT };
// How a range will be used, see fl_advise.
enum class advice : std::uint32_t {
  normal = FL_ADVICE_NORMAL,
  sequential = FL_ADVICE_SEQUENTIAL,
  random = FL_ADVICE_RANDOM,
  will_need = FL_ADVICE_WILL_NEED,
  cold = FL_ADVICE_COLD,
  page_out = FL_ADVICE_PAGEOUT,
};
// What a range is made ready for, see fl_populate.
enum class populate : std::uint32_t { read = 0, write = FL_POPULATE_WRITE };

// A range that is being populated; cancelled when it goes, where it has not ended. Not to be moved
// or destroyed while a thread waits for it.
class job {
 public:
  job() = default;

  // Whether there is one.
  explicit operator bool() const noexcept { return job_ != nullptr; }
  // Readable when it has ended, see fl_job_fd; it stays the library's.
  [[nodiscard]] int fd() const noexcept { return fl_job_fd(job_.get()); }
  // How far it is, see fl_job_progress.
  [[nodiscard]] fl_progress progress() const {
    fl_progress progress{};
    detail::check(fl_job_progress(job_.get(), &progress));
    return progress;
  }
  // Throws what the first page that could not be had failed with, too.
  void wait() const { detail::check(fl_job_wait(job_.get())); }

 private:
  friend class mapping;
  explicit job(fl_job* started) : job_(started) {}

  std::unique_ptr<fl_job, detail::free_job> job_;
};

// A mapped range of this process; unmapped when it goes. A fork child owns its own copy of every
// mapping. Where another mapping was placed over it, it must not outlive that one: it would unmap
// what is there then.
class mapping {
 public:
  // For the length of a part: the rest of the mapping.
  static constexpr std::size_t to_end = static_cast<std::size_t>(-1);

  mapping() = default;
  // The other owns nothing afterwards.
  mapping(mapping&& other) noexcept
      : client_(std::move(other.client_)), bytes_(std::exchange(other.bytes_, {})) {}
  // Unmaps what this owned; the other owns nothing afterwards.
  mapping& operator=(mapping&& other) noexcept {
    if (this != &other) {
      reset();
      client_ = std::move(other.client_);
      bytes_ = std::exchange(other.bytes_, {});
    }
    return *this;
  }
  mapping(const mapping&) = delete;
  mapping& operator=(const mapping&) = delete;
  ~mapping() { reset(); }

  // Whether anything is mapped.
  explicit operator bool() const noexcept { return !bytes_.empty(); }
  // Where it begins: whole pages.
  [[nodiscard]] std::byte* data() const noexcept { return bytes_.data(); }
  // In bytes: whole pages.
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
  // Storing through it where the mapping is read-only raises SIGSEGV.
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }
  // The mapping as an array of T, as many as fit; T must be a type for which any bytes are a value.
  template <typename T>
  [[nodiscard]] std::span<T> as() const noexcept {
    return {reinterpret_cast<T*>(bytes_.data()), bytes_.size() / sizeof(T)};
  }
  // Its counters, see fl_mapping_stats. Blocks for the daemon's answer.
  [[nodiscard]] fl_stats stats() const {
    fl_stats stats{};
    detail::check(fl_mapping_stats(client_.get(), bytes_.data(), &stats));
    return stats;
  }

  // What follows takes a part of it: offset and length in bytes, whole pages; all of it by default.

  // Changes what may be done with it, see fl_protect.
  void protect(protection rights, std::size_t offset = 0, std::size_t length = to_end) const {
    const std::uint32_t flags = rights == protection::read_write ? FL_PROTECT_WRITE : 0;
    on(offset, length,
       [&](void* at, std::size_t bytes) { return fl_protect(client_.get(), at, bytes, flags); });
  }
  // Gives pages up, see fl_discard.
  void discard(faultline::discard what, std::size_t offset = 0, std::size_t length = to_end) const {
    on(offset, length, [&](void* at, std::size_t bytes) {
      return fl_discard(client_.get(), at, bytes, static_cast<std::uint32_t>(what));
    });
  }
  // Says how it will be used, see fl_advise.
  void advise(advice how, std::size_t offset = 0, std::size_t length = to_end) const {
    on(offset, length, [&](void* at, std::size_t bytes) {
      return fl_advise(client_.get(), at, bytes, static_cast<std::uint32_t>(how));
    });
  }
  // Makes it resident and maps it, see fl_populate. Blocks until that is done.
  void populate(faultline::populate what, std::size_t offset = 0,
                std::size_t length = to_end) const {
    on(offset, length, [&](void* at, std::size_t bytes) {
      return fl_populate(client_.get(), at, bytes, static_cast<std::uint32_t>(what));
    });
  }
  // The same in the background, see fl_populate_start.
  [[nodiscard]] job start_populate(faultline::populate what, std::size_t offset = 0,
                                   std::size_t length = to_end) const {
    fl_job* started = nullptr;
    on(offset, length, [&](void* at, std::size_t bytes) {
      return fl_populate_start(client_.get(), at, bytes, static_cast<std::uint32_t>(what),
                               &started);
    });
    return job{started};
  }
  // Grows or shrinks it, where it is or, where that cannot be, at another address.
  void resize(std::size_t length) { remap(length, FL_REMAP_MAYMOVE, nullptr); }
  // To an address, a multiple of the page size, in place of whatever is mapped there.
  void move_to(void* address) { remap(size(), FL_REMAP_MAYMOVE | FL_REMAP_FIXED, address); }

  // Unmaps it now.
  void reset() noexcept {
    if (!bytes_.empty()) (void)fl_unmap(client_.get(), bytes_.data(), bytes_.size());
    bytes_ = {};
    client_.reset();
  }

 private:
  friend class object;
  mapping(std::shared_ptr<fl_client> client, std::span<std::byte> bytes)
      : client_(std::move(client)), bytes_(bytes) {}

  template <typename Call>
  void on(std::size_t offset, std::size_t length, Call call) const {
    // Past its end another mapping may stand: no bytes, which is refused.
    const std::size_t rest = offset <= size() ? size() - offset : 0;
    const std::size_t bytes = length == to_end ? rest : (length <= rest ? length : 0);
    detail::check(call(bytes_.data() + offset, bytes));
  }
  void remap(std::size_t length, std::uint32_t flags, void* address) {
    const int result =
        fl_remap(client_.get(), bytes_.data(), bytes_.size(), length, flags, &address);
    // Moved all the same, where the daemon could not be told.
    const bool moved = result == 0 || (address != nullptr && address != bytes_.data() &&
                                       (flags & FL_REMAP_FIXED) == 0);
    if (moved) bytes_ = {static_cast<std::byte*>(address), length};
    detail::check(result);
  }

  std::shared_ptr<fl_client> client_;
  std::span<std::byte> bytes_;
};

// An open memory object; closed when it goes. Its mappings stay.
class object {
 public:
  object() = default;

  // Whether it is open.
  explicit operator bool() const noexcept { return object_ != nullptr; }
  // [offset, offset + length) of it; a length of nothing: to its end. Bytes, multiples of the page
  // size.
  [[nodiscard]] mapping map(sharing kind, protection rights = protection::read_write,
                            std::uint64_t offset = 0,
                            std::optional<std::size_t> length = std::nullopt) const {
    return map(nullptr, 0, kind, rights, offset, length);
  }
  // The same at an address, a multiple of the page size; whatever is mapped there is replaced, or
  // stands in the way.
  [[nodiscard]] mapping map_at(void* address, placing how, sharing kind,
                               protection rights = protection::read_write, std::uint64_t offset = 0,
                               std::optional<std::size_t> length = std::nullopt) const {
    return map(address, static_cast<std::uint32_t>(how), kind, rights, offset, length);
  }
  // What it is, and how much of it is in memory, see fl_object_stat. Blocks for the daemon's
  // answer.
  [[nodiscard]] fl_object_info info() const {
    fl_object_info info{};
    detail::check(fl_object_stat(object_.get(), &info));
    return info;
  }
  // The memfd; it stays the library's.
  [[nodiscard]] int fd() const noexcept { return fl_object_fd(object_.get()); }
  // For the functions of faultline.h; it stays this object's.
  [[nodiscard]] fl_object* get() const noexcept { return object_.get(); }

 private:
  friend class client;
  object(std::shared_ptr<fl_client> client, fl_object* opened)
      : client_(std::move(client)), object_(opened) {}

  mapping map(void* address, std::uint32_t placed, sharing kind, protection rights,
              std::uint64_t offset, std::optional<std::size_t> length) const {
    const fl_object_info info = this->info();
    const std::uint64_t size = info.size;
    // At or past the end, one page, which fl_map refuses for what it is.
    const std::size_t bytes = length.value_or(size > offset ? size - offset : info.page_size);
    const std::uint32_t flags =
        placed | static_cast<std::uint32_t>(kind) | static_cast<std::uint32_t>(rights);
    detail::check(fl_map(object_.get(), offset, bytes, flags, &address));
    return mapping{client_, {static_cast<std::byte*>(address), bytes}};
  }

  std::shared_ptr<fl_client> client_;
  std::unique_ptr<fl_object, detail::close_object> object_;
};

// What an object is made of, for client::create.
struct object_spec {
  std::string name{};             // empty: anonymous
  std::uint64_t size{};           // bytes; with a file, 0 means to its end
  std::uint32_t mode = 0600;      // permission bits: who may open it by its name
  int file_fd = -1;               // stays the caller's; -1: filled with zeroes
  std::uint64_t file_offset = 0;  // bytes; a multiple of the page size
  std::uint32_t page_size = 0;    // bytes: 4096 or 2097152; 0 for the default, 4096
};

// A connection to a daemon. Objects and mappings keep it; it need not outlive them.
class client {
 public:
  client() = default;
  client(client&&) noexcept = default;
  client& operator=(client&&) noexcept = default;
  client(const client&) = delete;
  client& operator=(const client&) = delete;
  ~client() = default;
  // Connects to the default socket, see fl_connect.
  static client connect() { return client{nullptr}; }
  // Connects to the daemon that listens there.
  static client connect(const std::string& socket_path) { return client{socket_path.c_str()}; }

  // Whether it is one.
  explicit operator bool() const noexcept { return client_ != nullptr; }
  // Makes an object and opens it for reading and writing, see fl_object_create.
  [[nodiscard]] object create(const object_spec& spec) const {
    fl_object_spec c_spec{};
    c_spec.struct_size = sizeof(c_spec);
    c_spec.name = spec.name.empty() ? nullptr : spec.name.c_str();
    c_spec.size = spec.size;
    c_spec.mode = spec.mode;
    c_spec.flags = spec.file_fd >= 0 ? FL_FROM_FILE : 0;
    c_spec.file_fd = spec.file_fd;
    c_spec.file_offset = spec.file_offset;
    c_spec.page_size = spec.page_size;
    fl_object* made = nullptr;
    detail::check(fl_object_create(client_.get(), &c_spec, &made));
    return object{client_, made};
  }
  // Opens a named object, see fl_object_open.
  [[nodiscard]] object open(const std::string& name, access rights = access::read_write) const {
    fl_object* opened = nullptr;
    detail::check(
        fl_object_open(client_.get(), name.c_str(), static_cast<std::uint32_t>(rights), &opened));
    return object{client_, opened};
  }
  // Takes an object's name away; it lives on while it is open or mapped.
  void unlink(const std::string& name) const {
    detail::check(fl_object_unlink(client_.get(), name.c_str()));
  }
  // This process's counters, see fl_process_stats. Blocks for the daemon's answer.
  [[nodiscard]] fl_stats stats() const {
    fl_stats stats{};
    detail::check(fl_process_stats(client_.get(), &stats));
    return stats;
  }
  // For the functions of faultline.h; it stays this object's.
  [[nodiscard]] fl_client* get() const noexcept { return client_.get(); }

 private:
  explicit client(const char* socket_path) {
    fl_client* connected = nullptr;
    detail::check(fl_connect(socket_path, &connected));
    client_ = std::shared_ptr<fl_client>(connected, detail::disconnect{});
  }

  std::shared_ptr<fl_client> client_;
};

}  // namespace faultline

#include "faultline/pin.hpp"
#include "faultline/sync.hpp"
#include "faultline/wait.hpp"

#endif  // FAULTLINE_FAULTLINE_HPP

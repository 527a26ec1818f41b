// A file read past the page cache straight into memory that other processes map: window by window a
// region is pinned, its pages are registered as buffers of an io_uring, and O_DIRECT reads fill
// them. Another process, which has the region mapped all the while, then finds there what the file
// holds: the same SHA-256.
//
//   direct_io [FILE]     without one, a file of random bytes is made and removed
#include <fcntl.h>
#include <liburing.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <faultline/faultline.hpp>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr std::size_t kBlock = 128 * 1024;  // of one read
constexpr unsigned kDepth = 16;             // reads at a time
// Pinned at a time. A process may usually lock 8 MiB (ulimit -l); the kernel counts what is
// registered, Faultline what is pinned.
constexpr std::size_t kWindow = 4 << 20;
constexpr std::size_t kMadeUp = 64 << 20;

[[noreturn]] void give_up(int code, const std::string& attempted) {
  throw std::system_error(code, std::generic_category(), attempted);
}

class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (fd_ < 0 && errno == EINVAL && (flags & O_DIRECT) != 0) {
      give_up(EINVAL, "opening " + path + " with O_DIRECT, which its file system may not have");
    }
    if (fd_ < 0) give_up(errno, "opening " + path);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(fd_); }
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] std::size_t size() const {
    struct stat info {};
    if (::fstat(fd_, &info) != 0) give_up(errno, "looking at a file");
    if (!S_ISREG(info.st_mode)) give_up(EINVAL, "reading what is not a regular file");
    return static_cast<std::size_t>(info.st_size);
  }

 private:
  int fd_;
};

// Of random bytes, and no name; readable through the path for as long as the descriptor is open.
std::string make_up(File& file) {
  std::mt19937_64 random(std::random_device{}());
  std::vector<std::uint64_t> some(kBlock / sizeof(std::uint64_t));
  for (std::size_t at = 0; at < kMadeUp; at += kBlock) {
    std::ranges::generate(some, std::ref(random));
    if (::pwrite(file.fd(), some.data(), kBlock, static_cast<off_t>(at)) !=
        static_cast<ssize_t>(kBlock)) {
      give_up(errno, "writing a file");
    }
  }
  if (::fsync(file.fd()) != 0) give_up(errno, "fsync");
  return "/proc/self/fd/" + std::to_string(file.fd());
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void add(const void* bytes, std::size_t count) { EVP_DigestUpdate(context_.get(), bytes, count); }
  std::string hex() {
    std::array<unsigned char, 32> digest{};
    EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
    std::string text;
    for (const unsigned char byte : digest) {
      std::array<char, 3> two{};
      std::snprintf(two.data(), two.size(), "%02x", byte);
      text += two.data();
    }
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

std::string sha256_of(const File& file) {
  Sha256 sum;
  std::vector<char> some(kBlock);
  for (;;) {
    const ssize_t got = ::read(file.fd(), some.data(), some.size());
    if (got < 0) give_up(errno, "reading a file");
    if (got == 0) return sum.hex();
    sum.add(some.data(), static_cast<std::size_t>(got));
  }
}

// An io_uring that reads a file into pinned pages.
class Reader {
 public:
  explicit Reader(const File& file) : file_(file) {
    if (const int made = ::io_uring_queue_init(kDepth, &ring_, 0); made < 0) {
      give_up(-made, "io_uring_setup");
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { ::io_uring_queue_exit(&ring_); }

  // Fills the pages with so many bytes of the file. The last block may go beyond its end.
  void read(const faultline::pin& pages, std::size_t from, std::size_t bytes) {
    const std::vector<iovec> buffers = pages.iovecs();
    const int registered =
        ::io_uring_register_buffers(&ring_, buffers.data(), static_cast<unsigned>(buffers.size()));
    if (registered < 0) {
      give_up(-registered, "registering pinned pages as buffers (ulimit -l allows how many)");
    }
    memory_ = pages.bytes().data();
    from_ = from;
    read(bytes);
    if (const int over = ::io_uring_unregister_buffers(&ring_); over < 0) {
      give_up(-over, "io_uring_unregister_buffers");
    }
  }

 private:
  void read(std::size_t bytes) {
    std::size_t begun = 0;
    for (unsigned i = 0; i < kDepth && begun < bytes; ++i, begun += kBlock) begin(begun);
    for (std::size_t done = 0; done < bytes; done += kBlock) {
      ::io_uring_submit(&ring_);
      io_uring_cqe* completion = nullptr;
      if (const int waited = ::io_uring_wait_cqe(&ring_, &completion); waited < 0) {
        give_up(-waited, "io_uring_wait_cqe");
      }
      const std::size_t at = completion->user_data;
      const int result = completion->res;
      ::io_uring_cqe_seen(&ring_, completion);
      if (result < 0) give_up(-result, "reading with O_DIRECT");
      if (static_cast<std::size_t>(result) < std::min(kBlock, bytes - at)) {
        give_up(EIO, "reading a file that shrank");
      }
      if (begun < bytes) {
        begin(begun);
        begun += kBlock;
      }
    }
  }

  // A window is one buffer: each may be of 1 GiB.
  void begin(std::size_t at) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_read_fixed(entry, file_.fd(), memory_ + at, kBlock, from_ + at, 0);
    entry->user_data = at;
  }

  const File& file_;
  io_uring ring_{};
  std::byte* memory_ = nullptr;
  std::size_t from_ = 0;
};

// What another process makes of the region, once it is told that it is filled. It says first that
// it has it mapped, by a byte.
pid_t start_other(const std::string& object, std::size_t bytes, std::array<int, 2> go,
                  std::array<int, 2> said) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  int code = EXIT_FAILURE;
  try {
    ::close(go[1]);
    const auto client = faultline::client::connect();
    const auto mapped = client.open(object, faultline::access::read_only)
                            .map(faultline::sharing::shared, faultline::protection::read);
    char one = 0;
    if (::write(said[1], "x", 1) == 1 && ::read(go[0], &one, 1) == 1) {
      Sha256 sum;
      sum.add(mapped.bytes().data(), bytes);
      const std::string text = sum.hex();
      if (::write(said[1], text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
        code = EXIT_SUCCESS;
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "direct_io: the other process: %s\n", error.what());
  }
  std::_Exit(code);
}

// An object's name, for as long as it is to be opened by.
class Named {
 public:
  Named(const faultline::client& client, std::string name)
      : client_(client), name_(std::move(name)) {}
  Named(const Named&) = delete;
  Named& operator=(const Named&) = delete;
  ~Named() { (void)fl_object_unlink(client_.get(), name_.c_str()); }

 private:
  const faultline::client& client_;
  std::string name_;
};

void run(const std::string& path) {
  const File file(path, O_RDONLY);
  const std::size_t bytes = file.size();
  if (bytes == 0) give_up(EINVAL, "reading an empty file");
  const std::string expected = sha256_of(file);
  const File direct(path, O_RDONLY | O_DIRECT);

  const auto client = faultline::client::connect();
  const std::string name = "direct_io." + std::to_string(::getpid());
  const std::size_t region = (bytes + kBlock - 1) / kBlock * kBlock;
  const auto object = client.create({.name = name, .size = region});
  const Named named(client, name);
  std::array<int, 2> go{};
  std::array<int, 2> said{};
  if (::pipe(go.data()) != 0 || ::pipe(said.data()) != 0) give_up(errno, "making pipes");
  const pid_t other = start_other(name, bytes, go, said);
  ::close(said[1]);  // so that its end is seen
  char one = 0;
  if (::read(said[0], &one, 1) != 1)
    give_up(EIO, "waiting for the other process to map the region");

  const auto mapped = object.map(faultline::sharing::shared);
  Reader reader(direct);
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t at = 0; at < bytes; at += kWindow) {
    const auto window = mapped.bytes().subspan(at, std::min(kWindow, region - at));
    const faultline::pin pages(window, faultline::pin_for::writing);
    reader.read(pages, at, std::min(kWindow, bytes - at));
    if (pages.state() != faultline::pin_state::held) give_up(EFAULT, "keeping a window pinned");
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf("read %zu bytes with O_DIRECT, at most %zu KiB pinned at a time: %.0f MiB/s\n", bytes,
              kWindow / 1024, static_cast<double>(bytes) / took.count() / (1 << 20));

  if (::write(go[1], "x", 1) != 1) give_up(errno, "telling the other process");
  std::string found(expected.size(), '\0');
  const ssize_t got = ::read(said[0], found.data(), found.size());
  ::waitpid(other, nullptr, 0);
  std::printf("file:          %s\n", expected.c_str());
  std::printf("other process: %s\n", got > 0 ? found.c_str() : "(nothing)");
  if (found != expected) give_up(EIO, "finding the file's content in another process");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
    std::fprintf(stderr, "usage: direct_io [FILE]\n");
    return 2;
  }
  if (argc == 2) {
    run(argv[1]);
    return EXIT_SUCCESS;
  }
  const char* const directory = std::getenv("TMPDIR");
  File made(directory != nullptr ? directory : "/var/tmp", O_TMPFILE | O_RDWR);
  run(make_up(made));
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::fprintf(stderr, "direct_io: %s\n", error.what());
  return EXIT_FAILURE;
}

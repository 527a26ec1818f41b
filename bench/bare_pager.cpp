#include "bench/bare_pager.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "bench/benchmark.hpp"

namespace faultline::bench {

namespace {

// linux/userfaultfd.h, Linux 6.1: makes a userfaultfd from /dev/userfaultfd.
constexpr unsigned long kNewUserfaultfd = _IO(0xAA, 0x00);

void require(bool done, const char* what) {
  if (!done) throw std::system_error(errno, std::generic_category(), what);
}

UniqueFd make_memfd(std::size_t bytes) {
  UniqueFd fd{::memfd_create("faultline-bench", MFD_CLOEXEC)};
  require(static_cast<bool>(fd), "memfd_create");
  require(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0, "ftruncate of a memfd");
  return fd;
}

UniqueFd make_userfaultfd() {
  const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  require(static_cast<bool>(device), "opening /dev/userfaultfd");
  UniqueFd fd{::ioctl(device.get(), kNewUserfaultfd, O_CLOEXEC)};
  require(static_cast<bool>(fd), "making a userfaultfd");
  uffdio_api api{UFFD_API, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, 0};
  require(::ioctl(fd.get(), UFFDIO_API, &api) == 0, "UFFDIO_API");
  return fd;
}

std::byte* map_filled(int fd, std::size_t bytes) {
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  require(at != MAP_FAILED, "mmap of a memfd");
  auto* first = static_cast<std::byte*>(at);
  write_pages({first, bytes});
  return first;
}

}  // namespace

BarePager::BarePager(std::size_t bytes, unsigned workers)
    : bytes_(bytes),
      workers_(workers),
      memfd_(make_memfd(bytes)),
      userfaultfd_(make_userfaultfd()),
      source_(map_filled(memfd_.get(), bytes)),
      child_([this] {
        std::vector<std::thread> others;
        for (unsigned i = 1; i < workers_; ++i) others.emplace_back([this] { serve(); });
        serve();
      }) {}

void BarePager::serve() const {
  // What to do is told from the kind of access alone, and which page is copied does not matter.
  for (;;) {
    uffd_msg message{};
    require(::read(userfaultfd_.get(), &message, sizeof(message)) == sizeof(message),
            "reading a userfaultfd");
    const auto& fault = message.arg.pagefault;
    const std::uint64_t page = fault.address & ~(kPage - 1);
    if ((fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) == 0) {
      uffdio_continue request{{page, kPage}, 0, 0};
      require(::ioctl(userfaultfd_.get(), UFFDIO_CONTINUE, &request) == 0, "UFFDIO_CONTINUE");
    } else {
      uffdio_copy request{};
      request.dst = page;
      request.src = reinterpret_cast<std::uintptr_t>(source_ + page % bytes_);
      request.len = kPage;
      require(::ioctl(userfaultfd_.get(), UFFDIO_COPY, &request) == 0, "UFFDIO_COPY");
    }
  }
}

BarePager::View::View(const BarePager& pager, bool shared) {
  void* at = ::mmap(nullptr, pager.bytes_, PROT_READ | PROT_WRITE,
                    shared ? MAP_SHARED : MAP_PRIVATE, pager.memfd_.get(), 0);
  require(at != MAP_FAILED, "mmap of a memfd");
  bytes_ = {static_cast<std::byte*>(at), pager.bytes_};
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uintptr_t>(at), pager.bytes_};
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
  require(::ioctl(pager.userfaultfd_.get(), UFFDIO_REGISTER, &request) == 0, "UFFDIO_REGISTER");
}

BarePager::View::~View() {
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace faultline::bench

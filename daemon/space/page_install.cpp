#include "daemon/space/page_install.hpp"

#include <cerrno>
#include <cstddef>

#include "daemon/kernel/zeroes.hpp"

namespace faultline::space {

namespace {

using kernel::RangeResult;
using kernel::WriteProtect;

constexpr PageCount kOnePage{1};

// Calls one(page, count) -> RangeResult until count pages are done. present says what to do at a
// page that is there already: true to go on behind it.
template <typename One, typename Present>
Installed install(const Vma& vma, PageIndex page, PageCount count, One one, Present present) {
  Installed result;
  PageIndex at = page;
  PageIndex end = page + count;
  while (at < end) {
    const RangeResult done = one(at, end - at);
    if (done.done > ByteCount{0}) {
      const PageCount pages = vma.page_size().pages(done.done);
      result.made += pages.value();
      at = at + pages;
    } else if (done.error == EEXIST && present(at)) {
      result.present = result.present || at == page;
      at = at + kOnePage;
    } else if (at == page && done.error == ENOENT && end > at + kOnePage) {
      end = at + kOnePage;  // the client's own mprotect cut the mapping in two: this page alone
    } else {
      if (at == page) result.error = done.error;
      break;
    }
  }
  result.reached = at - page;
  return result;
}

}  // namespace

PageCount Parting::record(const Vma& vma, PageIndex page, PageCount count) const {
  if (!vma.activity->by_page()) return vma.activity->record_break(page, count);
  PageCount parted;
  for (PageIndex at = page; at < page + count; at = at + kOnePage) {
    parted = parted + observer_.page_parts(space_, vma, at);
  }
  return parted;
}

Installed map_pages(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                    PageCount count, WriteProtect wp) {
  return install(
      vma, page, count,
      [&](PageIndex at, PageCount n) {
        const RangeResult done =
            uffd.continue_range(vma.address_of(at), vma.page_size().bytes(n), wp);
        if (done.error == EFAULT) vma.object->recheck(at);
        return done;
      },
      [&](PageIndex at) {
        // Another thread's fault was answered first; who sleeps there must be woken all the same.
        if (at == page) uffd.wake(vma.address_of(at), vma.page_size().bytes());
        return true;
      });
}

Installed let_store(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                    PageCount count) {
  RangeResult done = uffd.write_unprotect(vma.address_of(page), vma.page_size().bytes(count));
  if (done.error == ENOENT && count > kOnePage) {
    // The client's own mprotect cut the mapping in two: this page alone.
    count = kOnePage;
    done = uffd.write_unprotect(vma.address_of(page), vma.page_size().bytes());
  }
  Installed result{.error = done.error};
  if (done.error == 0) {
    result.reached = count;
    result.made = count.value();
  }
  return result;
}

PageCount most_zeroes(PageSize page_size) {
  return page_size.pages(ByteCount{kernel::zeroes().size()});
}

Installed copy_pages(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                     PageCount count, Source source, Present present, const Parting& parting) {
  PageCount parted;
  const bool by_page = vma.activity->by_page();
  const bool exact = vma.activity->exact();
  Installed result = install(
      vma, page, count,
      [&](PageIndex at, PageCount n) {
        // The writer runs as soon as its page is there, and may ask who it is at once: of a word's
        // value, for one. Where waits follow the page, they must have followed before.
        const bool first = exact || at == page;
        const PageCount recorded = first ? parting.record(vma, at, kOnePage) : PageCount{0};
        if (exact) n = kOnePage;
        const std::byte* from =
            source == Source::zeroes ? kernel::zeroes().data() : vma.object->content(at);
        const RangeResult done =
            uffd.copy_range(vma.address_of(at), from, vma.page_size().bytes(n));
        if (done.error == EFAULT) vma.object->recheck(at);
        const PageCount made = vma.page_size().pages(done.done);
        if (made == PageCount{0} && !by_page && recorded > PageCount{0}) {
          vma.activity->forget_break(at, kOnePage);
        } else {
          parted = parted + recorded;
        }
        if (exact) vma.activity->settle(at, made);
        if (first && made <= kOnePage) return done;
        const PageIndex rest = first ? at + kOnePage : at;
        if (made > PageCount{0}) parted = parted + parting.record(vma, rest, at + made - rest);
        return done;
      },
      [&](PageIndex at) { return at != page && present == Present::passed_over; });
  result.parted = parted;
  return result;
}

Installed unprotect_pages(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                          PageCount count, const Parting& parting) {
  Installed result;
  for (;;) {
    // Recorded first: once the protection is lifted the kernel copies at the next write, without a
    // word.
    result.parted = result.parted + parting.record(vma, page, count);
    const RangeResult done =
        uffd.write_unprotect(vma.address_of(page), vma.page_size().bytes(count));
    if (done.error == 0) {
      result.reached = count;
      return result;
    }
    if (done.error != ENOENT || count == kOnePage) {
      result.error = done.error;
      return result;
    }
    count = kOnePage;
  }
}

}  // namespace faultline::space

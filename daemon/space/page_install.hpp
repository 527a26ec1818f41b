// Puts pages of an object into a client's page tables, many at a time. Must never decide what a
// fault gets, and never keep a range's error when its first page was done: the rest faults again.
//
// Thread-safe: the kernel serialises what meets in one page, and EEXIST tells who came second.
#pragma once

#include <cstdint>

#include "daemon/kernel/userfaultfd.hpp"
#include "daemon/space/space_observer.hpp"
#include "daemon/space/vma.hpp"

namespace faultline::space {

struct Installed {
  PageCount reached{};     // from the first page on: installed now, or there already
  std::uint64_t made = 0;  // of them, installed now
  PageCount parted{};      // of them, not recorded as broken before
  int error = 0;           // why the first page was not reached; 0 where it was
  bool present = false;    // the first page was there already, and passed over
  // Of the pages made, those that are not the first.
  [[nodiscard]] std::uint64_t beside() const { return made - (made > 0 && !present ? 1 : 0); }
};

// Records that pages part from the object or from a fork relative's.
class Parting {
 public:
  Parting(SpaceObserver& observer, SpaceId space) : observer_(observer), space_(space) {}
  // Before the writer goes on. Returns how many were not recorded as broken before.
  PageCount record(const Vma& vma, PageIndex page, PageCount count) const;

 private:
  SpaceObserver& observer_;
  SpaceId space_;
};

// Maps the object's own pages, which are resident.
[[nodiscard]] Installed map_pages(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                                  PageCount count, kernel::WriteProtect wp);

// Lets the client store to the object's pages that are mapped write-protected in a shared mapping.
[[nodiscard]] Installed let_store(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                                  PageCount count);

// Installs private copies of the object's pages, which are resident, or of zeroes. Every page that
// was made is recorded as broken, for which the activity is prepared. EEXIST where the first page
// is there already; another that is ends the run, or is passed over.
enum class Source { object, zeroes };
enum class Present { ends_it, passed_over };
[[nodiscard]] Installed copy_pages(const kernel::Userfaultfd& uffd, const Vma& vma, PageIndex page,
                                   PageCount count, Source source, Present present,
                                   const Parting& parting);
// The most that can be copied from zeroes at once.
[[nodiscard]] PageCount most_zeroes(PageSize page_size);

// Lets the client write to pages that are mapped write-protected, which the kernel then copies.
// They are recorded as broken, for which the activity is prepared.
[[nodiscard]] Installed unprotect_pages(const kernel::Userfaultfd& uffd, const Vma& vma,
                                        PageIndex page, PageCount count, const Parting& parting);

}  // namespace faultline::space

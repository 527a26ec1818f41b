// Where a word of a mapping is in its object.
#pragma once

#include "daemon/memory/memory_object.hpp"
#include "daemon/space/vma.hpp"

namespace faultline::wait {

inline ByteCount offset_in(const space::Vma& vma, Vaddr address) {
  return vma.page_size().offset_of(vma.first) + (address - vma.start);
}

// From the beginning of its page, bytes.
inline std::uint32_t in_page(const space::Vma& vma, Vaddr address) {
  return static_cast<std::uint32_t>((address - vma.page_size().round_down(address)).value());
}

// Whether the word's page is in no memory: neither private to the client, nor the object's.
inline bool away(const space::Vma& vma, Vaddr address) {
  const PageIndex page = vma.page_at(address);
  return vma.activity->broken(page, PageCount{1}) == PageCount{0} &&
         vma.object->pages().state(page) != memory::PageState::resident;
}

}  // namespace faultline::wait

// Mappings with words to wait for, for tests: pieces of one object, without any memory behind them
// in a client. Must never be looked at by content.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "daemon/space/vma.hpp"

namespace faultline::testing {

inline constexpr std::size_t kMappedPages = 16;

inline std::shared_ptr<memory::MemoryObject> object_of_pages(std::size_t pages = kMappedPages) {
  memory::ObjectSpec spec;
  spec.content_size = ByteCount{pages * 4096};
  auto object = memory::MemoryObject::create(ObjectId{1}, std::move(spec));
  if (!object) ADD_FAILURE() << object.error().message();
  return *object;
}

// The whole object.
inline space::Vma mapping_of(const std::shared_ptr<memory::MemoryObject>& object,
                             space::Sharing sharing, space::ByPage by_page, Vaddr start) {
  space::Vma vma;
  vma.start = start;
  vma.end = start + object->size();
  vma.object = object;
  vma.first = PageIndex{0};
  vma.sharing = sharing;
  vma.activity = std::make_shared<space::VmaActivity>(vma.first, object->page_count(), by_page);
  EXPECT_TRUE(vma.activity->prepare_breaks());
  return vma;
}

// The same mapping in a fork child, made as the library makes one: its private pages are
// write-protected before.
inline space::Vma forked(const space::Vma& parent) {
  (void)parent.activity->guard(parent.first, parent.pages());
  space::Vma child = parent;
  auto activity = parent.activity->clone();
  EXPECT_TRUE(activity);
  child.activity = std::move(*activity);
  return child;
}

}  // namespace faultline::testing

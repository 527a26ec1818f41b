#include "libclient/object_view.hpp"

#include <sys/mman.h>

#include "libclient/failure.hpp"
#include "libclient/place.hpp"

namespace faultline::client {

std::shared_ptr<const ObjectView> ObjectView::open(const wire::ObjectReply& object,
                                                   const UniqueFd& board) {
  const std::size_t bytes = wire::kBoardStates + object.size / object.page_size;
  void* const mapped =
      ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, board.get(), 0);
  if (mapped == MAP_FAILED) throw_errno("mapping an object's board");
  return {new ObjectView(object, static_cast<std::byte*>(mapped), bytes),
          [](const ObjectView* view) {
            places_changed();
            give_back_later(std::unique_ptr<const Retirable>(view));
          }};
}

ObjectView::~ObjectView() {
  ::munmap(board_, board_bytes_);
  if (has_pages()) ::munmap(const_cast<std::byte*>(word(0)), size_);
}

}  // namespace faultline::client

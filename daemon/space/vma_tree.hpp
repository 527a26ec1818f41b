// The VMAs of one address space: disjoint half-open intervals in order, in an epoch tree. Must
// never hold two that overlap, and never let go of a VMA that somebody still uses. Keeps the number
// of pieces in the activities of its VMAs, which therefore must be in no other VmaTree.
//
// Life of a VMA:
//   1. A writer makes a record of it and publishes a version of the tree that has it.
//   2. A reader finds it within a section of the domain and takes a reference, with which it may
//      sleep outside the section: an ioctl on the client's userfaultfd waits for its memory map.
//   3. A writer publishes a version without it, closes its gate, and waits for the references.
//      Who comes late finds the gate closed, and looks again: the version without it was published
//      before. So once the writer returns nobody acts on what it took out.
//   4. The record is retired, and freed when every section that could see it has ended; with it go
//      its references to the object and to the activity.
//
// Thread-safe for readers; writers of one tree take turns (the space's Turn). A writer blocks for
// the references of others, and must hold none.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/epoch/domain.hpp"
#include "daemon/epoch/gate.hpp"
#include "daemon/epoch/interval_tree.hpp"
#include "daemon/space/vma.hpp"

namespace faultline::space {

// A VMA in a tree, and the callback that frees it.
struct VmaRecord final : epoch::Domain::Callback {
  explicit VmaRecord(Vma made);
  const Vma vma;
  epoch::Gate gate;
};

// Keeps a VMA, and whoever removes it waiting. Null where none was found.
class VmaRef {
 public:
  VmaRef() = default;
  // Takes over a reference that was got.
  VmaRef(epoch::Domain& domain, VmaRecord& record) : domain_(&domain), record_(&record) {}
  VmaRef(VmaRef&& other) noexcept
      : domain_(other.domain_), record_(std::exchange(other.record_, nullptr)) {}
  VmaRef& operator=(VmaRef&&) = delete;
  VmaRef(const VmaRef&) = delete;
  VmaRef& operator=(const VmaRef&) = delete;
  ~VmaRef();

  explicit operator bool() const { return record_ != nullptr; }
  const Vma& operator*() const { return record_->vma; }
  const Vma* operator->() const { return &record_->vma; }

 private:
  epoch::Domain* domain_ = nullptr;
  VmaRecord* record_ = nullptr;
};

class VmaTree {
 public:
  explicit VmaTree(epoch::Domain& domain) : domain_(domain), tree_(domain) {}
  VmaTree(const VmaTree&) = delete;
  VmaTree& operator=(const VmaTree&) = delete;
  ~VmaTree();

  // Null where no VMA holds the address.
  [[nodiscard]] VmaRef find(Vaddr address) const;
  // Null where no VMA shows an object of that inode.
  [[nodiscard]] std::shared_ptr<memory::MemoryObject> find_object(std::uint64_t inode) const;
  // Copies, of one version.
  [[nodiscard]] std::vector<Vma> all() const;
  // The pieces of VMAs in [start, end).
  [[nodiscard]] std::vector<Vma> overlapping(Vaddr start, Vaddr end) const;
  // The pieces of shared VMAs that show some of these pages of the object.
  [[nodiscard]] std::vector<Vma> shared_of(const memory::MemoryObject& object, PageIndex first,
                                           PageCount count) const;
  [[nodiscard]] bool covers(const VaRange& range) const;
  // Where the first VMA behind an address in none begins; nothing where there is no more.
  [[nodiscard]] std::optional<Vaddr> next_start(Vaddr address) const;
  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] bool empty() const { return size() == 0; }

  // Each is one step for readers, and returns copies of what it took out. No VMA begins or ends
  // within a page of its object: of a huge page a part of which is taken out, nothing is left. The
  // kernel cuts none; a client can say of small pages that they are huge ones, and events of
  // several threads can come in another order than the changes that they tell of.

  // Whatever stood in its place is replaced.
  std::vector<Vma> insert(Vma vma);
  // Takes [start, end) out; returns the pieces that were in it. Nothing is in an empty interval.
  std::vector<Vma> remove(Vaddr start, Vaddr end);
  struct Moved {
    std::vector<Vma> taken;     // as they were
    std::vector<Vma> replaced;  // what stood where they are now, and what could not be moved
  };
  // Takes a range to another place, which does not overlap it.
  Moved move(VaRange from, Vaddr to);
  // Changes what is in a range by making each piece anew; equal neighbours become one. The range
  // must be covered.
  void change(const VaRange& range, const std::function<void(Vma&)>& edit);
  // Of an empty tree: sorted, disjoint.
  void assign(std::vector<Vma> vmas);
  std::vector<Vma> clear();

 private:
  using Tree = epoch::IntervalTree<VmaRecord>;
  // The parts of one writer's step.
  class Step;
  // The range, with all of the pages that it cuts; not an empty one.
  [[nodiscard]] VaRange whole_pages(const VaRange& range) const;

  epoch::Domain& domain_;
  Tree tree_;
};

}  // namespace faultline::space

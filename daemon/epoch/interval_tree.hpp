// An ordered map of disjoint half-open intervals [start, end) to T*, for readers without locks.
// Must never look at a T, nor free one: what it maps is its user's.
//
// A B+tree whose published nodes never change. An update copies the path to what it changes, and
// publishes all its changes with one store of the root; whoever loaded the old root goes on with
// the old version.
//
// Life of a value:
//   1. Its user makes it and inserts it in an Update. commit() publishes it.
//   2. Readers find it in a View, inside a Section of the tree's domain.
//   3. An Update takes it out and hands it back. After commit(), never before, its user retires it
//   in the
//      domain, and frees it in the callback.
//
// Locking: none. Readers are inside a Section of the domain; writers are serialised by the caller.
#pragma once

#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "daemon/epoch/domain.hpp"
#include "daemon/epoch/interval_edit.hpp"
#include "daemon/epoch/interval_view.hpp"

namespace faultline::epoch {

template <typename T>
class IntervalTree {
 public:
  // start < end. UINT64_MAX is in no interval.
  struct Entry {
    std::uint64_t start;
    std::uint64_t end;
    T* value;
  };
  class View;
  class Update;

  // Both are kept until the domain has ended. `memory` is also given nodes back from the domain's
  // reclaimer, so that it must be safe to use from two threads.
  explicit IntervalTree(Domain& domain,
                        std::pmr::memory_resource& memory = *std::pmr::new_delete_resource())
      : tree_(domain, memory) {}
  // Nobody reads or writes any more. Gives its nodes back, not the values. Never blocks.
  ~IntervalTree() = default;

  // The version that is published now. Inside a Section of the domain, for whose length it is good;
  // or where no commit can come meanwhile. Never blocks.
  [[nodiscard]] View view() const noexcept {
    return View{detail::RawView{tree_.root.load(std::memory_order_acquire)}};
  }

  // What the tree has allocated: nodes in use, nodes that wait for readers, and those kept for the
  // next updates. Any thread.
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return tree_.pool->memory_bytes(); }

 private:
  static Entry typed(const detail::RawEntry& raw) {
    return {raw.start, raw.end, static_cast<T*>(raw.value)};
  }
  static detail::RawEntry raw(const Entry& entry) {
    return {entry.start, entry.end, const_cast<std::remove_const_t<T>*>(entry.value)};
  }
  static std::optional<Entry> typed(const std::optional<detail::RawEntry>& raw) {
    if (!raw) return std::nullopt;
    return typed(*raw);
  }

  detail::RawTree tree_;
};

// One version of the tree. A pointer; any thread.
template <typename T>
class IntervalTree<T>::View {
 public:
  // The interval that contains `at`.
  [[nodiscard]] std::optional<Entry> find(std::uint64_t at) const { return typed(raw_.find(at)); }
  // That one, or else the first after it.
  [[nodiscard]] std::optional<Entry> first_from(std::uint64_t at) const {
    return typed(raw_.first_from(at));
  }
  // Every interval that overlaps [from, to), in order. `each` takes an Entry; if it returns bool,
  // false ends the walk.
  template <typename Each>
  void for_each(std::uint64_t from, std::uint64_t to, Each&& each) const {
    raw_.for_each(from, to, [&each](const detail::RawEntry& entry) {
      if constexpr (std::is_same_v<std::invoke_result_t<Each&, Entry>, bool>) {
        return each(typed(entry));
      } else {
        each(typed(entry));
        return true;
      }
    });
  }
  // The lowest multiple of `alignment` at or above `from` where `size` fits before `to` and
  // overlaps nothing. O(log n), but for holes that are wide enough and yet miss the alignment.
  [[nodiscard]] std::optional<std::uint64_t> find_gap(std::uint64_t size, std::uint64_t alignment,
                                                      std::uint64_t from, std::uint64_t to) const {
    return raw_.find_gap(size, alignment, from, to);
  }
  [[nodiscard]] std::size_t size() const { return raw_.size(); }
  [[nodiscard]] bool empty() const { return raw_.size() == 0; }

  // For tests of the structure.
  [[nodiscard]] const detail::Node* root() const { return raw_.root(); }

 private:
  friend class IntervalTree;
  explicit View(detail::RawView raw) : raw_(raw) {}

  detail::RawView raw_;
};

// One transaction: readers see all of it or nothing. One at a time. Without commit(), nothing
// happened.
//
// Everything here but commit() throws std::bad_alloc, or what a given function throws. insert(),
// erase() and assign() then did nothing; the others may have done a part, and the update is to be
// given up.
template <typename T>
class IntervalTree<T>::Update {
 public:
  explicit Update(IntervalTree& tree) : edit_(tree.tree_) {}

  // With the changes so far; good until the next change.
  [[nodiscard]] View view() const { return View{edit_.view()}; }

  // Must overlap nothing.
  void insert(const Entry& entry) { edit_.insert(raw(entry)); }

  // Takes out the interval that begins exactly there.
  std::optional<Entry> erase(std::uint64_t start) {
    const std::optional<Entry> entry = view().find(start);
    if (!entry || entry->start != start) return std::nullopt;
    edit_.erase(start);
    return entry;
  }

  // Takes [start, end) out. Intervals that lie across a border are replaced by their outer parts,
  // which `part(const Entry& whole, start, end) -> T*` makes. Appends the whole entries that are
  // gone to `removed`.
  template <typename Part>
  void cut(std::uint64_t start, std::uint64_t end, std::vector<Entry>& removed, Part&& part) {
    for (;;) {
      const std::optional<Entry> found = view().first_from(start);
      if (!found || found->start >= end) return;
      const Entry whole = *found;
      // All that can fail comes first.
      make_room(removed, 1);
      edit_.reserve(2);
      const bool before = whole.start < start;
      const bool after = whole.end > end;
      const Entry left{whole.start, start, before ? part(whole, whole.start, start) : nullptr};
      const Entry right{end, whole.end, after ? part(whole, end, whole.end) : nullptr};
      if (before) {
        edit_.change(whole.start, raw(left));
        if (after) edit_.insert(raw(right));
      } else if (after) {
        edit_.change(whole.start, raw(right));
      } else {
        edit_.erase(whole.start);
      }
      removed.push_back(whole);
    }
  }

  // Cuts the entry's range out, and puts the entry there.
  template <typename Part>
  void replace(const Entry& entry, std::vector<Entry>& removed, Part&& part) {
    cut(entry.start, entry.end, removed, std::forward<Part>(part));
    insert(entry);
  }

  // Joins neighbours that touch at or between `start` and `end`: where `equal(a, b)` says so, both
  // are replaced by what `join(a, b) -> T*` makes. Appends what is replaced to `removed`; of three
  // that become one, also what the first two were joined to, which no reader saw.
  template <typename Equal, typename Join>
  void merge(std::uint64_t start, std::uint64_t end, std::vector<Entry>& removed, Equal&& equal,
             Join&& join) {
    std::optional<Entry> a = view().first_from(start == 0 ? 0 : start - 1);
    while (a && a->end <= end) {
      const std::optional<Entry> b = view().first_from(a->end);
      if (!b || b->start != a->end || !equal(*a, *b)) {
        a = b;
        continue;
      }
      make_room(removed, 2);
      edit_.reserve(2);
      const Entry joined{a->start, b->end, join(*a, *b)};
      edit_.erase(b->start);
      edit_.change(a->start, raw(joined));
      removed.push_back(*a);
      removed.push_back(*b);
      a = joined;
    }
  }

  // Fills an empty tree; sorted, disjoint. O(n).
  void assign(std::span<const Entry> sorted) {
    edit_.assign(sorted.size(), [sorted](std::size_t i) { return raw(sorted[i]); });
  }

  // Takes everything out. O(n).
  void clear(std::vector<Entry>& removed) {
    removed.reserve(removed.size() + view().size());
    view().for_each(0, UINT64_MAX, [&removed](const Entry& entry) { removed.push_back(entry); });
    edit_.clear();
  }

  // Publishes the changes with one release store, then retires the nodes that they replace. The
  // last call.
  void commit() noexcept { edit_.commit(); }

 private:
  // Not reserve(), which would copy all of it for every few.
  static void make_room(std::vector<Entry>& entries, std::size_t more) {
    if (entries.capacity() - entries.size() < more) entries.reserve(2 * entries.size() + more);
  }

  detail::IntervalEdit edit_;
};

}  // namespace faultline::epoch

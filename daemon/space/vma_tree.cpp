#include "daemon/space/vma_tree.hpp"

#include <cassert>
#include <utility>

namespace faultline::space {

namespace {

using Entry = epoch::IntervalTree<VmaRecord>::Entry;

void free_record(epoch::Domain::Callback& callback) noexcept {
  const std::unique_ptr<VmaRecord> record(&callback.owner<VmaRecord>());
}

}  // namespace

VmaRecord::VmaRecord(Vma made) : vma(std::move(made)) {
  run = &free_record;
}

VmaRef::~VmaRef() {
  if (record_ == nullptr) return;
  // Within a section, because the writer that waits for this retires the record as soon as it may.
  const epoch::Domain::Section section(*domain_);
  record_->gate.put();
}

// Collects a new version and what goes with the old one. Records made in a step that fails for want
// of memory go with it; what is in the tree stays as it is.
class VmaTree::Step {
 public:
  explicit Step(VmaTree& tree) : tree_(tree), update_(tree.tree_) {}

  void insert(Vma vma) {
    update_.replace(make(std::move(vma)), out_,
                    [this](const Entry& e, std::uint64_t start, std::uint64_t end) {
                      return part(e, start, end);
                    });
  }
  void cut(Vaddr start, Vaddr end) {
    update_.cut(
        start.value(), end.value(), out_,
        [this](const Entry& e, std::uint64_t from, std::uint64_t to) { return part(e, from, to); });
  }
  void merge(Vaddr start, Vaddr end) {
    update_.merge(
        start.value(), end.value(), out_,
        [](const Entry& a, const Entry& b) { return a.value->vma.continues_in(b.value->vma); },
        [this](const Entry& a, const Entry& b) {
          Vma joined = a.value->vma;
          joined.end = b.value->vma.end;
          return make(std::move(joined)).value;
        });
  }
  void assign(std::vector<Vma> vmas) {
    std::vector<Entry> entries;
    entries.reserve(vmas.size());
    for (Vma& vma : vmas) entries.push_back(make(std::move(vma)));
    update_.assign(entries);
  }
  void clear() { update_.clear(out_); }

  // Publishes, and waits until nobody acts on what was taken out.
  void commit() {
    std::vector<std::unique_ptr<VmaRecord>> made = std::move(made_);
    update_.commit();
    for (auto& record : made) {
      ++record->vma.activity->pieces;
      (void)record.release();  // the tree's from here on, until it is retired below
    }
    for (const Entry& entry : out_) {
      --entry.value->vma.activity->pieces;
      entry.value->gate.close();
    }
    for (const Entry& entry : out_) {
      entry.value->gate.wait_drained();
      tree_.domain_.retire(*entry.value);
    }
  }

 private:
  Entry make(Vma vma) {
    made_.push_back(std::make_unique<VmaRecord>(std::move(vma)));
    const Vma& there = made_.back()->vma;
    return Entry{there.start.value(), there.end.value(), made_.back().get()};
  }
  VmaRecord* part(const Entry& whole, std::uint64_t start, std::uint64_t end) {
    return make(whole.value->vma.part(Vaddr{start}, Vaddr{end})).value;
  }

  VmaTree& tree_;
  Tree::Update update_;
  std::vector<std::unique_ptr<VmaRecord>> made_;
  std::vector<Entry> out_;
};

VmaTree::~VmaTree() {
  clear();
}

VmaRef VmaTree::find(Vaddr address) const {
  const epoch::Domain::Section section(domain_);
  for (;;) {
    const auto entry = tree_.view().find(address.value());
    if (!entry) return {};
    // Closed: a version without it has been published, and the next look sees that.
    if (entry->value->gate.try_get()) return {domain_, *entry->value};
  }
}

std::shared_ptr<memory::MemoryObject> VmaTree::find_object(std::uint64_t inode) const {
  std::shared_ptr<memory::MemoryObject> found;
  const epoch::Domain::Section section(domain_);
  tree_.view().for_each(0, UINT64_MAX, [&](const Entry& entry) {
    if (entry.value->vma.object->memfd().inode() == inode) found = entry.value->vma.object;
    return found == nullptr;
  });
  return found;
}

std::vector<Vma> VmaTree::all() const {
  return overlapping(Vaddr{0}, Vaddr{~std::uint64_t{0}});
}

std::vector<Vma> VmaTree::overlapping(Vaddr start, Vaddr end) const {
  std::vector<Vma> pieces;
  if (start == end) return pieces;
  const epoch::Domain::Section section(domain_);
  tree_.view().for_each(start.value(), end.value(), [&](const Entry& entry) {
    pieces.push_back(entry.value->vma.part(start, end));
  });
  return pieces;
}

std::vector<Vma> VmaTree::shared_of(const memory::MemoryObject& object, PageIndex first,
                                    PageCount count) const {
  std::vector<Vma> pieces;
  const epoch::Domain::Section section(domain_);
  tree_.view().for_each(0, UINT64_MAX, [&](const Entry& entry) {
    if (auto piece = shared_part(entry.value->vma, object, first, count)) {
      pieces.push_back(std::move(*piece));
    }
    return true;
  });
  return pieces;
}

bool VmaTree::covers(const VaRange& range) const {
  const epoch::Domain::Section section(domain_);
  Vaddr covered = range.start;
  tree_.view().for_each(range.start.value(), range.end().value(), [&](const Entry& entry) {
    if (Vaddr{entry.start} <= covered) covered = Vaddr{entry.end};
  });
  return covered >= range.end();
}

std::optional<Vaddr> VmaTree::next_start(Vaddr address) const {
  const epoch::Domain::Section section(domain_);
  const auto entry = tree_.view().first_from(address.value());
  if (!entry) return std::nullopt;
  return Vaddr{entry->start};
}

std::size_t VmaTree::size() const {
  const epoch::Domain::Section section(domain_);
  return tree_.view().size();
}

VaRange VmaTree::whole_pages(const VaRange& range) const {
  Vaddr start = range.start;
  Vaddr end = range.end();
  if (const VmaRef first = find(start)) start = first->page_size().round_down(start);
  if (const VmaRef last = find(Vaddr{end.value() - 1})) {
    const PageSize page_size = last->page_size();
    const Vaddr page = page_size.round_down(Vaddr{end.value() - 1});
    end = page + page_size.bytes();
  }
  return {start, end - start};
}

std::vector<Vma> VmaTree::insert(Vma vma) {
  assert(vma.start < vma.end);
  const VaRange cut = whole_pages({vma.start, vma.length()});
  std::vector<Vma> replaced = overlapping(cut.start, cut.end());
  Step step(*this);
  if (cut.length != vma.length()) step.cut(cut.start, cut.end());
  step.insert(std::move(vma));
  step.commit();
  return replaced;
}

std::vector<Vma> VmaTree::remove(Vaddr start, Vaddr end) {
  if (start == end) return {};
  const VaRange cut = whole_pages({start, end - start});
  std::vector<Vma> removed = overlapping(cut.start, cut.end());
  if (removed.empty()) return removed;
  Step step(*this);
  step.cut(cut.start, cut.end());
  step.commit();
  return removed;
}

VmaTree::Moved VmaTree::move(VaRange from, Vaddr to) {
  const VaRange source = whole_pages(from);
  const VaRange target = whole_pages({to, from.length});
  Moved moved;
  for (Vma& vma : overlapping(source.start, source.end())) {
    const bool whole = vma.start >= from.start && vma.end <= from.end() &&
                       vma.page_size().aligned((to + (vma.start - from.start)).value());
    (whole ? moved.taken : moved.replaced).push_back(std::move(vma));
  }
  for (Vma& vma : overlapping(target.start, target.end())) moved.replaced.push_back(std::move(vma));
  Step step(*this);
  step.cut(source.start, source.end());
  step.cut(target.start, target.end());
  for (const Vma& vma : moved.taken) step.insert(vma.moved_to(to + (vma.start - from.start)));
  step.commit();
  return moved;
}

void VmaTree::change(const VaRange& range, const std::function<void(Vma&)>& edit) {
  Step step(*this);
  for (Vma& piece : overlapping(range.start, range.end())) {
    edit(piece);
    step.insert(std::move(piece));
  }
  step.merge(range.start, range.end());
  step.commit();
}

void VmaTree::assign(std::vector<Vma> vmas) {
  Step step(*this);
  step.assign(std::move(vmas));
  step.commit();
}

std::vector<Vma> VmaTree::clear() {
  std::vector<Vma> gone = all();
  if (gone.empty()) return gone;
  Step step(*this);
  step.clear();
  step.commit();
  return gone;
}

}  // namespace faultline::space

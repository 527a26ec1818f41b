#include "daemon/epoch/interval_tree.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/seed.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::epoch {
namespace {

using testing::kSlower;

struct Value {
  std::uint64_t id;
};
using Tree = IntervalTree<const Value>;
using Entry = Tree::Entry;

// Values by their number, for as long as a test lasts.
class Values {
 public:
  const Value* of(std::uint64_t id) {
    auto& value = values_[id];
    if (!value) value = std::make_unique<Value>(Value{id});
    return value.get();
  }

 private:
  std::map<std::uint64_t, std::unique_ptr<Value>> values_;
};

// The plain map that the tree is to agree with. An entry is its end and its value's number.
class Model {
 public:
  struct Item {
    std::uint64_t end;
    std::uint64_t id;
  };
  using Map = std::map<std::uint64_t, Item>;

  [[nodiscard]] const Map& map() const { return map_; }
  [[nodiscard]] Map::const_iterator first_from(std::uint64_t at) const {
    auto next = map_.upper_bound(at);
    if (next != map_.begin() && std::prev(next)->second.end > at) --next;
    return next;
  }
  void insert(std::uint64_t start, std::uint64_t end, std::uint64_t id) { map_[start] = {end, id}; }
  void erase(std::uint64_t start) { map_.erase(start); }
  void cut(std::uint64_t start, std::uint64_t end) {
    for (auto at = first_from(start); at != map_.end() && at->first < end;) {
      const auto [from, item] = *at;
      at = map_.erase(at);
      if (from < start) map_[from] = {start, item.id};
      if (item.end > end) map_[end] = item;
    }
  }
  void merge(std::uint64_t start, std::uint64_t end) {
    auto at = map_.find(key_of(first_from(start == 0 ? 0 : start - 1)));
    while (at != map_.end() && at->second.end <= end) {
      const auto next = std::next(at);
      if (next == map_.end()) break;
      if (next->first == at->second.end && joins(at->second.id, next->second.id)) {
        at->second.end = next->second.end;
        map_.erase(next);
      } else {
        at = next;
      }
    }
  }
  [[nodiscard]] std::optional<std::uint64_t> find_gap(std::uint64_t size, std::uint64_t alignment,
                                                      std::uint64_t from, std::uint64_t to) const {
    std::uint64_t at = from;
    for (;;) {
      at = (at + alignment - 1) / alignment * alignment;
      if (at + size > to) return std::nullopt;
      const auto next = first_from(at);
      if (next == map_.end() || next->first >= at + size) return at;
      at = next->second.end;
    }
  }
  [[nodiscard]] std::uint64_t key_of(Map::const_iterator at) const {
    return at == map_.end() ? UINT64_MAX : at->first;
  }
  static bool joins(std::uint64_t a, std::uint64_t b) { return a % 2 == b % 2; }

 private:
  Map map_;
};

// What must hold in every node: order, fill, one depth, and that what an inner node says of a child
// is so.
struct Checked {
  std::uint64_t first;
  std::uint64_t last;
  std::uint64_t gap;
  std::size_t entries;
};

std::optional<Checked> check_node(const detail::Node* node, bool is_root) {
  const std::size_t most = node->level == 0 ? detail::Leaf::kMost : detail::Inner::kMost;
  const std::size_t least = node->level == 0 ? detail::Leaf::kLeast : detail::Inner::kLeast;
  const std::size_t fewest = is_root ? (node->level == 0 ? 1 : 2) : least;
  EXPECT_LE(node->count, most);
  EXPECT_GE(node->count, fewest);
  if (node->count > most || node->count < fewest) return std::nullopt;
  std::optional<Checked> all;
  const auto add = [&all](const Checked& next) {
    if (!all) {
      all = next;
      return;
    }
    EXPECT_LE(all->last, next.first);
    all = Checked{all->first, next.last, std::max({all->gap, next.gap, next.first - all->last}),
                  all->entries + next.entries};
  };
  if (node->level == 0) {
    const auto& leaf = detail::as_leaf(node);
    for (std::size_t i = 0; i < leaf.count; ++i) {
      EXPECT_LT(leaf.starts[i], leaf.ends[i]);
      add({leaf.starts[i], leaf.ends[i], 0, 1});
    }
    for (std::size_t i = leaf.count; i < most; ++i) EXPECT_EQ(leaf.starts[i], detail::kNoKey);
    return all;
  }
  const auto& inner = detail::as_inner(node);
  for (std::size_t i = 0; i < inner.count; ++i) {
    EXPECT_EQ(inner.children[i]->level + 1, inner.level);
    const auto child = check_node(inner.children[i], false);
    if (!child) return std::nullopt;
    EXPECT_EQ(inner.firsts[i], child->first);
    EXPECT_EQ(inner.lasts[i], child->last);
    EXPECT_EQ(inner.gaps[i], child->gap);
    add(*child);
  }
  for (std::size_t i = inner.count; i < most; ++i) EXPECT_EQ(inner.firsts[i], detail::kNoKey);
  return all;
}

void expect_well_formed(const Tree::View& view) {
  if (view.root() == nullptr) {
    EXPECT_TRUE(view.empty());
    return;
  }
  const auto all = check_node(view.root(), true);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->entries, view.size());
}

void expect_same(const Tree::View& view, const Model& model) {
  expect_well_formed(view);
  ASSERT_EQ(view.size(), model.map().size());
  auto at = model.map().begin();
  view.for_each(0, UINT64_MAX, [&](const Entry& entry) {
    EXPECT_EQ(entry.start, at->first);
    EXPECT_EQ(entry.end, at->second.end);
    EXPECT_EQ(entry.value->id, at->second.id);
    ++at;
    return !::testing::Test::HasFailure();
  });
}

// A tree and a model that get the same operations.
class Pair {
 public:
  Pair(std::uint64_t seed, std::uint64_t space, std::uint64_t longest)
      : random_(seed), space_(space), longest_(longest) {}

  [[nodiscard]] std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  [[nodiscard]] Tree& tree() { return tree_; }
  [[nodiscard]] const Model& model() const { return model_; }

  // One to three operations in one update; of a small tree, one update in eight is given up.
  void step(unsigned growth) {
    Tree::Update update(tree_);
    const bool give_up = below(8) == 0 && model_.map().size() < 1000;
    Model copy = give_up ? model_ : Model{};
    Model& model = give_up ? copy : model_;
    for (std::uint64_t n = 1 + below(3); n > 0; --n) operate(update, model, growth);
    if (give_up) {
      expect_well_formed(update.view());
    } else {
      update.commit();
    }
  }

  void expect_lookups_agree() {
    const auto view = tree_.view();
    const std::uint64_t at = below(space_ + longest_);
    const auto from = model_.first_from(at);
    const auto first = view.first_from(at);
    ASSERT_EQ(first.has_value(), from != model_.map().end());
    ASSERT_TRUE(!first || first->start == from->first);
    const auto found = view.find(at);
    const bool inside = first && from->first <= at;
    ASSERT_EQ(found.has_value(), inside);
    ASSERT_TRUE(!found || found->value->id == from->second.id);

    const std::uint64_t to = at + below(10 * longest_);
    auto walked = from;
    view.for_each(at, to, [&](const Entry& entry) {
      EXPECT_EQ(entry.start, walked->first);
      ++walked;
    });
    EXPECT_TRUE(walked == model_.map().end() || walked->first >= to || to == at);

    const std::uint64_t size = 1 + below(2 * longest_);
    const std::uint64_t alignment = std::uint64_t{1} << below(6);
    ASSERT_EQ(view.find_gap(size, alignment, at, to), model_.find_gap(size, alignment, at, to))
        << size << " aligned to " << alignment << " in " << at << ".." << to;
  }

  void expect_all_agree() { expect_same(tree_.view(), model_); }

 private:
  void operate(Tree::Update& update, Model& model, unsigned growth) {
    const std::uint64_t start = below(space_);
    const std::uint64_t end = start + 1 + below(longest_);
    const auto part = [this](const Entry& whole, std::uint64_t, std::uint64_t) {
      return values_.of(whole.value->id);
    };
    std::vector<Entry> removed;
    const std::uint64_t kind = below(100);
    if (kind < growth) {
      const auto next = model.first_from(start);
      if (next != model.map().end() && next->first < end) return;
      update.insert({start, end, values_.of(++last_id_)});
      model.insert(start, end, last_id_);
    } else if (kind < 90) {
      const auto next = model.first_from(start);
      if (next == model.map().end()) {
        ASSERT_FALSE(update.erase(start));
        return;
      }
      const std::uint64_t at = next->first;
      const auto erased = update.erase(at);
      ASSERT_TRUE(erased);
      ASSERT_EQ(erased->value->id, next->second.id);
      model.erase(at);
    } else if (kind < 94) {
      std::vector<std::uint64_t> expected;
      for (auto at = model.first_from(start); at != model.map().end() && at->first < end; ++at) {
        expected.push_back(at->first);
      }
      update.cut(start, end, removed, part);
      model.cut(start, end);
      ASSERT_EQ(removed.size(), expected.size());
      for (std::size_t i = 0; i < removed.size(); ++i) ASSERT_EQ(removed[i].start, expected[i]);
    } else if (kind < 97) {
      update.replace({start, end, values_.of(++last_id_)}, removed, part);
      model.cut(start, end);
      model.insert(start, end, last_id_);
    } else {
      update.merge(
          start, end + 5 * longest_, removed,
          [](const Entry& a, const Entry& b) { return Model::joins(a.value->id, b.value->id); },
          [this](const Entry& a, const Entry&) { return values_.of(a.value->id); });
      model.merge(start, end + 5 * longest_);
    }
  }

  Domain domain_{"test"};
  Values values_;
  Tree tree_{domain_};
  Model model_;
  std::mt19937_64 random_;
  const std::uint64_t space_;
  const std::uint64_t longest_;
  std::uint64_t last_id_ = 0;
};

// A small tree does what a map does, whatever is done to it, and every node is right after every
// step.
TEST(IntervalTree, AgreesWithAMapWhileItGrowsAndShrinks) {
  Pair pair(testing::announce_seed(), 4'000, 8);
  for (int wave = 0; wave < 6 && !HasFailure(); ++wave) {
    for (int i = 0; i < 1500 / kSlower * 2 && !HasFailure(); ++i) {
      pair.step(wave % 2 == 0 ? 80 : 10);
      pair.expect_all_agree();
      pair.expect_lookups_agree();
    }
  }
}

// The same with 100,000 intervals and five levels less one.
TEST(IntervalTree, AgreesWithAMapAtAHundredThousand) {
  const std::uint64_t seed = testing::announce_seed();
  Pair pair(seed, 4'000'000, 20);
  const int steps = 400'000 / kSlower;
  for (int i = 0; i < steps && !HasFailure(); ++i) {
    pair.step(i < steps / 2 ? 88 : 45);
    if (i % 10 == 0) pair.expect_lookups_agree();
    if (i % (steps / 10) == 0) pair.expect_all_agree();
    if (i == steps / 2) {
      EXPECT_GT(pair.model().map().size(), 100'000U / kSlower);
    }
  }
  pair.expect_all_agree();
}

// assign() makes a right tree of every size around where a node, and a level, is full.
TEST(IntervalTree, IsFilledAtOnceWithAnyNumber) {
  Domain domain("test");
  const Value value{1};
  std::vector<std::size_t> sizes(600);
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = i;
  for (const std::size_t large : {5'000U, 14'336U, 14'337U, 100'000U}) sizes.push_back(large);
  for (const std::size_t size : sizes) {
    Tree tree(domain);
    std::vector<Entry> entries;
    for (std::uint64_t i = 0; i < size; ++i) entries.push_back({i * 3 + 1, i * 3 + 3, &value});
    {
      Tree::Update update(tree);
      update.assign(entries);
      update.commit();
    }
    expect_well_formed(tree.view());
    ASSERT_EQ(tree.view().size(), size);
    ASSERT_FALSE(HasFailure()) << size;
    if (size != 0) {
      ASSERT_EQ(tree.view().first_from(size * 3 - 1)->start, size * 3 - 2);
    }
  }
}

// A million intervals: put in, looked up, half of them taken out, all right and none too large.
TEST(IntervalTree, HoldsAMillion) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  const std::uint64_t count = 1'000'000 / kSlower;
  std::vector<std::uint64_t> order(count);
  for (std::uint64_t i = 0; i < count; ++i) order[i] = i;
  std::mt19937_64 random(testing::announce_seed());
  std::shuffle(order.begin(), order.end(), random);
  for (const std::uint64_t i : order) {
    Tree::Update update(tree);
    update.insert({i * 2, i * 2 + 1, &value});
    update.commit();
  }
  expect_well_formed(tree.view());
  for (std::uint64_t i = 0; i < count / 2; ++i) {
    Tree::Update update(tree);
    ASSERT_TRUE(update.erase(order[i] * 2));
    update.commit();
  }
  expect_well_formed(tree.view());
  domain.barrier();
  EXPECT_EQ(tree.view().size(), count / 2);
  EXPECT_LT(tree.memory_bytes(), 64 * (count / 2));
  for (std::uint64_t i = 0; i < count; ++i) {
    ASSERT_EQ(tree.view().find(order[i] * 2).has_value(), i >= count / 2);
  }
}

// At the ends of what 64 bits hold, too.
TEST(IntervalTree, ReachesFromZeroToTheLastAddress) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  Tree::Update update(tree);
  EXPECT_EQ(update.view().find_gap(UINT64_MAX, 1, 0, UINT64_MAX), 0U);
  update.insert({0, 1, &value});
  update.insert({UINT64_MAX - 1, UINT64_MAX, &value});
  EXPECT_TRUE(update.view().find(0));
  EXPECT_TRUE(update.view().find(UINT64_MAX - 1));
  EXPECT_FALSE(update.view().find(UINT64_MAX));
  EXPECT_FALSE(update.view().first_from(UINT64_MAX));
  EXPECT_EQ(update.view().find_gap(UINT64_MAX - 2, 1, 0, UINT64_MAX), 1U);
  EXPECT_FALSE(update.view().find_gap(UINT64_MAX - 1, 1, 0, UINT64_MAX));
  EXPECT_FALSE(
      update.view().find_gap(1, std::uint64_t{1} << 63, (std::uint64_t{1} << 63) + 1, UINT64_MAX));
}

// A walk stops where it is told to.
TEST(IntervalTree, AWalkEndsWhenItsFunctionSaysSo) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  Tree::Update update(tree);
  for (std::uint64_t i = 0; i < 1000; ++i) update.insert({i, i + 1, &value});
  int seen = 0;
  update.view().for_each(100, 900, [&seen](const Entry&) { return ++seen < 500; });
  EXPECT_EQ(seen, 500);
}

// What was taken out by clear() is handed back, and the update that did it can fill the tree again.
TEST(IntervalTree, IsClearedAndFilledInOneUpdate) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  std::vector<Entry> entries;
  for (std::uint64_t i = 0; i < 5000; ++i) entries.push_back({i * 2, i * 2 + 1, &value});
  for (int round = 0; round < 3; ++round) {
    Tree::Update update(tree);
    std::vector<Entry> removed;
    update.clear(removed);
    EXPECT_EQ(removed.size(), round == 0 ? 0 : entries.size());
    update.assign(entries);
    update.commit();
    expect_well_formed(tree.view());
    EXPECT_EQ(tree.view().size(), entries.size());
  }
}

// An update that is given up leaves nothing behind, and until the commit nobody else sees it.
TEST(IntervalTree, AnUpdateWithoutACommitChangesNothing) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  {
    Tree::Update update(tree);
    for (std::uint64_t i = 0; i < 300; ++i) update.insert({i * 2, i * 2 + 1, &value});
    EXPECT_TRUE(tree.view().empty());
    update.commit();
  }
  const std::size_t before = tree.memory_bytes();
  for (int i = 0; i < 1000; ++i) {
    Tree::Update update(tree);
    for (std::uint64_t k = 0; k < 100; ++k) {
      update.insert({1001 + k * 2, 1002 + k * 2, &value});
      update.erase(k * 4);
    }
    EXPECT_FALSE(update.view().find(0));
    EXPECT_TRUE(tree.view().find(0));
  }
  expect_well_formed(tree.view());
  EXPECT_EQ(tree.view().size(), 300U);
  EXPECT_LT(tree.memory_bytes(), before + 100'000);  // what one such update needs, kept once
}

// Memory that runs out at a chosen allocation.
class ScarceMemory : public std::pmr::memory_resource {
 public:
  void fail_after(std::size_t allocations) { left_ = allocations; }
  [[nodiscard]] std::size_t bytes() const { return bytes_.load(); }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (left_ == 0) throw std::bad_alloc();
    --left_;
    bytes_ += bytes;
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  }
  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
    bytes_ -= bytes;
    std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
  }
  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::size_t left_ = SIZE_MAX;
  std::atomic<std::size_t> bytes_{0};
};

// Whichever allocation of a large update fails, the tree is what it was, and no node is lost.
TEST(IntervalTree, AnAllocationThatFailsAnywhereLeavesItAsItWas) {
  ScarceMemory memory;
  Values values;
  bool whole = false;
  std::size_t failures = 0;
  for (; !whole; ++failures) {
    {
      Domain domain("test");
      Tree tree(domain, memory);
      Model model;
      std::vector<Entry> entries;
      for (std::uint64_t i = 0; i < 600; ++i) {
        entries.push_back({i * 10, i * 10 + 6, values.of(i)});
        model.insert(i * 10, i * 10 + 6, i);
      }
      {
        Tree::Update update(tree);
        update.assign(entries);
        update.commit();
      }
      memory.fail_after(failures);
      try {
        std::vector<Entry> removed;
        Tree::Update update(tree);
        const auto part = [&values](const Entry& of, std::uint64_t, std::uint64_t) {
          return values.of(of.value->id);
        };
        for (std::uint64_t i = 0; i < 200; ++i)
          update.insert({i * 30 + 6, i * 30 + 10, values.of(i)});
        update.cut(1003, 3503, removed, part);
        update.replace({4002, 4004, values.of(7)}, removed, part);
        update.merge(
            0, 900, removed, [](const Entry&, const Entry&) { return true; },
            [&values](const Entry& a, const Entry&) { return values.of(a.value->id); });
        for (std::uint64_t i = 500; i < 600; ++i) ASSERT_TRUE(update.erase(i * 10));
        update.commit();
        whole = true;
      } catch (const std::bad_alloc&) {
        expect_same(tree.view(), model);
      }
      memory.fail_after(SIZE_MAX);
      expect_well_formed(tree.view());
      domain.barrier();
      EXPECT_EQ(memory.bytes(), tree.memory_bytes());
      ASSERT_FALSE(HasFailure()) << "allocation " << failures;
    }
    EXPECT_EQ(memory.bytes(), 0U);
  }
  EXPECT_GT(failures, 30U);
}

// After hours of mapping and unmapping, the nodes are still half full at least, and no more than
// they and what the pool keeps for the next updates is allocated.
TEST(IntervalTree, StaysSmallUnderChurn) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  std::mt19937_64 random(testing::announce_seed());
  const std::uint64_t places = 40'000;
  for (int i = 0; i < 1'000'000 / kSlower; ++i) {
    const std::uint64_t start = random() % places * 8;
    Tree::Update update(tree);
    if (!update.erase(start)) update.insert({start, start + 4, &value});
    update.commit();
  }
  domain.barrier();
  expect_well_formed(tree.view());
  const std::size_t intervals = tree.view().size();
  const std::size_t leaves = intervals / detail::Leaf::kLeast + 1;
  const std::size_t inners = leaves / (detail::Inner::kLeast - 1) + 2;  // on all levels
  // Leaves, inner nodes, and of either kind those on their way back, with their batches.
  const std::size_t kept = detail::NodePool::kKeepLeast + leaves / detail::NodePool::kKeepShare;
  const std::size_t most =
      leaves * sizeof(detail::Leaf) + inners * sizeof(detail::Inner) +
      kept * (sizeof(detail::Leaf) + 2 * sizeof(detail::Inner) + sizeof(detail::NodePool::Batch));
  EXPECT_LT(tree.memory_bytes(), most) << intervals << " intervals";
}

// A value that its user retires, and that says so when it is used later.
struct Retired : Domain::Callback {
  explicit Retired(std::uint64_t of) : id(of) {}
  std::uint64_t id;
  static void free(Domain::Callback& callback) noexcept {
    auto& self = callback.owner<Retired>();
    self.id = 0;
    delete &self;  // NOLINT(cppcoreguidelines-owning-memory): the tree owned it
  }
};

using Live = IntervalTree<Retired>;

// Intervals that stay begin at multiples of 20, others come and go between them; a value's number
// is where its interval begins, and one.
struct Crowd {
  static constexpr std::uint64_t kPlaces = 400;

  Crowd() {
    Live::Update update(tree);
    for (std::uint64_t i = 0; i < kPlaces; ++i) {
      stay.push_back(std::make_unique<Retired>(i * 20 + 1));
      update.insert({i * 20, i * 20 + 10, stay.back().get()});
    }
    update.commit();
  }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;
  ~Crowd() {
    tree.view().for_each(0, UINT64_MAX, [](const Live::Entry& entry) {
      if (entry.start % 20 == 10) Retired::free(*entry.value);
    });
  }

  void look_up(std::uint64_t at) {
    const auto view = tree.view();
    const auto found = view.find(at + 9);
    if (!found || found->value->id != at + 1) ++wrong;
    const auto other = view.find(at + 15);
    if (other && other->value->id != at + 11) ++wrong;
  }
  void walk() {
    std::uint64_t stayed = 0;
    std::uint64_t last = 0;
    tree.view().for_each(0, UINT64_MAX, [&](const Live::Entry& entry) {
      if (entry.start < last || entry.value->id != entry.start + 1) ++wrong;
      last = entry.end;
      stayed += entry.start % 20 == 0 ? 1 : 0;
    });
    if (stayed != kPlaces) ++wrong;
  }
  void read(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!stop.load(std::memory_order_relaxed)) {
      const Domain::Section section(domain);
      look_up(random() % kPlaces * 20);
      if (random() % 64 == 0) walk();
    }
  }
  // Unmaps what is there, or maps it.
  void toggle(std::uint64_t start) {
    std::optional<Live::Entry> erased;
    {
      Live::Update update(tree);
      erased = update.erase(start);
      if (!erased) {
        update.insert({start, start + 10, std::make_unique<Retired>(start + 1).release()});
      }
      update.commit();
    }
    if (!erased) return;
    erased->value->run = Retired::free;
    domain.retire(*erased->value);
  }

  Domain domain{"test"};
  Live tree{domain};
  std::vector<std::unique_ptr<Retired>> stay;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
};

// Readers beside a writer that never pauses: what stays is always found, what comes and goes is
// found alive, a walk is in order and misses nothing that stays.
TEST(IntervalTreeReaders, NeverMissWhatStaysNorSeeWhatWasFreed) {
  Crowd crowd;
  std::vector<std::thread> readers;
  for (unsigned seed = 1; seed <= 2; ++seed) {
    readers.emplace_back([&crowd, seed] { crowd.read(seed); });
  }
  std::mt19937_64 random(testing::announce_seed());
  for (int i = 0; i < 400'000 / kSlower; ++i) {
    crowd.toggle(random() % Crowd::kPlaces * 20 + 10);
  }
  crowd.stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(crowd.wrong, 0U);
}

// Markers among other intervals; all of them are moved at once.
struct Markers {
  static constexpr std::uint64_t kMoved = 100;

  Markers() {
    Tree::Update update(tree);
    for (std::uint64_t i = 0; i < 4 * kMoved; ++i) {
      update.insert({i * 100, i * 100 + 10, &other});
      if (i % 4 == 0) update.insert({i * 100 + 20, i * 100 + 30, &marker});
    }
    update.commit();
  }
  void move(std::uint64_t from, std::uint64_t to) {
    Tree::Update update(tree);
    for (std::uint64_t i = 0; i < 4 * kMoved; i += 4) {
      if (!update.erase(i * 100 + from)) ++wrong;
      update.insert({i * 100 + to, i * 100 + to + 10, &marker});
    }
    update.commit();
  }
  void read() {
    while (!stop.load(std::memory_order_relaxed)) {
      const Domain::Section section(domain);
      std::uint64_t here = 0;
      std::uint64_t there = 0;
      const auto view = tree.view();
      view.for_each(0, UINT64_MAX, [&](const Entry& entry) {
        if (entry.value == &marker) ++(entry.start % 100 == 20 ? here : there);
      });
      if (here + there != kMoved || (here != 0 && there != 0)) ++wrong;
      if (view.size() != 5 * kMoved) ++wrong;
    }
  }

  Domain domain{"test"};
  Tree tree{domain};
  const Value marker{1};
  const Value other{2};
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
};

// A set of intervals that moves in one update is seen in the one place or in the other, never in
// part.
TEST(IntervalTreeReaders, SeeAllOfAnUpdateOrNothing) {
  Markers markers;
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) readers.emplace_back([&markers] { markers.read(); });
  for (int round = 0; round < 2000 / kSlower; ++round) {
    markers.move(20, 50);
    markers.move(50, 20);
  }
  markers.stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(markers.wrong, 0U);
}

// A reader that sleeps in its section goes on with its own version, however much is changed
// meanwhile.
TEST(IntervalTreeReaders, KeepTheirVersionWhileTheySleep) {
  Domain domain("test");
  Tree tree(domain);
  const Value value{1};
  {
    Tree::Update update(tree);
    for (std::uint64_t i = 0; i < 1000; ++i) update.insert({i * 2, i * 2 + 1, &value});
    update.commit();
  }
  {
    const Domain::Section section(domain);
    const auto before = tree.view();
    std::thread([&] {
      std::vector<Entry> removed;
      for (std::uint64_t i = 0; i < 1000; ++i) {
        Tree::Update update(tree);
        update.erase(i * 2);
        update.commit();
      }
    }).join();
    EXPECT_TRUE(tree.view().empty());
    EXPECT_EQ(before.size(), 1000U);
    expect_well_formed(before);
    EXPECT_GE(domain.status().pending, 999U);
  }
  domain.barrier();
  EXPECT_EQ(domain.status().pending, 0U);
}

}  // namespace
}  // namespace faultline::epoch

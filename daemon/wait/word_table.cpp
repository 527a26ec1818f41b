#include "daemon/wait/word_table.hpp"

#include <algorithm>
#include <cassert>
#include <climits>
#include <utility>

#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

namespace {

void link_before(WaitHook& ring, WaitHook& hook) {
  hook.previous = ring.previous;
  hook.next = &ring;
  ring.previous->next = &hook;
  ring.previous = &hook;
}

void unlink(WaitHook& hook) {
  hook.previous->next = hook.next;
  hook.next->previous = hook.previous;
  hook.previous = hook.next = nullptr;
}

bool has_hooks(const Word& word) {
  return word.hooks.next != &word.hooks;
}

bool has_slot(const Word& word) {
  return word.kind != WordKind::shared;
}

bool waited_for_at_slot(const Word& word) {
  return word.kind == WordKind::own || word.kind == WordKind::frame;
}

}  // namespace

Result<Word*> WordTable::make_locked(Words& words, const space::Vma& vma, Vaddr address) {
  if (words.size() >= kMostWords) reclaim_locked(words);
  if (words.size() >= kMostWords) {
    return fail(EUSERS,
                "waiting for more than " + std::to_string(kMostWords) + " words of one process");
  }
  Word word;
  word.address = address;
  word.kind = vma.sharing == space::Sharing::shared ? WordKind::shared : WordKind::own;
  word.in_page = in_page(vma, address);
  if (has_slot(word)) {
    const auto slot = lot_.take();
    if (!slot) return fail(EUSERS, "waiting for more words than there are slots for");
    word.slot = *slot;
  }
  Word& made = words.emplace(address, word).first->second;
  made.hooks.previous = made.hooks.next = &made.hooks;
  if (!has_slot(made) || !vma.activity->by_page()) return &made;
  const space::FrameId frame = vma.activity->identity(vma.page_at(address));
  if (frame == space::FrameId{}) {
    made.kind = WordKind::clean;
  } else {
    join_locked(made, frame);
  }
  return &made;
}

Result<WordTable::Found> WordTable::find(SpaceId space, const space::Vma& vma, Vaddr address,
                                         WaitHook* hook, const std::function<bool()>& still_there) {
  const std::lock_guard lock(mutex_);
  Words& words = spaces_[space];
  const auto at = words.find(address);
  Word* word = at == words.end() ? nullptr : &at->second;
  if (word == nullptr) {
    if (vma.sharing == space::Sharing::shared && hook == nullptr) {
      return Found{WordKind::shared, {}, 0};
    }
    if (still_there && !still_there()) {
      return fail(EFAULT, "looking up a word that is not mapped any more");
    }
    auto made = make_locked(words, vma, address);
    if (!made) return propagate(made);
    word = *made;
  }
  if (word->moving != 0) return fail(EBUSY, "looking up a word that is moving");
  if (hook != nullptr) {
    hook->word = word;
    hook->ended = 0;
    link_before(word->hooks, *hook);
    ++hooks_;
  }
  return Found{word->kind, word->slot, has_slot(*word) ? lot_.generation(word->slot) : 0};
}

WordTable::Unhooked WordTable::unhook(WaitHook& hook) {
  const std::lock_guard lock(mutex_);
  Unhooked was{hook.word != nullptr || hook.ended != 0,
               hook.word != nullptr ? hook.word->address : Vaddr{},
               hook.word != nullptr ? hook.word->in_page : hook.in_page,
               hook.word != nullptr ? hook.word->frame : hook.frame, hook.ended};
  if (hook.next != nullptr) unlink(hook);
  if (hook.word != nullptr) --hooks_;
  hook.word = nullptr;
  hook.ended = 0;
  return was;
}

std::vector<SlotIndex> WordTable::slots_locked(SpaceId space, Vaddr address) const {
  const auto words = spaces_.find(space);
  if (words == spaces_.end()) return {};
  const auto at = words->second.find(address);
  if (at == words->second.end() || !waited_for_at_slot(at->second)) return {};
  const Word& word = at->second;
  std::vector<SlotIndex> slots{word.slot};
  if (word.kind != WordKind::frame) return slots;
  for (const SlotIndex slot : groups_.at(group_key(word))) {
    if (slot != word.slot) slots.push_back(slot);
  }
  return slots;
}

std::vector<const kernel::FutexWord*> WordTable::group(SpaceId space, Vaddr address) const {
  std::vector<const kernel::FutexWord*> futexes;
  const std::lock_guard lock(mutex_);
  for (const SlotIndex slot : slots_locked(space, address)) futexes.push_back(&lot_.word(slot));
  return futexes;
}

void WordTable::join_locked(Word& word, space::FrameId frame) {
  word.kind = WordKind::frame;
  word.frame = frame;
  auto& group = groups_[group_key(word)];
  group.push_back(word.slot);
  lot_.link(group);
}

void WordTable::leave_locked(Word& word) {
  if (word.kind != WordKind::frame) return;
  const auto at = groups_.find(group_key(word));
  std::erase(at->second, word.slot);
  lot_.unlink(word.slot, at->second);
  if (at->second.empty()) groups_.erase(at);
  reached(BreakStep::left);
}

void WordTable::change_slot_locked(Word& word) {
  const auto slot = lot_.take();
  // Without another slot those who looked the word up before cannot be told from those who do from
  // now on. They are the same user's: a wake too many for those who have used up what they may
  // have.
  if (!slot) return;
  lot_.move_on(word.slot, *slot);
  word.slot = *slot;
}

int WordTable::replace_slot_locked(Word& word, SlotIndex slot) {
  const SlotIndex old = std::exchange(word.slot, slot);
  if (word.kind != WordKind::frame) return lot_.move_on(old, slot);
  auto& group = groups_.at(group_key(word));
  const int moved = lot_.replace(group, old, slot);
  std::ranges::replace(group, old, slot);
  return moved;
}

WordTable::Parted WordTable::part(SpaceId space, const space::Vma& vma, PageIndex page) {
  const std::lock_guard lock(mutex_);
  const space::FrameId before = vma.activity->identity(page);
  Parted parted{vma.activity->record_break(page, PageCount{1}), {}};
  const space::FrameId now = vma.activity->identity(page);
  reached(BreakStep::recorded);
  const auto words = spaces_.find(space);
  if (before == now || words == spaces_.end()) return parted;
  const Vaddr start = vma.address_of(page);
  const Vaddr end = start + vma.page_size().bytes();
  for (auto at = words->second.lower_bound(start); at != words->second.end() && at->first < end;
       ++at) {
    follow_locked(at->second, now, parted.moving);
  }
  return parted;
}

void WordTable::follow_locked(Word& word, space::FrameId frame, std::vector<Word*>& moving) {
  const bool was_clean = word.kind == WordKind::clean;
  leave_locked(word);
  change_slot_locked(word);
  join_locked(word, frame);
  reached(BreakStep::named);
  if (!was_clean || !has_hooks(word)) return;
  ++word.moving;
  ++moving_;
  moving.push_back(&word);
}

std::vector<WaitHook*> WordTable::hooks_of_locked(const Word& word) {
  std::vector<WaitHook*> hooks;
  for (WaitHook* hook = word.hooks.next; hook != &word.hooks; hook = hook->next) {
    hooks.push_back(hook);
  }
  return hooks;
}

std::vector<WaitHook*> WordTable::hooks_of(const Word& word) const {
  const std::lock_guard lock(mutex_);
  return hooks_of_locked(word);
}

std::vector<WaitHook*> WordTable::hooks_of(SpaceId space, Vaddr address) const {
  const std::lock_guard lock(mutex_);
  const auto words = spaces_.find(space);
  if (words == spaces_.end()) return {};
  const auto at = words->second.find(address);
  return at == words->second.end() ? std::vector<WaitHook*>{} : hooks_of_locked(at->second);
}

const kernel::FutexWord* WordTable::slot_of(const WaitHook& hook, std::uint32_t& generation) const {
  const std::lock_guard lock(mutex_);
  if (hook.word == nullptr) return nullptr;
  generation = lot_.generation(hook.word->slot);
  return &lot_.word(hook.word->slot);
}

void WordTable::settle(const std::vector<Word*>& moved) {
  const std::lock_guard lock(mutex_);
  for (Word* word : moved) --word->moving;
  moving_ -= moved.size();
  std::erase_if(leaving_, [](const auto& node) { return node.mapped().moving == 0; });
  if (moving_ == 0) settled_.notify_all();
}

bool WordTable::await_settled(std::chrono::steady_clock::time_point until) const {
  std::unique_lock lock(mutex_);
  return settled_.wait_until(lock, until, [this] { return moving_ == 0; });
}

void WordTable::end_hooks_locked(Word& word, int error) {
  while (has_hooks(word)) {
    WaitHook& hook = *word.hooks.next;
    unlink(hook);
    --hooks_;
    hook.word = nullptr;
    hook.ended = error;
    hook.frame = word.frame;
    hook.in_page = word.in_page;
    link_before(ended_, hook);
  }
}

void WordTable::drop_locked(Words& words, Words::iterator at, int error) {
  Word& word = at->second;
  leave_locked(word);
  if (has_slot(word)) lot_.give_up(word.slot);
  end_hooks_locked(word, error);
  if (word.moving != 0) {
    leaving_.push_back(words.extract(at));
  } else {
    words.erase(at);
  }
}

void WordTable::drop(SpaceId space, Vaddr start, Vaddr end, int error) {
  const std::lock_guard lock(mutex_);
  const auto words = spaces_.find(space);
  if (words == spaces_.end()) return;
  auto at = words->second.lower_bound(start);
  while (at != words->second.end() && at->first < end) {
    const auto next = std::next(at);
    drop_locked(words->second, at, error);
    at = next;
  }
}

std::set<Vaddr> WordTable::discard(SpaceId space, const space::Vma& piece, int error) {
  std::set<Vaddr> dropped;
  // In one step: a word that is looked up is of the page before this, or of that after it.
  const std::lock_guard lock(mutex_);
  if (const auto words = spaces_.find(space); words != spaces_.end()) {
    auto at = words->second.lower_bound(piece.start);
    while (at != words->second.end() && at->first < piece.end) {
      const auto next = std::next(at);
      if (piece.activity->broken(piece.page_at(at->first), PageCount{1}) > PageCount{0}) {
        dropped.insert(at->first);
        drop_locked(words->second, at, error);
      }
      at = next;
    }
  }
  piece.activity->forget_break(piece.first, piece.pages());
  return dropped;
}

void WordTable::drop_all(SpaceId space, int error) {
  drop(space, Vaddr{0}, Vaddr{~std::uint64_t{0}}, error);
  const std::lock_guard lock(mutex_);
  spaces_.erase(space);
}

bool WordTable::merge_locked(Words::node_type from, Word& into) {
  Word& word = from.mapped();
  leave_locked(word);
  if (has_slot(word) && has_slot(into)) {
    lot_.move_on(word.slot, into.slot);
  } else if (has_slot(word)) {
    lot_.give_up(word.slot);
  }
  // The page may have parted since the other was looked up.
  const bool at_object = word.kind == WordKind::clean || word.moving != 0;
  const bool moving = at_object && has_hooks(word) && into.kind == WordKind::frame;
  while (has_hooks(word)) {
    WaitHook& hook = *word.hooks.next;
    unlink(hook);
    hook.word = &into;
    link_before(into.hooks, hook);
  }
  if (moving) {
    ++into.moving;
    ++moving_;
  }
  if (word.moving != 0) leaving_.push_back(std::move(from));
  return !moving;
}

std::vector<Word*> WordTable::move(SpaceId space, const space::VaRange& from, Vaddr to,
                                   const std::vector<space::Vma>& there) {
  std::vector<Word*> moving;
  const std::lock_guard lock(mutex_);
  const auto words = spaces_.find(space);
  if (words == spaces_.end()) return moving;
  std::vector<Words::node_type> nodes;
  auto at = words->second.lower_bound(from.start);
  while (at != words->second.end() && at->first < from.end()) {
    nodes.push_back(words->second.extract(at++));
  }
  for (auto& node : nodes) {
    Word& word = node.mapped();
    // Who looked it up at its old address must not find it any more.
    if (has_slot(word)) {
      if (const auto slot = lot_.take()) (void)replace_slot_locked(word, *slot);
    }
    node.key() = to + (node.key() - from.start);
    auto placed = words->second.insert(std::move(node));
    const Vaddr address = placed.position->first;
    Word& known = placed.position->second;
    known.address = address;
    if (!placed.inserted) {
      const bool settled = merge_locked(std::move(placed.node), known);
      if (!settled) moving.push_back(&known);
    }
    reached(BreakStep::named);
    const auto vma =
        std::ranges::find_if(there, [&](const auto& piece) { return piece.contains(address); });
    if (vma == there.end() || !vma->activity->by_page()) continue;
    const space::FrameId frame = vma->activity->identity(vma->page_at(address));
    if (frame != space::FrameId{} && frame != known.frame) {
      follow_locked(known, frame, moving);
    }
  }
  return moving;
}

void WordTable::reclaim_locked(Words& words) {
  for (auto at = words.begin(); at != words.end();) {
    Word& word = at->second;
    const auto next = std::next(at);
    if (word.moving != 0) {
      // Whoever moves it holds on to it until it is settled, though nothing hangs on it any more.
    } else if (!has_hooks(word) && has_slot(word)) {
      // Nobody can queue there once it has another generation; then it shows whether anybody did.
      const auto spare = lot_.take();
      if (!spare) return;
      if (replace_slot_locked(word, *spare) == 0) {
        leave_locked(word);
        lot_.give_up(word.slot);
        words.erase(at);
      }
    } else if (!has_hooks(word)) {
      words.erase(at);
    }
    at = next;
  }
}

std::vector<WaitHook*> WordTable::take_ended() {
  const std::lock_guard lock(mutex_);
  std::vector<WaitHook*> taken;
  while (ended_.next != &ended_) {
    taken.push_back(ended_.next);
    unlink(*ended_.next);
  }
  return taken;
}

std::optional<WordTable::Shown> WordTable::show(SpaceId space, Vaddr address) const {
  const std::lock_guard lock(mutex_);
  const auto words = spaces_.find(space);
  if (words == spaces_.end()) return std::nullopt;
  const auto at = words->second.find(address);
  if (at == words->second.end()) return std::nullopt;
  return Shown{address, at->second.kind, at->second.frame};
}

std::size_t WordTable::hooks() const {
  const std::lock_guard lock(mutex_);
  return hooks_;
}

Status WordTable::check_settled_locked() const {
  // A wait that moves is at its slot a moment later.
  if (moving_ != 0) return fail(EBUSY, "waking at a word while words are moving");
  return {};
}

int WordTable::wake_slots_locked(std::span<const SlotIndex> slots, int count,
                                 std::uint32_t mask) const {
  int woken = 0;
  for (const SlotIndex slot : slots) {
    if (woken == count) break;
    woken += std::max(kernel::futex_wake_shared(lot_.word(slot), count - woken, mask), 0);
  }
  return woken;
}

Result<int> WordTable::wake(SpaceId space, Vaddr address, int count, std::uint32_t mask) {
  const std::lock_guard lock(mutex_);
  const std::vector<SlotIndex> slots = slots_locked(space, address);
  if (slots.empty()) return 0;
  if (auto settled = check_settled_locked(); !settled) return propagate(settled);
  return wake_slots_locked(slots, count, mask);
}

Result<int> WordTable::wake(space::FrameId frame, std::uint64_t offset, int count) {
  const std::lock_guard lock(mutex_);
  const auto group = groups_.find(GroupKey{frame, offset});
  if (group == groups_.end()) return 0;
  if (auto settled = check_settled_locked(); !settled) return propagate(settled);
  return wake_slots_locked(group->second, count, kernel::kEveryBit);
}

void WordTable::hand_on(SpaceId space, Vaddr address, std::uint32_t mask) {
  const std::lock_guard lock(mutex_);
  (void)wake_slots_locked(slots_locked(space, address), 1, mask);
}

void WordTable::hand_on(space::FrameId frame, std::uint64_t offset, std::uint32_t mask) {
  const std::lock_guard lock(mutex_);
  const auto group = groups_.find(GroupKey{frame, offset});
  if (group != groups_.end()) (void)wake_slots_locked(group->second, 1, mask);
}

int WordTable::requeue(SpaceId space, const Queue& from, const Queue& to, int count) const {
  const std::lock_guard lock(mutex_);
  const auto futexes_of = [&](const Queue& queue) {
    std::vector<const kernel::FutexWord*> futexes;
    for (const SlotIndex slot : slots_locked(space, queue.address)) {
      futexes.push_back(&lot_.word(slot));
    }
    if (futexes.empty()) futexes.push_back(queue.object_word);
    return futexes;
  };
  const std::vector<const kernel::FutexWord*> sources = futexes_of(from);
  const kernel::FutexWord& target = *futexes_of(to).front();
  int done = std::max(kernel::futex_requeue_shared(*sources.front(), 0, count, target), 0);
  for (const kernel::FutexWord* relative : std::span(sources).subspan(1)) {
    if (done == count) break;
    done += std::max(kernel::futex_wake_shared(*relative, count - done), 0);
  }
  return done;
}

std::size_t WordTable::size(SpaceId space) const {
  const std::lock_guard lock(mutex_);
  const auto words = spaces_.find(space);
  return words == spaces_.end() ? 0 : words->second.size();
}

}  // namespace faultline::wait

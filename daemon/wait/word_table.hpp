// The words that are waited for or woken in one user's address spaces: where each is waited for,
// and the waits that the daemon keeps for its clients (hooks). Must never have a word in two places
// at once, nor in none: whoever looks a word up finds where it was before a change, or where it is
// after.
//
// A word is known by its address space and address. It is
//   shared    the object's word itself is waited for; here only for the waits that hang on it
//   own       at a slot of the lot
//   clean     of a page that is waited for by page, and is the object's: at the object's word. Its
//             slot says by its generation how long that holds
//   frame     of such a page that is private: at a slot, in a group with the slots of that word in
//             the fork relatives that share the page
// Transitions: clean -> frame when the page parts from the object, frame -> frame when it parts
// from a relative's (part); any -> gone when the memory is (drop). Each gives the word another
// slot, so that who looked it up before finds out.
//
// Locking: mutex_ guards everything, the hooks' links included; leaf lock but for futex(2) calls
// that do not sleep. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "daemon/space/vma.hpp"
#include "daemon/wait/lot.hpp"

namespace faultline::wait {

struct Word;

// A wait that hangs on a word; a member of exactly one list, or of none. Its owner unlinks it
// before it goes.
struct WaitHook {
  WaitHook* previous = nullptr;
  WaitHook* next = nullptr;
  Word* word = nullptr;  // null: its word is gone
  int ended = 0;         // a positive errno: why it is
  std::uint32_t in_page = 0;
  space::FrameId frame;  // its word's, once that is gone; in_page too
};

enum class WordKind : std::uint8_t { shared, own, clean, frame };

struct Word {
  Vaddr address;  // under which it is known
  WordKind kind{};
  unsigned moving = 0;        // how many times it is, from the object's word to its slot
  SlotIndex slot;             // but of a shared one
  std::uint32_t in_page = 0;  // bytes, from the beginning of its page
  space::FrameId frame;
  WaitHook hooks;  // a ring
};

class WordTable {
 public:
  static constexpr std::size_t kMostWords = 65'536;  // of one address space

  struct Options {
    std::function<void(BreakStep)> hook;  // recorded, left, named; called under the lock
  };
  explicit WordTable(Lot lot) : WordTable(std::move(lot), Options{}) {}
  WordTable(Lot lot, Options options) : options_(std::move(options)), lot_(std::move(lot)) {
    ended_.previous = ended_.next = &ended_;
  }
  WordTable(const WordTable&) = delete;
  WordTable& operator=(const WordTable&) = delete;
  ~WordTable() = default;

  struct Found {
    WordKind kind{};
    SlotIndex slot;
    std::uint32_t generation = 0;
  };
  // Where the word is waited for; hook, where there is one, hangs on it from then on. The VMA holds
  // the address, and the caller holds the VMA. Errors: EBUSY it is moving, ask again a moment
  // later; EUSERS kMostWords, none of them idle; ENOMEM.
  // still_there, where there is one, is asked under the lock, before a word is made, whether the
  // VMA is the space's still: who made one after the words there were dropped would leave it to
  // whatever is mapped there next. EFAULT it is not.
  Result<Found> find(SpaceId space, const space::Vma& vma, Vaddr address, WaitHook* hook = nullptr,
                     const std::function<bool()>& still_there = nullptr);
  struct Unhooked {
    bool hung = false;  // on a word, until now
    Vaddr address;      // the word's, wherever it has moved; of one that is gone: 0
    std::uint32_t in_page = 0;
    space::FrameId frame;
    int ended = 0;  // why its word is gone; 0: it is not
  };
  Unhooked unhook(WaitHook& hook);
  // The futex words at which a word is waited for, its own first; none where it is at no slot.
  [[nodiscard]] std::vector<const kernel::FutexWord*> group(SpaceId space, Vaddr address) const;
  [[nodiscard]] const kernel::FutexWord& futex(SlotIndex slot) const { return lot_.word(slot); }
  [[nodiscard]] int lot_fd() const { return lot_.fd(); }

  // Records that the page parts, and has its words follow. Words that hooks hang on, and that were
  // clean, move: their waits are to be taken from the object's word and queued at their slot, and
  // then settled.
  struct Parted {
    PageCount pages;
    std::vector<Word*> moving;
  };
  Parted part(SpaceId space, const space::Vma& vma, PageIndex page);
  [[nodiscard]] std::vector<WaitHook*> hooks_of(const Word& word) const;
  // Of the word there; none where it is not known.
  [[nodiscard]] std::vector<WaitHook*> hooks_of(SpaceId space, Vaddr address) const;
  [[nodiscard]] const kernel::FutexWord* slot_of(const WaitHook& hook,
                                                 std::uint32_t& generation) const;
  void settle(const std::vector<Word*>& moved);
  // Blocks until no word moves, but no longer; false: one still does. Not on a worker's thread,
  // which is who settles them.
  [[nodiscard]] bool await_settled(std::chrono::steady_clock::time_point until) const;

  // Takes out the words in [start, end). What hung on them is ended with the error.
  void drop(SpaceId space, Vaddr start, Vaddr end, int error);
  // Records that the private pages of a piece of a mapping are the object's again, and takes out
  // their words, with that error. Returns where those were.
  std::set<Vaddr> discard(SpaceId space, const space::Vma& piece, int error);
  void drop_all(SpaceId space, int error);
  // The words go elsewhere with their memory, which is mapped there by now; there: its pieces. A
  // page may have parted since: its words follow. Where somebody who saw the new mapping first has
  // looked one up there already, the two become one; those returned are moving, as of part().
  std::vector<Word*> move(SpaceId space, const space::VaRange& from, Vaddr to,
                          const std::vector<space::Vma>& there);
  // Those that were ended since it was last asked; they hang on nothing.
  [[nodiscard]] std::vector<WaitHook*> take_ended();

  struct Shown {
    Vaddr address;
    WordKind kind{};
    space::FrameId frame;
  };
  // Nothing where it is not known.
  [[nodiscard]] std::optional<Shown> show(SpaceId space, Vaddr address) const;
  // Calls visit(shown, hook) for each that hangs on a word of the space, under the lock: what of a
  // hook's owner was written before find(), and is not written again, may be read there.
  template <typename Visit>
  void each_hook(SpaceId space, Visit visit) const {
    const std::lock_guard lock(mutex_);
    const auto words = spaces_.find(space);
    if (words == spaces_.end()) return;
    for (const auto& [address, word] : words->second) {
      for (const WaitHook* hook = word.hooks.next; hook != &word.hooks; hook = hook->next) {
        visit(Shown{address, word.kind, word.frame}, *hook);
      }
    }
  }
  // How many hang on words of all spaces.
  [[nodiscard]] std::size_t hooks() const;

  // Wakes at most count who wait at the slot of a word, and then at those of its group. In one step
  // against any change of the word. Returns how many; 0 where it is not known, or at no slot.
  // Errors: EBUSY waits are moving to slots, ask again a moment later.
  Result<int> wake(SpaceId space, Vaddr address, int count, std::uint32_t mask = kernel::kEveryBit);
  // The same by the page's identity; offset: in the page.
  Result<int> wake(space::FrameId frame, std::uint64_t offset, int count);
  // Where a word is waited for: at its slots, or, where it has none, at the object's word.
  struct Queue {
    Vaddr address;
    const kernel::FutexWord* object_word = nullptr;
  };
  // Gives a wake that nobody took to one who waits at the slot of a word, or at those of its group;
  // the second: of a page's word that is gone. In one step against any change of the word.
  void hand_on(SpaceId space, Vaddr address, std::uint32_t mask);
  void hand_on(space::FrameId frame, std::uint64_t offset, std::uint32_t mask);
  // Has at most count who are queued for the one word queue for the other; both were found. Of
  // relatives those are woken who would be moved: at a slot of this space they would be left behind
  // when it parts from them, or ends. In one step against any change of the words. What hangs on a
  // word stays there. Returns how many.
  [[nodiscard]] int requeue(SpaceId space, const Queue& from, const Queue& to, int count) const;
  [[nodiscard]] std::size_t size(SpaceId space) const;

 private:
  using Words = std::map<Vaddr, Word>;
  struct GroupKey {
    space::FrameId frame;
    std::uint64_t offset = 0;  // in the page
    friend bool operator==(const GroupKey&, const GroupKey&) = default;
  };
  struct HashGroupKey {
    std::size_t operator()(const GroupKey& key) const noexcept {
      return std::hash<std::uint64_t>{}(key.frame.value() * kHugePage.bytes().value() + key.offset);
    }
  };
  static GroupKey group_key(const Word& word) { return {word.frame, word.in_page}; }

  [[nodiscard]] Status check_settled_locked() const;
  [[nodiscard]] int wake_slots_locked(std::span<const SlotIndex> slots, int count,
                                      std::uint32_t mask) const;
  // Those at which a word is waited for, its own first; none where it is at no slot.
  [[nodiscard]] std::vector<SlotIndex> slots_locked(SpaceId space, Vaddr address) const;
  Result<Word*> make_locked(Words& words, const space::Vma& vma, Vaddr address);
  void join_locked(Word& word, space::FrameId frame);
  void leave_locked(Word& word);
  // Gives the word another slot, to which who queues at its own moves. Where there is none left it
  // keeps its own.
  void change_slot_locked(Word& word);
  [[nodiscard]] static std::vector<WaitHook*> hooks_of_locked(const Word& word);
  // Its page has that identity now. Adds it where waits are to be taken from the object's word
  // first.
  void follow_locked(Word& word, space::FrameId frame, std::vector<Word*>& moving);
  // As change_slot_locked, of a word that stays in the group that it is in. Returns how many moved.
  int replace_slot_locked(Word& word, SlotIndex slot);
  void end_hooks_locked(Word& word, int error);
  void drop_locked(Words& words, Words::iterator at, int error);
  // Who waits for the one waits for the other. False where waits are to be taken from the object's
  // word first: the other is moving.
  bool merge_locked(Words::node_type from, Word& into);
  void reclaim_locked(Words& words);
  void reached(BreakStep step) const {
    if (options_.hook) options_.hook(step);
  }

  const Options options_;
  mutable std::mutex mutex_;
  Lot lot_;
  std::unordered_map<SpaceId, Words> spaces_;
  std::unordered_map<GroupKey, std::vector<SlotIndex>, HashGroupKey> groups_;
  std::size_t moving_ = 0;                   // words
  mutable std::condition_variable settled_;  // none is
  std::size_t hooks_ = 0;                    // on words
  WaitHook ended_;                           // a ring
  std::vector<Words::node_type> leaving_;    // dropped while they moved: there until that is over
};

}  // namespace faultline::wait

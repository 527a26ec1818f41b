#include "faultline/wire/word_key.hpp"

#include <gtest/gtest.h>

namespace faultline::wire {
namespace {

// What waiters shows can be given to wake as it is.
TEST(WordKey, ReadsBackWhatItWrites) {
  for (const KeyKind kind : {KeyKind::object, KeyKind::space, KeyKind::frame}) {
    for (const std::uint64_t number : {std::uint64_t{0}, std::uint64_t{255}, ~std::uint64_t{0}}) {
      const WordKey key{kind, 0, number, number};
      EXPECT_EQ(word_key_from(to_text(key)), key) << to_text(key);
    }
  }
  EXPECT_EQ(to_text({KeyKind::object, 0, 12, 0x40}), "object:12+0x40");
  EXPECT_EQ(to_text({KeyKind::space, 0, 3, 0x7f0000001000}), "space:3@0x7f0000001000");
  EXPECT_EQ(word_key_from("frame:7+4095"), (WordKey{KeyKind::frame, 0, 7, 4095}));
}

// Nothing is guessed.
TEST(WordKey, TakesNothingElseForAKey) {
  for (const char* text :
       {"", "object", "object:", "object:1", "object:1+", "object:+1", "object:1@2", "space:1+2",
        "object:1+2 ", " object:1+2", "object:-1+2", "object:1+-2", "object:0x1+2", "object:1+0x",
        "object:1+2x", "Object:1+2", "page:1+2", "object:1+0x10000000000000000", "space:1@2@3"}) {
    EXPECT_EQ(word_key_from(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace faultline::wire

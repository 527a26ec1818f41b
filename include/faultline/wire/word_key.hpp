// What a word is waited for by, as people and scripts write it:
//   object:ID+OFFSET   an object's word: of a shared mapping, or of a page that is the object's yet
//   space:ID@ADDRESS   a word of one process's private memory
//   frame:ID+OFFSET    a word of a private page that is waited for by page, and that fork relatives
//                      may share; OFFSET is within the page
// IDs are decimal; offsets and addresses are bytes, written hexadecimal with 0x, and read as that
// or decimal. Must never write what it does not read back as the same key.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace faultline::wire {

enum class KeyKind : std::uint32_t { object = 1, space = 2, frame = 3 };

struct WordKey {
  KeyKind kind{};
  std::uint32_t reserved = 0;  // 0
  std::uint64_t id = 0;
  std::uint64_t offset = 0;  // of a space, the address
  friend bool operator==(const WordKey&, const WordKey&) = default;
};

namespace detail {

struct KeyForm {
  KeyKind kind{};
  std::string_view word;
  char before_offset = 0;
};
inline constexpr std::array kKeyForms{KeyForm{KeyKind::object, "object", '+'},
                                      KeyForm{KeyKind::space, "space", '@'},
                                      KeyForm{KeyKind::frame, "frame", '+'}};

// Nothing unless the whole text is one number.
inline std::optional<std::uint64_t> number_from(std::string_view text, int base) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, code] = std::from_chars(text.data(), end, number, base);
  if (code != std::errc{} || stopped != end) return std::nullopt;
  return number;
}

}  // namespace detail

inline std::string to_text(const WordKey& key) {
  for (const detail::KeyForm& form : detail::kKeyForms) {
    if (form.kind != key.kind) continue;
    std::array<char, 16> digits{};
    const char* const end =
        std::to_chars(digits.data(), digits.data() + digits.size(), key.offset, 16).ptr;
    std::string text(form.word);
    text += ":" + std::to_string(key.id) + form.before_offset + "0x";
    return text.append(digits.data(), static_cast<std::size_t>(end - digits.data()));
  }
  return {};
}

// Nothing where the text is no key.
inline std::optional<WordKey> word_key_from(std::string_view text) {
  for (const detail::KeyForm& form : detail::kKeyForms) {
    if (!text.starts_with(form.word) || text.substr(form.word.size(), 1) != ":") continue;
    const std::string_view numbers = text.substr(form.word.size() + 1);
    const std::size_t middle = numbers.find(form.before_offset);
    if (middle == std::string_view::npos) return std::nullopt;
    const auto id = detail::number_from(numbers.substr(0, middle), 10);
    std::string_view offset = numbers.substr(middle + 1);
    const bool hexadecimal = offset.starts_with("0x");
    if (hexadecimal) offset.remove_prefix(2);
    const auto at = detail::number_from(offset, hexadecimal ? 16 : 10);
    if (!id || !at) return std::nullopt;
    return WordKey{form.kind, 0, *id, *at};
  }
  return std::nullopt;
}

}  // namespace faultline::wire

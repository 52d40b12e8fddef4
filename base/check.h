// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_BASE_CHECK_H_
#define HANDOFF_BASE_CHECK_H_

#include <concepts>
#include <cstdint>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

// Stops the process when one of our own invariants is broken. For nothing else: what the system,
// the user or a peer did wrong is a Status or a result enum.
//
//   HANDOFF_CHECK(page.IsOwned()) << "page " << index;
//   HANDOFF_CHECK_LT(index, capacity);
//
// On failure prints file, line, condition, values and what was streamed as one line to stderr and
// aborts. What is streamed is evaluated only then; each operand is evaluated once. Integers of
// different signedness compare by value. The path that passes costs the comparison and one branch,
// predicted not taken.
#define HANDOFF_CHECK(condition)            \
  while (__builtin_expect(!(condition), 0)) \
  ::handoff::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define HANDOFF_CHECK_EQ(a, b) HANDOFF_INTERNAL_CHECK_OP(Equal, ==, a, b)
#define HANDOFF_CHECK_NE(a, b) HANDOFF_INTERNAL_CHECK_OP(NotEqual, !=, a, b)
#define HANDOFF_CHECK_LT(a, b) HANDOFF_INTERNAL_CHECK_OP(Less, <, a, b)
#define HANDOFF_CHECK_LE(a, b) HANDOFF_INTERNAL_CHECK_OP(LessOrEqual, <=, a, b)
#define HANDOFF_CHECK_GT(a, b) HANDOFF_INTERNAL_CHECK_OP(Greater, >, a, b)
#define HANDOFF_CHECK_GE(a, b) HANDOFF_INTERNAL_CHECK_OP(GreaterOrEqual, >=, a, b)

// The same in builds without NDEBUG. Elsewhere the condition is compiled but not evaluated.
#ifdef NDEBUG
#define HANDOFF_INTERNAL_DCHECK_ENABLED false
#else
#define HANDOFF_INTERNAL_DCHECK_ENABLED true
#endif
#define HANDOFF_DCHECK(condition) HANDOFF_CHECK(!HANDOFF_INTERNAL_DCHECK_ENABLED || (condition))
#define HANDOFF_DCHECK_EQ(a, b) HANDOFF_INTERNAL_DCHECK_OP(HANDOFF_CHECK_EQ(a, b))
#define HANDOFF_DCHECK_NE(a, b) HANDOFF_INTERNAL_DCHECK_OP(HANDOFF_CHECK_NE(a, b))
#define HANDOFF_DCHECK_LT(a, b) HANDOFF_INTERNAL_DCHECK_OP(HANDOFF_CHECK_LT(a, b))
#define HANDOFF_DCHECK_LE(a, b) HANDOFF_INTERNAL_DCHECK_OP(HANDOFF_CHECK_LE(a, b))
#define HANDOFF_DCHECK_GT(a, b) HANDOFF_INTERNAL_DCHECK_OP(HANDOFF_CHECK_GT(a, b))
#define HANDOFF_DCHECK_GE(a, b) HANDOFF_INTERNAL_DCHECK_OP(HANDOFF_CHECK_GE(a, b))

// Implementation from here on.

// A `while` and not an `if`, so that an `else` after the check belongs to the caller's own `if`.
// The failure does not return, so there is no second turn.
#define HANDOFF_INTERNAL_CHECK_OP(Operation, op, a, b)                                           \
  while (const std::string* handoff_check_values =                                               \
             ::handoff::internal::CompareForCheck<::handoff::internal::Operation>((a), (b)))     \
  ::handoff::internal::CheckFailure(__FILE__, __LINE__, #a " " #op " " #b, handoff_check_values) \
      .stream()

#ifdef NDEBUG
#define HANDOFF_INTERNAL_DCHECK_OP(check) \
  while (false) check
#else
#define HANDOFF_INTERNAL_DCHECK_OP(check) check
#endif

namespace handoff::internal {

// For a test that looks for failures by itself: called with the line instead, and does not return.
// Null: as above.
extern void (*on_check_failure)(const std::string& text);

// Collects the message; the destructor prints it and aborts.
class CheckFailure {
 public:
  // `values`, if given, are those of the operands.
  [[gnu::cold, gnu::noinline]] CheckFailure(const char* file, int line, const char* condition,
                                            const std::string* values = nullptr);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn, gnu::cold, gnu::noinline]] ~CheckFailure();

  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// The integer types that std::cmp_less and its kin accept.
template <typename T>
concept ComparableInteger = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char> &&
                            !std::same_as<T, wchar_t> && !std::same_as<T, char8_t> &&
                            !std::same_as<T, char16_t> && !std::same_as<T, char32_t>;

// NOLINTBEGIN: the six comparisons, alike but for the operator.
#define HANDOFF_INTERNAL_DEFINE_COMPARISON(Name, op, integer_comparison) \
  struct Name {                                                          \
    template <typename A, typename B>                                    \
    static constexpr bool Holds(const A& a, const B& b) {                \
      if constexpr (ComparableInteger<A> && ComparableInteger<B>) {      \
        return integer_comparison(a, b);                                 \
      } else {                                                           \
        return static_cast<bool>(a op b);                                \
      }                                                                  \
    }                                                                    \
  };
HANDOFF_INTERNAL_DEFINE_COMPARISON(Equal, ==, std::cmp_equal)
HANDOFF_INTERNAL_DEFINE_COMPARISON(NotEqual, !=, std::cmp_not_equal)
HANDOFF_INTERNAL_DEFINE_COMPARISON(Less, <, std::cmp_less)
HANDOFF_INTERNAL_DEFINE_COMPARISON(LessOrEqual, <=, std::cmp_less_equal)
HANDOFF_INTERNAL_DEFINE_COMPARISON(Greater, >, std::cmp_greater)
HANDOFF_INTERNAL_DEFINE_COMPARISON(GreaterOrEqual, >=, std::cmp_greater_equal)
#undef HANDOFF_INTERNAL_DEFINE_COMPARISON
// NOLINTEND

template <typename T>
void PrintForCheck(std::ostream& out, const T& value) {
  if constexpr (std::is_enum_v<T>) {
    PrintForCheck(out, static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (ComparableInteger<T>) {
    out << +value;  // int8_t and uint8_t as numbers
  } else if constexpr (std::same_as<T, std::nullptr_t>) {
    out << "nullptr";
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(" << sizeof(T) << " bytes)";
  }
}

// Never freed: the process is about to end.
template <typename A, typename B>
[[gnu::cold, gnu::noinline]] const std::string* ValuesForCheck(const A& a, const B& b) {
  std::ostringstream out;
  PrintForCheck(out, a);
  out << " vs. ";
  PrintForCheck(out, b);
  return new std::string(out.str());
}

// nullptr if the comparison holds, else the two values as text.
template <typename Comparison, typename A, typename B>
constexpr const std::string* CompareForCheck(const A& a, const B& b) {
  if (__builtin_expect(Comparison::Holds(a, b), 1)) return nullptr;
  return ValuesForCheck(a, b);
}

}  // namespace handoff::internal

#endif  // HANDOFF_BASE_CHECK_H_

// A tiny test harness: checks count failures and print where; main returns check_result().
#pragma once
#include <atomic>
#include <cmath>
#include <cstdio>

namespace check {
// Tests may check from several threads.
inline std::atomic<int> failures{0};
inline std::atomic<int> checks{0};

inline bool record(bool passed, const char* file, int line, const char* what) {
  ++checks;
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
  }
  return passed;
}

inline bool record_near(double a, double b, double tolerance, const char* file, int line, const char* what) {
  // Written so that a NaN fails.
  const bool passed = std::fabs(a - b) <= tolerance;
  if (!record(passed, file, line, what))
    std::fprintf(stderr, "  %.9g and %.9g differ by more than %.3g\n", a, b, tolerance);
  return passed;
}

// 0 when everything passed and something was checked.
inline int result() {
  std::printf("%d checks, %d failures\n", checks.load(), failures.load());
  return failures == 0 && checks > 0 ? 0 : 1;
}
}  // namespace check

#define CHECK(condition) ::check::record(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_NEAR(a, b, tolerance) ::check::record_near((a), (b), (tolerance), __FILE__, __LINE__, #a " is near " #b)
// A status that must be a success; its sentence is printed when it is not.
#define CHECK_OK(expression)                                           \
  do {                                                                 \
    const auto check_status = (expression);                            \
    if (!CHECK(check_status.ok() && #expression)) {                    \
      std::fprintf(stderr, "  %s\n", check_status.sentence().c_str()); \
    }                                                                  \
  } while (false)
// A status that must have this code and hold this text in its sentence.
#define CHECK_ERROR(expression, expected_code, text)                                                                  \
  do {                                                                                                                \
    const auto check_status = (expression);                                                                           \
    if (!CHECK(check_status.code() == (expected_code) && check_status.sentence().find(text) != std::string::npos &&   \
               #expression)) {                                                                                        \
      std::fprintf(stderr, "  got %d: \"%s\", wanted \"%s\"\n", check_status.code(), check_status.sentence().c_str(), \
                   std::string(text).c_str());                                                                        \
    }                                                                                                                 \
  } while (false)

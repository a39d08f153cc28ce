// As much of GoogleTest as the kernels' tests use, for machines that have only a compiler: the same
// test files run there. One file a program; main is gtest_main.cc's.
#ifndef REPRISE_BENCH_GPU_GTEST_GTEST_H_
#define REPRISE_BENCH_GPU_GTEST_GTEST_H_

#include <cmath>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace testing {

class Message {
 public:
  template <class T>
  Message& operator<<(const T& value) {
    text_ << value;
    return *this;
  }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
};

class AssertionResult {
 public:
  explicit AssertionResult(bool ok) : ok_(ok) {}
  explicit operator bool() const { return ok_; }
  template <class T>
  AssertionResult& operator<<(const T& value) {
    std::ostringstream text;
    text << value;
    text_ += text.str();
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  bool ok_;
  std::string text_;
};
inline AssertionResult AssertionSuccess() { return AssertionResult(true); }
inline AssertionResult AssertionFailure() { return AssertionResult(false); }

class Test {
 public:
  virtual ~Test() = default;
  virtual void SetUp() {}
  virtual void TearDown() {}
  virtual void TestBody() = 0;
  static bool IsSkipped();
};

// Of the program: what there is, and how the test that runs now goes.
struct Registered {
  std::string name;
  std::unique_ptr<Test> (*make)();
};
inline std::vector<Registered>& Tests() {
  static std::vector<Registered> tests;
  return tests;
}
struct Outcome {
  bool failed = false;
  bool skipped = false;
};
inline Outcome& Now() {
  static Outcome now;
  return now;
}
inline bool Test::IsSkipped() { return Now().skipped; }
inline bool Register(const char* suite, const char* name, std::unique_ptr<Test> (*make)()) {
  Tests().push_back({std::string(suite) + "." + name, make});
  return true;
}

// `Report(...) = Message() << ...`, so that it can stand behind return in a function without
// result.
class Report {
 public:
  Report(const char* file, int line, std::string what, bool skip)
      : file_(file), line_(line), what_(std::move(what)), skip_(skip) {}
  void operator=(const Message& message) const {
    (skip_ ? Now().skipped : Now().failed) = true;
    std::cout << file_ << ":" << line_ << ": " << (skip_ ? "skipped" : "failure") << ": " << what_
              << " " << message.text() << "\n";
  }

 private:
  const char* file_;
  int line_;
  std::string what_;
  bool skip_;
};

template <class T>
std::string Show(const T& value) {
  std::ostringstream text;
  if constexpr (requires(std::ostream & out) { out << value; }) {
    text << value;
  } else {
    text << "(" << sizeof value << " bytes)";
  }
  return text.str();
}
template <class A, class B>
std::string ShowBoth(const char* op, const char* a_text, const char* b_text, const A& a,
                     const B& b) {
  return std::string(a_text) + " " + op + " " + b_text + " with " + Show(a) + " and " + Show(b);
}

}  // namespace testing

// clang-format off
#define REPRISE_CHECK(ok, text, leave) \
  if (ok) ; else leave ::testing::Report(__FILE__, __LINE__, text, false) = ::testing::Message()
#define REPRISE_COMPARE(op, a, b, leave) \
  REPRISE_CHECK(((a) op (b)), ::testing::ShowBoth(#op, #a, #b, (a), (b)), leave)
#define EXPECT_TRUE(x) REPRISE_CHECK(static_cast<bool>(x), #x " is true", )
#define EXPECT_FALSE(x) REPRISE_CHECK(!static_cast<bool>(x), #x " is false", )
#define ASSERT_TRUE(x) REPRISE_CHECK(static_cast<bool>(x), #x " is true", return)
#define ASSERT_FALSE(x) REPRISE_CHECK(!static_cast<bool>(x), #x " is false", return)
#define EXPECT_EQ(a, b) REPRISE_COMPARE(==, a, b, )
#define EXPECT_NE(a, b) REPRISE_COMPARE(!=, a, b, )
#define EXPECT_LT(a, b) REPRISE_COMPARE(<, a, b, )
#define EXPECT_LE(a, b) REPRISE_COMPARE(<=, a, b, )
#define EXPECT_GT(a, b) REPRISE_COMPARE(>, a, b, )
#define EXPECT_GE(a, b) REPRISE_COMPARE(>=, a, b, )
#define ASSERT_EQ(a, b) REPRISE_COMPARE(==, a, b, return)
#define ASSERT_NE(a, b) REPRISE_COMPARE(!=, a, b, return)
#define ASSERT_LT(a, b) REPRISE_COMPARE(<, a, b, return)
#define ASSERT_LE(a, b) REPRISE_COMPARE(<=, a, b, return)
#define ASSERT_GT(a, b) REPRISE_COMPARE(>, a, b, return)
#define ASSERT_GE(a, b) REPRISE_COMPARE(>=, a, b, return)
#define REPRISE_NEAR(a, b, bound, leave) \
  REPRISE_CHECK((std::abs(static_cast<double>(a) - static_cast<double>(b)) <= static_cast<double>(bound)), \
                ::testing::ShowBoth("near", #a, #b, (a), (b)), leave)
#define EXPECT_NEAR(a, b, bound) REPRISE_NEAR(a, b, bound, )
#define ASSERT_NEAR(a, b, bound) REPRISE_NEAR(a, b, bound, return)
#define ADD_FAILURE() REPRISE_CHECK(false, "", )
#define FAIL() REPRISE_CHECK(false, "", return)
#define GTEST_SKIP() \
  return ::testing::Report(__FILE__, __LINE__, "", true) = ::testing::Message()
#define SCOPED_TRACE(text) static_cast<void>(0)
#define REPRISE_TEST(suite, name, parent)                                               \
  class suite##_##name : public parent {                                                \
   public:                                                                              \
    static std::unique_ptr<::testing::Test> Make() { return std::make_unique<suite##_##name>(); } \
    void TestBody() override;                                                           \
  };                                                                                    \
  [[maybe_unused]] static const bool suite##_##name##_registered =                      \
      ::testing::Register(#suite, #name, &suite##_##name::Make);                        \
  void suite##_##name::TestBody()
#define TEST(suite, name) REPRISE_TEST(suite, name, ::testing::Test)
#define TEST_F(fixture, name) REPRISE_TEST(fixture, name, fixture)
// clang-format on

#endif  // REPRISE_BENCH_GPU_GTEST_GTEST_H_

// Comes first. GCC 12 has no <format>. mlx-c writes five messages with it, and uses plain `{}` alone.
#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {

inline string format(string_view text) {
  return string(text);
}

template <typename First, typename... Rest>
string format(string_view text, const First& first, const Rest&... rest) {
  auto at = text.find("{}");
  if (at == string_view::npos) {
    return string(text);
  }
  ostringstream shown;
  shown << text.substr(0, at) << first;
  return shown.str() + format(text.substr(at + 2), rest...);
}

} // namespace std
#endif

// Comes first. mlx-c writes five messages with std::format, and uses plain `{}` alone. GCC 12 has none, and what that of
// macOS needs of the system's C++ library depends on the oldest macOS that is built for. So mlx-c gets another one under
// another name, after every header that may use the word itself.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/mlx.h"

namespace std {

inline string mlx_ext_format(string_view text) {
  return string(text);
}

template <typename First, typename... Rest>
string mlx_ext_format(string_view text, const First& first, const Rest&... rest) {
  auto at = text.find("{}");
  if (at == string_view::npos) {
    return string(text);
  }
  ostringstream shown;
  shown << text.substr(0, at) << first;
  return shown.str() + mlx_ext_format(text.substr(at + 2), rest...);
}

} // namespace std

#define format mlx_ext_format

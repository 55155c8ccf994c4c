// Elements of 16 bits, which mlx-c's headers have on Arm only. Both types are given as their bits.
#include <bit>
#include <cstdint>

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace {

template <typename Half>
[[maybe_unused]] const uint16_t* data(const mlx_array array) {
  return reinterpret_cast<const uint16_t*>(mlx_array_get_(array).data<Half>());
}

template <typename Half>
[[maybe_unused]] int item(uint16_t* bits, const mlx_array array) {
  try {
    *bits = std::bit_cast<uint16_t>(mlx_array_get_(array).item<Half>());
  } catch (std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
  return 0;
}

} // namespace

#ifndef HAS_FLOAT16
extern "C" const uint16_t* mlx_array_data_float16(const mlx_array array) {
  return data<mlx::core::float16_t>(array);
}

extern "C" int mlx_array_item_float16(uint16_t* bits, const mlx_array array) {
  return item<mlx::core::float16_t>(bits, array);
}
#endif

#ifndef HAS_BFLOAT16
extern "C" const uint16_t* mlx_array_data_bfloat16(const mlx_array array) {
  return data<mlx::core::bfloat16_t>(array);
}

extern "C" int mlx_array_item_bfloat16(uint16_t* bits, const mlx_array array) {
  return item<mlx::core::bfloat16_t>(bits, array);
}
#endif

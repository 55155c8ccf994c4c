// Memory that is not MLX's as arrays, and arrays whose memory somebody else fills. mlx-c has neither without a copy.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include <dlfcn.h>
#include <unistd.h>

#include "mlx/allocator.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/backend/metal/metal.h"
#include "mlx/c/array.h"
#include "mlx/c/private/mlx.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/version.h"

using namespace mlx::core;

// What went wrong, in words. mlx-c's own way, a handler for all threads, is mlx-rs's and tells nobody else.
extern "C" struct mlx_ext_error {
  char text[512];
};

namespace {

// 0, or 2 and the words of what was thrown.
template <typename Work>
int guarded(mlx_ext_error* error, Work work) {
  try {
    return work();
  } catch (std::exception& thrown) {
    std::strncpy(error->text, thrown.what(), sizeof(error->text) - 1);
    error->text[sizeof(error->text) - 1] = 0;
    return 2;
  }
}

// Of a buffer of the CPU's allocator: its length stands in front of its data.
constexpr size_t FRONT = sizeof(size_t);

// Whether that is so; it is nobody's promise, so it is looked at.
bool has_front() {
  size_t length = 64;
  auto buffer = allocator::malloc(length);
  auto* data = static_cast<char*>(buffer.raw_ptr());
  bool found = static_cast<char*>(buffer.ptr()) + FRONT == data && allocator::allocator().size(buffer) == length &&
      *static_cast<size_t*>(buffer.ptr()) == length;
  allocator::free(buffer);
  return found;
}

// Whether the CPU's allocator takes memory that is not its own.
bool cpu_adopts() {
  static const bool works = !cu::is_available() && has_front();
  return works;
}

// Tests of machines without Metal set WEIGHTSD_METAL_STAND_IN to a limit in bytes, or to 0 for none. Then buffers over
// foreign memory are refused as Metal refuses them, and are the CPU allocator's behind that. Null: no stand-in.
const size_t* stand_in_limit() {
  static const auto limit = []() -> std::optional<size_t> {
    auto* text = std::getenv("WEIGHTSD_METAL_STAND_IN");
    if (!text || metal::is_available() || !cpu_adopts()) {
      return std::nullopt;
    }
    auto found = std::strtoull(text, nullptr, 10);
    return found ? found : SIZE_MAX;
  }();
  return limit ? &*limit : nullptr;
}

// Most bytes of one Metal buffer; 0 where memory is not adopted by Metal.
size_t longest_metal_buffer() {
  if (auto* limit = stand_in_limit()) {
    return *limit;
  }
  if (!metal::is_available()) {
    return 0;
  }
  auto& found = device_info(Device(Device::gpu));
  auto length = found.find("max_buffer_length");
  auto* bytes = length == found.end() ? nullptr : std::get_if<size_t>(&length->second);
  // Every device has more; a library that does not tell is no reason to copy everything.
  return bytes && *bytes ? *bytes : size_t(1) << 30;
}

// The memory as a buffer of the allocator's own kind; null where there is no such thing.
allocator::Buffer buffer_over(void* data, size_t length) {
  if (auto* limit = stand_in_limit()) {
    size_t page = sysconf(_SC_PAGESIZE);
    if (reinterpret_cast<uintptr_t>(data) % page || length % page || length > *limit) {
      return allocator::Buffer(nullptr);
    }
    return allocator::Buffer(static_cast<char*>(data) - FRONT);
  }
  if (metal::is_available()) {
    return allocator::make_buffer(data, length);
  }
  return allocator::Buffer(cpu_adopts() ? static_cast<char*>(data) - FRONT : nullptr);
}

} // namespace

// Most bytes that one adopted memory may have, which then begins and ends at a page boundary; 0 where a mapping is
// adopted whole.
extern "C" size_t mlx_ext_longest() {
  return longest_metal_buffer();
}

// Adopts `length` bytes at `data` as an array of no shape of its own, of which mlx_ext_part makes arrays. The eight
// bytes in front of `data` must be readable, and hold `length` where mlx_ext_longest is 0. 0: adopted, `release(payload)` is called when no array
// needs the memory any more; 1: this backend cannot, nothing was done; 2: it went wrong, nothing was done.
extern "C" int mlx_ext_adopt(
    mlx_array* base,
    void* data,
    size_t length,
    void* payload,
    void (*release)(void*),
    mlx_ext_error* error) {
  return guarded(error, [&] {
    auto buffer = buffer_over(data, length);
    if (!buffer.ptr()) {
      return 1;
    }
    bool is_metal = metal::is_available();
    auto deleter = [payload, release, is_metal](allocator::Buffer buffer) {
      if (is_metal) {
        allocator::release(buffer);
      }
      release(payload);
    };
    mlx_array_set_(*base, array(buffer, Shape{1}, uint8, deleter));
    return 0;
  });
}

// How many arrays share the memory of `array`, itself included.
extern "C" long mlx_ext_sharers(const mlx_array array) {
  return mlx_array_get_(array).data_shared_ptr().use_count();
}

// A contiguous array over a part of an adopted memory, from the element number `first` on. The caller sees to it that
// the part lies within the memory.
extern "C" int mlx_ext_part(
    mlx_array* part,
    const mlx_array base,
    int64_t first,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype,
    mlx_ext_error* error) {
  return guarded(error, [&] {
    array made(Shape(shape, shape + ndim), mlx_dtype_to_cpp(dtype), nullptr, {});
    array::Flags flags;
    flags.contiguous = true;
    flags.row_contiguous = true;
    size_t longest = 1;
    for (size_t at = 0; at < ndim; at++) {
      longest = std::max(longest, static_cast<size_t>(shape[at]));
    }
    // A vector in all but name is contiguous by columns too.
    flags.col_contiguous = made.size() <= 1 || longest == made.size();
    made.copy_shared_buffer(mlx_array_get_(base), made.strides(), flags, made.size(), first);
    made.set_status(array::Status::available);
    mlx_array_set_(*part, std::move(made));
    return 0;
  });
}

// An array whose memory is there and not filled; `data` is where it begins.
extern "C" int mlx_ext_empty(
    mlx_array* empty,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype,
    void** data,
    mlx_ext_error* error) {
  return guarded(error, [&] {
    Shape dimensions(shape, shape + ndim);
    size_t bytes = size_of(mlx_dtype_to_cpp(dtype));
    for (auto dimension : dimensions) {
      bytes *= dimension;
    }
    auto buffer = allocator::malloc(bytes);
    *data = buffer.raw_ptr();
    mlx_array_set_(*empty, array(buffer, std::move(dimensions), mlx_dtype_to_cpp(dtype)));
    return 0;
  });
}

// Where the elements of an evaluated array begin; null when it is not evaluated, or its elements are not in order.
extern "C" const void* mlx_ext_data(const mlx_array array) {
  auto& found = mlx_array_get_(array);
  if (!found.is_available() || !found.flags().row_contiguous) {
    return nullptr;
  }
  return found.data<char>();
}

// MLX's quantize, in all its modes: mlx-rs has one of them. Fills packed weight, scales and, in mode affine, biases.
extern "C" int mlx_ext_quantize(
    mlx_array parts[3],
    const mlx_array weight,
    int group_size,
    int bits,
    const char* mode,
    mlx_ext_error* error) {
  return guarded(error, [&] {
    auto made = quantize(mlx_array_get_(weight), group_size, bits, mode);
    for (size_t at = 0; at < made.size() && at < 3; at++) {
      mlx_array_set_(parts[at], made[at]);
    }
    return 0;
  });
}

// MLX's dequantize; `biases` and `global_scale` may be empty. With a global scale the result is F32.
extern "C" int mlx_ext_dequantize(
    mlx_array* weight,
    const mlx_array packed,
    const mlx_array scales,
    const mlx_array biases,
    const mlx_array global_scale,
    int group_size,
    int bits,
    const char* mode,
    mlx_ext_error* error) {
  return guarded(error, [&] {
    std::optional<array> offsets, factor;
    std::optional<Dtype> dtype;
    if (biases.ctx) {
      offsets = mlx_array_get_(biases);
    }
    if (global_scale.ctx) {
      factor = mlx_array_get_(global_scale);
      // Left to choose, backends differ.
      dtype = float32;
    }
    auto made = dequantize(
        mlx_array_get_(packed), mlx_array_get_(scales), offsets, group_size, bits, mode, factor, dtype);
    mlx_array_set_(*weight, std::move(made));
    return 0;
  });
}

// Which build of this library it is: the programs that were built with another one refuse it.
extern "C" const char* mlx_ext_build() {
  return MLX_EXT_BUILD;
}

// The version of the MLX that was loaded, in MLX's own words.
extern "C" const char* mlx_ext_version() {
  return version();
}

// What computes unless a caller chooses: "cpu", "cuda" or "metal".
extern "C" const char* mlx_ext_backend() {
  if (default_device() == Device::cpu) {
    return "cpu";
  }
  return metal::is_available() ? "metal" : "cuda";
}

// The kind of its processor, in MLX's words; empty where it has none.
extern "C" const char* mlx_ext_architecture() {
  static const auto found = []() -> std::string {
    try {
      auto& info = device_info(default_device());
      auto kind = info.find("architecture");
      auto* words = kind == info.end() ? nullptr : std::get_if<std::string>(&kind->second);
      return words ? *words : "";
    } catch (std::exception&) {
      return "";
    }
  }();
  return found.c_str();
}

// The file of the MLX that was loaded; empty where the system does not tell.
extern "C" const char* mlx_ext_library() {
  Dl_info found;
  return dladdr(reinterpret_cast<const void*>(&version), &found) && found.dli_fname ? found.dli_fname : "";
}

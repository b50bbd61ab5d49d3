// Multi-scale deformable attention on the CPU, forward and backward, for `cpu_kernel.py`.
//
// Layouts, all contiguous: value (B, S, heads, D), locations (B, Q, heads, levels, points, 2),
// weights (B, Q, heads, levels, points), output (B, Q, heads, D). Tasks of a parallel loop write to
// disjoint memory, so results do not depend on the number of threads.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

struct Sizes {
  std::int64_t batch, cells, heads, channels, queries, levels, points, threads;
  const std::int64_t* shapes;  // (levels, 2): height, width
};

// The four cells around a point and their bilinear weights.
template <typename T>
struct Corners {
  std::int64_t cell[4];  // -1 outside
  T weight[4];
  T x, y;  // offset of the point from the first corner
};

enum class Position { inside, outside, nan };

// Converts [0, 1] to pixels with the rounding of PyTorch's grid_sample. At the centre of a cell,
// where untrained models sample, rounding selects the one-sided derivative.
template <typename T>
T pixel(T location, std::int64_t size) {
  return std::fma((2 * location - 1) + 1, static_cast<T>(size) / 2, static_cast<T>(-0.5));
}

// A point is inside if any of its four cells is, or would be after a small shift right or down.
template <typename T>
Position find_corners(const T* location, std::int64_t height, std::int64_t width,
                      Corners<T>& corners) {
  const T x = pixel(location[0], width), y = pixel(location[1], height);
  if (!(x >= -1 && y >= -1 && x < static_cast<T>(width) && y < static_cast<T>(height))) {
    return std::isfinite(x) && std::isfinite(y) ? Position::outside : Position::nan;
  }
  const T left = std::floor(x), top = std::floor(y);
  const auto column = static_cast<std::int64_t>(left), row = static_cast<std::int64_t>(top);
  const bool columns[2] = {column >= 0, column + 1 < width};
  const bool rows[2] = {row >= 0, row + 1 < height};
  corners.x = x - left;
  corners.y = y - top;
  const T across[2] = {1 - corners.x, corners.x}, down[2] = {1 - corners.y, corners.y};
  for (int corner = 0; corner < 4; ++corner) {
    const int right = corner & 1, below = corner >> 1;
    const bool seen = columns[right] && rows[below];
    corners.cell[corner] = seen ? (row + below) * width + column + right : -1;
    corners.weight[corner] = across[right] * down[below];
  }
  return Position::inside;
}

// Index of the first cell of each level.
std::vector<std::int64_t> level_starts(const Sizes& sizes) {
  std::vector<std::int64_t> starts(sizes.levels);
  std::int64_t next = 0;
  for (std::int64_t level = 0; level < sizes.levels; ++level) {
    starts[level] = next;
    next += sizes.shapes[2 * level] * sizes.shapes[2 * level + 1];
  }
  return starts;
}

// D is the number of channels of a head, or 0 if it is not known at compile time.
template <typename T, int D>
void forward(const Sizes& sizes, const T* value, const T* locations, const T* weights, T* output) {
  const std::int64_t channels = D ? D : sizes.channels;
  const std::int64_t row = sizes.heads * channels;  // stride between cells
  const auto starts = level_starts(sizes);
  const std::vector<T> zeros(channels, 0);
#pragma omp parallel for schedule(static) num_threads(sizes.threads)
  for (std::int64_t query = 0; query < sizes.batch * sizes.queries; ++query) {
    const T* image = value + query / sizes.queries * sizes.cells * row;
    for (std::int64_t head = 0; head < sizes.heads; ++head) {
      std::int64_t sample = (query * sizes.heads + head) * sizes.levels * sizes.points;
      T* target = output + query * row + head * channels;
      T local[D ? D : 1];
      T* sum = D ? local : target;
      for (std::int64_t c = 0; c < channels; ++c) sum[c] = 0;
      for (std::int64_t level = 0; level < sizes.levels; ++level) {
        const T* map = image + starts[level] * row + head * channels;
        const std::int64_t height = sizes.shapes[2 * level], width = sizes.shapes[2 * level + 1];
        for (std::int64_t point = 0; point < sizes.points; ++point, ++sample) {
          Corners<T> corners;
          const Position position = find_corners(locations + 2 * sample, height, width, corners);
          if (position == Position::outside) continue;
          if (position == Position::nan) {
            for (std::int64_t c = 0; c < channels; ++c)
              sum[c] = std::numeric_limits<T>::quiet_NaN();
            continue;
          }
          const T* at[4];
          T share[4];
          for (int corner = 0; corner < 4; ++corner) {
            const std::int64_t cell = corners.cell[corner];
            at[corner] = cell < 0 ? zeros.data() : map + cell * row;
            share[corner] = corners.weight[corner] * weights[sample];
          }
          for (std::int64_t c = 0; c < channels; ++c) {
            sum[c] += share[0] * at[0][c] + share[1] * at[1][c] + share[2] * at[2][c] +
                      share[3] * at[3][c];
          }
        }
      }
      for (std::int64_t c = 0; c < channels; ++c) target[c] = sum[c];
    }
  }
}

// Gradients; `grad_value` is initialised to zeros. A task is one head, level and image.
template <typename T, int D>
void backward(const Sizes& sizes, const T* grad, const T* value, const T* locations,
              const T* weights, T* grad_value, T* grad_locations, T* grad_weights) {
  const std::int64_t channels = D ? D : sizes.channels;
  const std::int64_t row = sizes.heads * channels;
  const auto starts = level_starts(sizes);
  const std::vector<T> zeros(channels, 0);
#pragma omp parallel num_threads(sizes.threads)
  {
    std::vector<T> discarded(channels);  // gradients of cells outside
#pragma omp for schedule(dynamic) collapse(3)
    for (std::int64_t image = 0; image < sizes.batch; ++image) {
      for (std::int64_t head = 0; head < sizes.heads; ++head) {
        for (std::int64_t level = 0; level < sizes.levels; ++level) {
          const std::int64_t height = sizes.shapes[2 * level], width = sizes.shapes[2 * level + 1];
          const std::int64_t first = (image * sizes.cells + starts[level]) * row + head * channels;
          for (std::int64_t query = 0; query < sizes.queries; ++query) {
            const std::int64_t query_head = (image * sizes.queries + query) * sizes.heads + head;
            const T* upstream = grad + query_head * channels;
            std::int64_t sample = (query_head * sizes.levels + level) * sizes.points;
            for (std::int64_t point = 0; point < sizes.points; ++point, ++sample) {
              Corners<T> corners;
              const Position position =
                  find_corners(locations + 2 * sample, height, width, corners);
              if (position != Position::inside) {
                const T none =
                    position == Position::outside ? 0 : std::numeric_limits<T>::quiet_NaN();
                grad_locations[2 * sample] = grad_locations[2 * sample + 1] = none;
                grad_weights[sample] = none;
                continue;
              }
              const T weight = weights[sample];
              const T* at[4];
              T* into[4];
              T share[4], dot[4] = {0, 0, 0, 0};
              for (int corner = 0; corner < 4; ++corner) {
                const std::int64_t cell = corners.cell[corner];
                at[corner] = cell < 0 ? zeros.data() : value + first + cell * row;
                into[corner] = cell < 0 ? discarded.data() : grad_value + first + cell * row;
                share[corner] = corners.weight[corner] * weight;
              }
              for (int corner = 0; corner < 4; ++corner) {
                const T* __restrict__ from = at[corner];
                T* __restrict__ to = into[corner];
                T product = 0;
#pragma omp simd reduction(+ : product)
                for (std::int64_t c = 0; c < channels; ++c) {
                  product += upstream[c] * from[c];
                  to[c] += share[corner] * upstream[c];
                }
                dot[corner] = product;
              }
              const T x = corners.x, y = corners.y;
              grad_weights[sample] = corners.weight[0] * dot[0] + corners.weight[1] * dot[1] +
                                     corners.weight[2] * dot[2] + corners.weight[3] * dot[3];
              grad_locations[2 * sample] =
                  weight * static_cast<T>(width) *
                  ((1 - y) * (dot[1] - dot[0]) + y * (dot[3] - dot[2]));
              grad_locations[2 * sample + 1] =
                  weight * static_cast<T>(height) *
                  ((1 - x) * (dot[2] - dot[0]) + x * (dot[3] - dot[1]));
            }
          }
        }
      }
    }
  }
}

// Calls the kernel that is compiled for this number of channels, if there is one.
template <typename T, typename... Arguments>
void forward_any(const Sizes& sizes, Arguments... arguments) {
  switch (sizes.channels) {
    case 8: return forward<T, 8>(sizes, arguments...);
    case 16: return forward<T, 16>(sizes, arguments...);
    case 32: return forward<T, 32>(sizes, arguments...);
    case 64: return forward<T, 64>(sizes, arguments...);
    default: return forward<T, 0>(sizes, arguments...);
  }
}

template <typename T, typename... Arguments>
void backward_any(const Sizes& sizes, Arguments... arguments) {
  switch (sizes.channels) {
    case 8: return backward<T, 8>(sizes, arguments...);
    case 16: return backward<T, 16>(sizes, arguments...);
    case 32: return backward<T, 32>(sizes, arguments...);
    case 64: return backward<T, 64>(sizes, arguments...);
    default: return backward<T, 0>(sizes, arguments...);
  }
}

}  // namespace

#define DEFINE(SUFFIX, T)                                                                        \
  extern "C" void forward_##SUFFIX(const Sizes* sizes, const T* value, const T* locations,       \
                                   const T* weights, T* output) {                                \
    forward_any<T>(*sizes, value, locations, weights, output);                                   \
  }                                                                                              \
  extern "C" void backward_##SUFFIX(const Sizes* sizes, const T* grad, const T* value,           \
                                    const T* locations, const T* weights, T* grad_value,         \
                                    T* grad_locations, T* grad_weights) {                        \
    backward_any<T>(*sizes, grad, value, locations, weights, grad_value, grad_locations,         \
                    grad_weights);                                                               \
  }

DEFINE(float32, float)
DEFINE(float64, double)

// Bilinear resizing of maps on the CPU, for `resizing.py`.

#include <cmath>
#include <cstdint>
#include <vector>

extern "C" {

// For each cell along one side of the output: the input cells `low` and `high` between which it
// lies, and their weights.
struct Side {
  std::int64_t size;
  const std::int64_t *low, *high;
  const float *of_low, *of_high;
};

// Resizes `maps` maps of floats. Strides are in elements. The columns of an input row are resized
// once, for all output rows that need it.
void resize(std::int64_t maps, std::int64_t map_stride, std::int64_t row_stride,
            std::int64_t threads, const Side* y, const Side* x, const float* input,
            float* output) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> lines[2] = {std::vector<float>(x->size), std::vector<float>(x->size)};
#pragma omp for schedule(static)
    for (std::int64_t map = 0; map < maps; ++map) {
      std::int64_t held[2] = {-1, -1};  // the input rows in `lines`; even rows are in the first
      const auto line = [&](std::int64_t row) {
        float* wide = lines[row % 2].data();
        if (held[row % 2] != row) {
          const float* cells = input + map * map_stride + row * row_stride;
          for (std::int64_t at = 0; at < x->size; ++at) {
            const float right = cells[x->high[at]] * x->of_high[at];
            wide[at] = std::fma(cells[x->low[at]], x->of_low[at], right);
          }
          held[row % 2] = row;
        }
        return static_cast<const float*>(wide);
      };
      for (std::int64_t row = 0; row < y->size; ++row) {
        const float *above = line(y->low[row]), *below = line(y->high[row]);
        const float of_above = y->of_low[row], of_below = y->of_high[row];
        float* written = output + (map * y->size + row) * x->size;
        for (std::int64_t at = 0; at < x->size; ++at) {
          written[at] = std::fma(above[at], of_above, below[at] * of_below);
        }
      }
    }
  }
}
}

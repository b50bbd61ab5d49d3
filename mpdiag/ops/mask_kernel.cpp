// Masks, their overlaps, sums and losses on the CPU, for `mask_sums.py`, `mask_losses.py` and
// `points.py`.
//
// A map is one query's mask logits in one layer: `height` x `width` float32, row by row. Each map
// is read once and independently, so results depend neither on the number of threads nor on the rest
// of the batch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

using Word = std::uint64_t;
constexpr std::int64_t BITS = 64;

// Packs the signs of a row into bits; unused bits of the last word are zero.
void pack(const float* row, std::int64_t columns, Word* words) {
  std::int64_t column = 0;
  for (; column + BITS <= columns; column += BITS) {
    Word word = 0;
#ifdef __AVX2__
    for (int eight = 0; eight < BITS; eight += 8) {
      const __m256 positive = _mm256_cmp_ps(_mm256_loadu_ps(row + column + eight),
                                            _mm256_setzero_ps(), _CMP_GT_OQ);
      word |= static_cast<Word>(_mm256_movemask_ps(positive)) << eight;
    }
#else
    for (int bit = 0; bit < BITS; ++bit) {
      word |= static_cast<Word>(row[column + bit] > 0) << bit;
    }
#endif
    *words++ = word;
  }
  if (column < columns) {
    Word word = 0;
    for (int bit = 0; column + bit < columns; ++bit) {
      word |= static_cast<Word>(row[column + bit] > 0) << bit;
    }
    *words = word;
  }
}

std::int64_t shared(const Word* one, const Word* other, std::int64_t words) {
  std::int64_t count = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    count += __builtin_popcountll(one[word] & other[word]);
  }
  return count;
}

// Points on a map with a border of one zero cell: the upper left of the four cells around each
// point, and the offset of the point from it.
struct Points {
  std::vector<std::int32_t> cell;
  std::vector<float> x, y;
};

// Places points as PyTorch's grid_sample with align_corners=False and zeros outside.
Points place(const float* points, std::int64_t count, std::int64_t height, std::int64_t width) {
  Points placed{std::vector<std::int32_t>(count), std::vector<float>(count),
                std::vector<float>(count)};
  for (std::int64_t at = 0; at < count; ++at) {
    const float* point = points + 2 * at;
    const float x = std::fma(2 * point[0] - 1 + 1, static_cast<float>(width) / 2, -0.5f);
    const float y = std::fma(2 * point[1] - 1 + 1, static_cast<float>(height) / 2, -0.5f);
    if (!(x > -1 && y > -1 && x < static_cast<float>(width) && y < static_cast<float>(height))) {
      continue;
    }
    const float left = std::floor(x), top = std::floor(y);
    placed.cell[at] = static_cast<std::int32_t>(
        (static_cast<std::int64_t>(top) + 1) * (width + 2) + static_cast<std::int64_t>(left) + 1);
    placed.x[at] = x - left;
    placed.y[at] = y - top;
  }
  return placed;
}

#ifdef __AVX2__
// Loads the left and the right cell of each of four points.
void pairs(const float* map, const std::int32_t* cell, __m128* left, __m128* right) {
  const auto two = [map](std::int32_t one, std::int32_t other) {
    const __m128 first = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(map + one)));
    return _mm_loadh_pi(first, reinterpret_cast<const __m64*>(map + other));
  };
  const __m128 low = two(cell[0], cell[1]), high = two(cell[2], cell[3]);
  *left = _mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
  *right = _mm_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1));
}
#endif

// Samples a bordered map with row stride `line` at points `start`..`start + count`.
void sample_points(const float* map, std::int64_t line, const Points& points, std::int64_t start,
                   std::int64_t count, float* sampled) {
  const std::int32_t* cell = points.cell.data() + start;
  const float *x = points.x.data() + start, *y = points.y.data() + start;
  std::int64_t at = 0;
#ifdef __AVX2__
  for (; at + 4 <= count; at += 4) {
    const __m128 right_of = _mm_loadu_ps(x + at), below_of = _mm_loadu_ps(y + at);
    __m128 left, right;
    pairs(map, cell + at, &left, &right);
    const __m128 above = left + right_of * (right - left);
    pairs(map + line, cell + at, &left, &right);
    const __m128 below = left + right_of * (right - left);
    _mm_storeu_ps(sampled + at, above + below_of * (below - above));
  }
#endif
  for (; at < count; ++at) {
    const float* top = map + cell[at];
    const float* bottom = top + line;
    const float above = top[0] + x[at] * (top[1] - top[0]);
    const float below = bottom[0] + x[at] * (bottom[1] - bottom[0]);
    sampled[at] = above + y[at] * (below - above);
  }
}

// exp(x) for x <= 0, accurate to 2 units in the last place (polynomial of Cephes).
inline float exp_negative(float x) {
  x = std::max(x, -87.0f);
  const float n = std::nearbyint(x * 1.44269504088896341f);
  const float r = std::fma(n, 2.12194440e-4f, std::fma(n, -0.693359375f, x));
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  const float value = std::fma(p, r * r, r + 1);
  std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return value * power;
}

constexpr std::int64_t BLOCK = 1024;  // values per product of 1 + exp(-|x|), without overflow
constexpr int LANES = 32;

struct Sums {
  double softplus, sigmoid;
};

// Computes the sums of softplus and sigmoid, and the sigmoid of each value.
Sums activate(const float* values, std::int64_t count, float* sigmoids) {
  double softplus = 0, sigmoid = 0;
  for (std::int64_t start = 0; start < count; start += BLOCK) {
    const std::int64_t size = std::min(BLOCK, count - start);
    const float* x = values + start;
    float* s = sigmoids + start;
    float positive = 0, total = 0;
    // softplus(x) = max(x, 0) + log(1 + exp(-|x|)); one logarithm per product of up to 32 terms.
    float product[LANES];
    std::fill(product, product + LANES, 1.0f);
    std::int64_t at = 0;
    for (; at + LANES <= size; at += LANES) {
#pragma omp simd reduction(+ : positive, total)
      for (int lane = 0; lane < LANES; ++lane) {
        const float value = x[at + lane];
        const float e = exp_negative(-std::fabs(value));
        const float larger = 1 / (1 + e);
        const float found = value >= 0 ? larger : e * larger;
        s[at + lane] = found;
        product[lane] *= 1 + e;
        positive += std::max(value, 0.0f);
        total += found;
      }
    }
    for (int lane = 0; at < size; ++at, ++lane) {
      const float value = x[at];
      const float e = exp_negative(-std::fabs(value));
      const float larger = 1 / (1 + e);
      s[at] = value >= 0 ? larger : e * larger;
      product[lane] *= 1 + e;
      positive += std::max(value, 0.0f);
      total += s[at];
    }
    double logarithms = 0;
    for (int lane = 0; lane < LANES; ++lane) {
      logarithms += std::log(product[lane]);
    }
    softplus += positive + logarithms;
    sigmoid += total;
  }
  return {softplus, sigmoid};
}

// Sums of the products of two arrays with the same weights, in LANES parts.
struct Products {
  float ones[LANES] = {}, others[LANES] = {};

  void add(const float* one, const float* other, const float* weights) {
    for (int lane = 0; lane < LANES; ++lane) {
      ones[lane] = std::fma(one[lane], weights[lane], ones[lane]);
      others[lane] = std::fma(other[lane], weights[lane], others[lane]);
    }
  }

  void add_part(const float* one, const float* other, const float* weights, std::int64_t count) {
    for (std::int64_t lane = 0; lane < count; ++lane) {
      ones[lane] = std::fma(one[lane], weights[lane], ones[lane]);
      others[lane] = std::fma(other[lane], weights[lane], others[lane]);
    }
  }

  void total(float* of_one, float* of_other) {
    for (int width = LANES / 2; width; width /= 2) {
      for (int lane = 0; lane < width; ++lane) {
        ones[lane] += ones[lane + width];
        others[lane] += others[lane + width];
      }
    }
    *of_one = ones[0];
    *of_other = others[0];
  }
};

// Computes the dot products of two arrays with the same weights.
void dots(const float* one, const float* other, const float* weights, std::int64_t count,
          float* of_one, float* of_other) {
  Products products;
  std::int64_t at = 0;
  for (; at + LANES <= count; at += LANES) {
    products.add(one + at, other + at, weights + at);
  }
  products.add_part(one + at, other + at, weights + at, count - at);
  products.total(of_one, of_other);
}

// The chunks of LANES values of a block, as bits.
using Chunks = std::uint32_t;
static_assert(BLOCK / LANES == 32);
constexpr int DENSE = 20;  // with more chunks, all of them take less time

// Returns the chunks with a weight that is not zero.
Chunks used_chunks(const float* weights, std::int64_t count) {
  Chunks chunks = 0;
  for (std::int64_t at = 0; at < count; ++at) {
    chunks |= static_cast<Chunks>(weights[at] != 0) << (at / LANES);
  }
  return chunks;
}

// Computes the same as `dots` from the chunks with weights: most objects cover a small part of an
// image.
void sparse_dots(const float* one, const float* other, const float* weights, std::int64_t count,
                 Chunks chunks, float* of_one, float* of_other) {
  Products products;
  for (; chunks; chunks &= chunks - 1) {
    const std::int64_t at = LANES * __builtin_ctz(chunks);
    if (at + LANES <= count) {
      products.add(one + at, other + at, weights + at);
    } else {
      products.add_part(one + at, other + at, weights + at, count - at);
    }
  }
  products.total(of_one, of_other);
}

// Returns whether all values are finite: 0 * NaN and 0 * infinity are NaN.
bool all_finite(const float* values, std::int64_t count) {
  float zero = 0;
#pragma omp simd reduction(+ : zero)
  for (std::int64_t at = 0; at < count; ++at) {
    zero += values[at] * 0;
  }
  return zero == 0;
}

}  // namespace

extern "C" {

// Strides are in elements.
struct Maps {
  std::int64_t layers, images, queries, height, width;
  std::int64_t layer_stride, image_stride, query_stride;
  std::int64_t threads;
  const float* logits;
};

// For each map of one image: the number of cells with a logit > 0 in the upper left rows x columns,
// and its intersection with the previous layer and with each GT. Maps that are not `valid`
// (layers, queries) count as empty.
void overlaps(const Maps* maps, std::int64_t rows, std::int64_t columns, const bool* valid,
              const bool* gt, std::int64_t gts, std::int64_t* area, std::int64_t* intersection,
              std::int64_t* overlap) {
  const std::int64_t line = (columns + BITS - 1) / BITS, words = rows * line;
  std::vector<Word> truth(gts * words, 0);
  for (std::int64_t row = 0; row < gts * rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      truth[row * line + column / BITS] |= static_cast<Word>(gt[row * columns + column])
                                           << (column % BITS);
    }
  }
#pragma omp parallel for schedule(static) num_threads(maps->threads)
  for (std::int64_t query = 0; query < maps->queries; ++query) {
    std::vector<Word> before(words), here(words);
    for (std::int64_t layer = 0; layer < maps->layers; ++layer) {
      const std::int64_t place = layer * maps->queries + query;
      if (valid[place]) {
        const float* map =
            maps->logits + layer * maps->layer_stride + query * maps->query_stride;
        for (std::int64_t row = 0; row < rows; ++row) {
          pack(map + row * maps->width, columns, here.data() + row * line);
        }
      } else {
        std::fill(here.begin(), here.end(), 0);
      }
      area[place] = shared(here.data(), here.data(), words);
      if (layer) {
        intersection[place - maps->queries] = shared(before.data(), here.data(), words);
      }
      for (std::int64_t one = 0; one < gts; ++one) {
        overlap[place * gts + one] = shared(here.data(), truth.data() + one * words, words);
      }
      before.swap(here);
    }
  }
}

// For each map of (layers, images, queries), at `count` points or, if `points` is null, at all
// cells: the sums of softplus and sigmoid, and of logit and sigmoid times each of the image's
// (gts, count) GT values.
void point_sums(const Maps* maps, const float* points, std::int64_t count, const float* truth,
                std::int64_t gts, float* softplus, float* sigmoid, float* logit_truth,
                float* sigmoid_truth) {
  const std::int64_t height = maps->height, width = maps->width, line = width + 2;
  const Points places = place(points, points ? count : 0, height, width);
  const std::int64_t total = maps->layers * maps->images * maps->queries;
  const std::int64_t blocks = (count + BLOCK - 1) / BLOCK;
  std::vector<Chunks> used(maps->images * gts * blocks);
  for (std::int64_t at = 0; at < maps->images * gts * blocks; ++at) {
    const std::int64_t start = at % blocks * BLOCK;
    used[at] = used_chunks(truth + at / blocks * count + start, std::min(BLOCK, count - start));
  }
#pragma omp parallel num_threads(maps->threads)
  {
    std::vector<float> bordered(points ? (height + 2) * line : 0);
    std::vector<double> of_truth(2 * gts);
    float sampled[BLOCK], sigmoids[BLOCK];
#pragma omp for schedule(static)
    for (std::int64_t map = 0; map < total; ++map) {
      const std::int64_t query = map % maps->queries;
      const std::int64_t image = map / maps->queries % maps->images;
      const std::int64_t layer = map / (maps->queries * maps->images);
      const float* cells = maps->logits + layer * maps->layer_stride +
                           image * maps->image_stride + query * maps->query_stride;
      if (points) {
        for (std::int64_t row = 0; row < height; ++row) {
          std::memcpy(bordered.data() + (row + 1) * line + 1, cells + row * width,
                      width * sizeof(float));
        }
      }
      const float* truths = truth + image * gts * count;
      const Chunks* chunks = used.data() + image * gts * blocks;
      std::fill(of_truth.begin(), of_truth.end(), 0.0);
      Sums sums{0, 0};
      // Blocks keep the sampled values in the L1 cache.
      for (std::int64_t start = 0; start < count; start += BLOCK) {
        const std::int64_t size = std::min(BLOCK, count - start);
        if (points) {
          sample_points(bordered.data(), line, places, start, size, sampled);
        }
        const float* values = points ? sampled : cells + start;
        const Sums some = activate(values, size, sigmoids);
        sums.softplus += some.softplus;
        sums.sigmoid += some.sigmoid;
        const bool finite = all_finite(values, size);
        for (std::int64_t one = 0; one < gts; ++one) {
          const Chunks needed = chunks[one * blocks + start / BLOCK];
          const float* weights = truths + one * count + start;
          float of_logit = 0, of_sigmoid = 0;
          if (!finite || __builtin_popcount(needed) > DENSE) {
            dots(values, sigmoids, weights, size, &of_logit, &of_sigmoid);
          } else if (needed) {
            sparse_dots(values, sigmoids, weights, size, needed, &of_logit, &of_sigmoid);
          }
          of_truth[2 * one] += of_logit;
          of_truth[2 * one + 1] += of_sigmoid;
        }
      }
      softplus[map] = static_cast<float>(sums.softplus);
      sigmoid[map] = static_cast<float>(sums.sigmoid);
      for (std::int64_t one = 0; one < gts; ++one) {
        logit_truth[map * gts + one] = static_cast<float>(of_truth[2 * one]);
        sigmoid_truth[map * gts + one] = static_cast<float>(of_truth[2 * one + 1]);
      }
    }
  }
}

// For each of `masks` rows of `count` logits: which are > 0, how many, and the sum of their sigmoids.
void masks_of_logits(std::int64_t masks, std::int64_t count, std::int64_t threads,
                     const float* logits, bool* inside, std::int64_t* area, float* probability) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t mask = 0; mask < masks; ++mask) {
    const float* x = logits + mask * count;
    bool* in = inside + mask * count;
    double total = 0;
    std::int64_t cells = 0;
    for (std::int64_t start = 0; start < count; start += BLOCK) {
      const std::int64_t end = std::min(start + BLOCK, count);
      std::int32_t positive = 0;
      for (std::int64_t at = start; at < end; ++at) {
        in[at] = x[at] > 0;
        positive += in[at];
      }
      if (positive) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t at = start; at < end; ++at) {
          const float sigmoid = 1 / (1 + exp_negative(-std::fabs(x[at])));
          sum += x[at] > 0 ? sigmoid : 0.0f;
        }
        total += sum;
        cells += positive;
      }
    }
    area[mask] = cells;
    probability[mask] = static_cast<float>(total);
  }
}

// For each row: the mask `index[row]` at `count` points, bilinear with zeros outside of the mask.
// The points of the next row are `stride` points further; 0 if all rows have the same points.
void sample_masks(std::int64_t height, std::int64_t width, std::int64_t rows, std::int64_t count,
                  std::int64_t stride, std::int64_t threads, const std::uint8_t* masks,
                  const std::int64_t* index, const float* points, float* sampled) {
  const float columns = static_cast<float>(width), lines = static_cast<float>(height);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint8_t* mask = masks + index[row] * height * width;
    const auto cell = [=](std::int64_t x, std::int64_t y) {
      const bool inside = x >= 0 && x < width && y >= 0 && y < height;
      return inside ? static_cast<float>(mask[y * width + x]) : 0.0f;
    };
    for (std::int64_t at = 0; at < count; ++at) {
      const float* point = points + 2 * (row * stride + at);
      const float x = point[0] * columns - 0.5f, y = point[1] * lines - 0.5f;
      float& value = sampled[row * count + at];
      value = 0;
      if (!(x > -1 && y > -1 && x < columns && y < lines)) {
        continue;
      }
      const float left = std::floor(x), top = std::floor(y);
      const auto column = static_cast<std::int64_t>(left), line = static_cast<std::int64_t>(top);
      const float right_of = x - left, below_of = y - top;
      value = (1 - right_of) * (1 - below_of) * cell(column, line) +
              right_of * (1 - below_of) * cell(column + 1, line) +
              (1 - right_of) * below_of * cell(column, line + 1) +
              right_of * below_of * cell(column + 1, line + 1);
    }
  }
}

// For each row of `count` logits x and GT values t: the mean of softplus(x) - x t, the dice loss,
// and numerator and denominator of its fraction for the backward pass.
void mask_losses(std::int64_t rows, std::int64_t count, std::int64_t threads, const float* logits,
                 const float* truth, float* cross_entropy, float* dice, float* fraction) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sigmoids(count);
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      const float *x = logits + row * count, *t = truth + row * count;
      const Sums sums = activate(x, count, sigmoids.data());
      float logit_truth, sigmoid_truth, total = 0;
      dots(x, sigmoids.data(), t, count, &logit_truth, &sigmoid_truth);
#pragma omp simd reduction(+ : total)
      for (std::int64_t at = 0; at < count; ++at) {
        total += t[at];
      }
      const float above = 2 * sigmoid_truth + 1;
      const float below = static_cast<float>(sums.sigmoid) + total + 1;
      cross_entropy[row] =
          static_cast<float>((sums.softplus - logit_truth) / static_cast<double>(count));
      dice[row] = 1 - above / below;
      fraction[2 * row] = above;
      fraction[2 * row + 1] = below;
    }
  }
}

// Computes the gradient of the logits from the gradients of both losses.
void mask_losses_backward(std::int64_t rows, std::int64_t count, std::int64_t threads,
                          const float* logits, const float* truth, const float* fraction,
                          const float* grad_cross_entropy, const float* grad_dice,
                          float* grad_logits) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t row = 0; row < rows; ++row) {
    const float *x = logits + row * count, *t = truth + row * count;
    float* g = grad_logits + row * count;
    const float above = fraction[2 * row], below = fraction[2 * row + 1];
    const float mean = grad_cross_entropy[row] / static_cast<float>(count);
    const float scale = grad_dice[row] / (below * below);
    activate(x, count, g);
    for (std::int64_t at = 0; at < count; ++at) {
      const float s = g[at];
      g[at] = mean * (s - t[at]) + scale * (above - 2 * t[at] * below) * s * (1 - s);
    }
  }
}
}

// COCO run-length encoding and decoding of masks on the CPU, for `mask_encoding.py`.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int MAX_SHIFT = 40;  // of five bits; a mask has far fewer than 2^40 cells

// Returns the cells at which a run starts, column by column. Cells before the first one count as
// background, and the rows of the mask are read one after the other.
std::vector<std::int64_t> run_starts(const std::uint8_t* mask, std::int64_t height,
                                     std::int64_t width) {
  const std::uint8_t* last = mask + (height - 1) * width;
  std::vector<std::int32_t> counts(width);
  for (std::int64_t x = 0; x < width; ++x) {
    counts[x] = mask[x] != (x ? last[x - 1] : 0);
  }
  for (std::int64_t y = 1; y < height; ++y) {
    const std::uint8_t *row = mask + y * width, *above = row - width;
    for (std::int64_t x = 0; x < width; ++x) {
      counts[x] += row[x] ^ above[x];
    }
  }
  std::vector<std::int64_t> next(width);
  std::int64_t total = 0;
  for (std::int64_t x = 0; x < width; ++x) {
    next[x] = total;
    total += counts[x];
  }
  std::vector<std::int64_t> starts(total);
  for (std::int64_t x = 0; x < width; ++x) {
    if (mask[x] != (x ? last[x - 1] : 0)) {
      starts[next[x]++] = x * height;
    }
  }
  for (std::int64_t y = 1; y < height; ++y) {
    const std::uint8_t *row = mask + y * width, *above = row - width;
    std::int64_t x = 0;
    for (; x + 8 <= width; x += 8) {
      std::uint64_t one, other;
      std::memcpy(&one, row + x, 8);
      std::memcpy(&other, above + x, 8);
      for (std::uint64_t differ = one ^ other; differ; differ &= differ - 1) {
        const std::int64_t at = x + __builtin_ctzll(differ) / 8;
        starts[next[at]++] = at * height + y;
      }
    }
    for (; x < width; ++x) {
      if (row[x] != above[x]) {
        starts[next[x]++] = x * height + y;
      }
    }
  }
  return starts;
}

// Returns the run lengths in COCO's compressed form: five bits in a byte, lowest first, and from the
// fourth run on the difference to the run two before.
std::string compress(const std::vector<std::int64_t>& starts, std::int64_t cells) {
  std::string text;
  text.reserve(3 * (starts.size() + 1));
  std::int64_t end = 0, runs[2] = {0, 0};
  for (std::size_t run = 0; run <= starts.size(); ++run) {
    const std::int64_t start = end;
    end = run < starts.size() ? starts[run] : cells;
    std::int64_t left = end - start - (run > 2 ? runs[run % 2] : 0);
    runs[run % 2] = end - start;
    for (bool more = true; more;) {
      const std::int64_t group = left & 31;
      left >>= 5;
      more = left != (group & 16 ? -1 : 0);
      text += static_cast<char>((group | (more ? 32 : 0)) + 48);
    }
  }
  return text;
}

// Decodes a text to cells, which are zeros before. Returns whether its runs fill the cells exactly;
// nothing is written outside of them.
bool decode(const char* text, std::int64_t length, std::int64_t height, std::int64_t width,
            std::uint8_t* cells) {
  std::int64_t start = 0, runs[2] = {0, 0};
  const char* const end = text + length;
  for (std::int64_t number = 0; text < end; ++number) {
    std::int64_t run = 0, group = 32;
    for (int shift = 0; group & 32; shift += 5, ++text) {
      if (text == end || shift > MAX_SHIFT || *text < 48 || *text > 48 + 63) {
        return false;
      }
      group = *text - 48;
      run |= (group & 31) << shift;
      if (!(group & 32) && group & 16) {
        run -= std::int64_t{32} << shift;
      }
    }
    run += number > 2 ? runs[number % 2] : 0;
    runs[number % 2] = run;
    if (run < 0 || run > height * width - start) {
      return false;
    }
    for (std::int64_t left = number % 2 ? run : 0, at = start; left;) {
      const std::int64_t row = at % height, count = std::min(left, height - row);
      std::uint8_t* cell = cells + row * width + at / height;
      for (std::int64_t below = 0; below < count; ++below) {
        cell[below * width] = 1;
      }
      at += count;
      left -= count;
    }
    start += run;
  }
  return start == height * width;
}

}  // namespace

extern "C" {

// Decodes texts that follow each other to `cells`, masks x height x width zeros. Returns the number
// of the first text that is not valid, or `masks`.
std::int64_t decode_masks(std::int64_t masks, std::int64_t height, std::int64_t width,
                          const char* text, const std::int64_t* lengths, std::uint8_t* cells) {
  for (std::int64_t mask = 0; mask < masks; ++mask) {
    if (!decode(text, lengths[mask], height, width, cells + mask * height * width)) {
      return mask;
    }
    text += lengths[mask];
  }
  return masks;
}

// Encodes `masks` masks of height x width cells of 0 and 1, one after the other, and returns their
// texts without a separator. `lengths` gets the length of each text. Free the result by `free_text`.
char* encode_masks(std::int64_t masks, std::int64_t height, std::int64_t width,
                   std::int64_t threads, const std::uint8_t* cells, std::int64_t* lengths) {
  std::vector<std::string> texts(masks);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t mask = 0; mask < masks; ++mask) {
    const std::uint8_t* first = cells + mask * height * width;
    texts[mask] = compress(run_starts(first, height, width), height * width);
  }
  std::size_t total = 0;
  for (std::int64_t mask = 0; mask < masks; ++mask) {
    lengths[mask] = static_cast<std::int64_t>(texts[mask].size());
    total += texts[mask].size();
  }
  char* result = static_cast<char*>(std::malloc(total + 1));
  char* next = result;
  for (const std::string& text : texts) {
    std::memcpy(next, text.data(), text.size());
    next += text.size();
  }
  return result;
}

void free_text(char* text) { std::free(text); }
}

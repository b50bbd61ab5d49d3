// COCO run-length encoding of masks on the CPU, for `mask_encoding.py`.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

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

}  // namespace

extern "C" {

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

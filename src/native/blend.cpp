// The blend of all warped images by their fusion weights.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

MIDFRAME_INLINE bool active_nearby(Mask active, i64 k, i64 row, i64 tile) {
    for (i64 y = larger(row - 1, i64(0)); y < smaller(row + 2, active.height); ++y)
        for (i64 x = larger(tile - 1, i64(0)); x < smaller(tile + 2, active.width); ++x)
            if (active.at(k, y, x)) return true;
    return false;
}

MIDFRAME_INLINE void add(const float* row, i64 count, float* __restrict total) {
    for (i64 x = 0; x < count; ++x) total[x] += row[x];
}

MIDFRAME_INLINE void add_product(const float* weight, const float* source, i64 count, float* __restrict total) {
    for (i64 x = 0; x < count; ++x) total[x] += weight[x] * source[x];
}

}  // namespace

// Rows first to last of the blend of planes (2K, C, H, W) by weights (2K, h, w) that sum to 1. Where the weight of a
// hypothesis reaches into tiles in which it is not evaluated, the primary takes it. Zero motion has the frames
// themselves.
void blend(i64 first, i64 last, const float* warped, Images still_a, Images still_b, i64 zero, Mask evaluated,
           Images weights, i64 down, i64 across, Targets out) {
    const i64 channels = out.channels, height = out.height, width = out.width;
    const i64 half = evaluated.channels, tiles = evaluated.width, high = down * kTile, side = across * kTile;
    Scratch<float> wide(kTile * tiles + 2), row(width), left_over(width);
    Scratch<bool> reached(half * tiles);
    for (i64 y = first; y < last; ++y) {
        if (y == first || y % high == 0)
            for (i64 k = 0; k < half; ++k)
                for (i64 tile = 0; tile < tiles; ++tile)
                    reached[k * tiles + tile] = k == 0 || active_nearby(evaluated, k, y / high, tile);
        for (i64 c = 0; c < channels; ++c) clear(out.row(c, y), width);
        for (i64 n = 0; n < 2 * half; ++n) {
            const i64 k = half * (1 - n / half) + half - 1 - n % half;  // the primary last: it takes what is left over
            const i64 own = k % half;
            const bool* active = evaluated.row(own, y / high);
            if (own == half - 1) clear(left_over, width);
            const bool* where = reached + own * tiles;
            for (Run run = next_run(where, tiles, 0); run.begin < run.end; run = next_run(where, tiles, run.end / kTile)) {
                enlarge_row(weights.plane(k), y, down, across, run.begin, run.end, wide, row);
                if (own == 0) add(left_over, width, row);  // everywhere
                i64 tile = run.begin / kTile;
                while (tile < run.end / kTile) {
                    const i64 start = tile;
                    const bool used = own == 0 || active[tile];
                    while (tile < run.end / kTile && (own == 0 || active[tile] == used)) ++tile;
                    const i64 x = side * start, count = side * (tile - start), at = x - across * run.begin;
                    if (!used) {
                        add(row + at, count, left_over + x);
                        continue;
                    }
                    for (i64 c = 0; c < channels; ++c) {
                        const float* source = warped + ((k * channels + c) * height + y) * width;
                        if (own == zero) source = (k < half ? still_a : still_b).row(c, y);
                        add_product(row + at, source + x, count, out.row(c, y) + x);
                    }
                }
            }
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

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

// Blocks x - 1 to x + 6 of a row, the edge repeated.
MIDFRAME_INLINE F<8> blocks_around(const float* row, i64 x, i64 width) {
    if (x > 0 && x + 7 <= width) return load<8>(row + x - 1);
    float out[8];
    for (i64 k = 0; k < 8; ++k) out[k] = row[smaller(larger(x - 1 + k, i64(0)), width - 1)];
    return load<8>(out);
}

enum Use : unsigned char { kNone, kSpread, kUsed };  // of a hypothesis in a tile: spread: its weight goes to the primary

struct Row {  // of the blend: where row y lies between rows of blocks
    i64 above, below;
    float part;
};

// Weights of a tile's row of pixels, eight at a time.
template <int Groups>
MIDFRAME_INLINE void tile_weights(Image weights, const Row& row, i64 x, F<8>* out) {
    const F<8> upper = blocks_around(weights.row(row.above), x, weights.width),
               lower = blocks_around(weights.row(row.below), x, weights.width);
    const F<8> blocks = upper + row.part * (lower - upper);
    if constexpr (Groups == 1) {
        out[0] = enlarged_twice(blocks);
    } else {
        out[0] = enlarged(blocks, false);
        out[1] = enlarged(blocks, true);
    }
}

// A tile's row of pixels, eight to a group.
template <int Channels, int Groups>
MIDFRAME_INLINE void blend_tile(const float* warped, Images still_a, Images still_b, i64 zero, i64 count, const Use* uses,
                                i64 stride, Images weights, const Row& row, i64 tile, i64 y, Targets out) {
    const i64 area = out.height * out.width, x = 8 * Groups * tile, at = y * out.width + x;
    F<8> sums[Channels][Groups] = {};
    for (i64 side = 1; side >= 0; --side) {
        F<8> spread[Groups] = {};
        for (i64 k = count - 1; k >= 0; --k) {  // the primary last: it takes what is left over
            const Use use = uses[k * stride + tile];
            if (use == kNone) continue;
            F<8> weight[Groups];
            tile_weights<Groups>(weights.plane(side * count + k), row, kTile * tile, weight);
            for (int g = 0; g < Groups; ++g) {
                if (use == kSpread) spread[g] = spread[g] + weight[g];
                if (k == 0) weight[g] = weight[g] + spread[g];
            }
            if (use == kSpread) continue;
            const float* source = k == zero ? (side == 0 ? still_a : still_b).data
                                            : warped + (side * count + k) * Channels * area;
            for (int c = 0; c < Channels; ++c)
                for (int g = 0; g < Groups; ++g)
                    sums[c][g] = sums[c][g] + weight[g] * load<8>(source + c * area + at + 8 * g);
        }
    }
    for (int c = 0; c < Channels; ++c)
        for (int g = 0; g < Groups; ++g) store(out.data + c * area + at + 8 * g, sums[c][g]);
}

}  // namespace

// Rows first to last of the blend of planes (2K, C, H, W) by weights (2K, h, w) that sum to 1. Where the weight of a
// hypothesis reaches into tiles in which it is not evaluated, the primary takes it. Zero motion has the frames
// themselves.
void blend(i64 first, i64 last, const float* warped, Images still_a, Images still_b, i64 zero, Mask evaluated,
           Images weights, i64 down, i64 across, Targets out) {
    const i64 count = evaluated.channels, tiles = evaluated.width, high = down * kTile;
    Scratch<Use> uses(count * tiles);
    for (i64 y = first; y < last; ++y) {
        if (y == first || y % high == 0) {
            for (i64 k = 0; k < count; ++k) {
                for (i64 tile = 0; tile < tiles; ++tile) {
                    const bool used = k == 0 || evaluated.at(k, y / high, tile);
                    uses[k * tiles + tile] = used ? kUsed : active_nearby(evaluated, k, y / high, tile) ? kSpread : kNone;
                }
            }
        }
        const float place = block_height(y, down);
        const i64 above = static_cast<i64>(place);
        const Row row = {above, smaller(above + 1, weights.height - 1), place - static_cast<float>(above)};
        for (i64 tile = 0; tile < tiles; ++tile) {
            if (out.channels == 1)
                blend_tile<1, 2>(warped, still_a, still_b, zero, count, uses, tiles, weights, row, tile, y, out);
            else if (across == 2)
                blend_tile<2, 1>(warped, still_a, still_b, zero, count, uses, tiles, weights, row, tile, y, out);
            else
                blend_tile<2, 2>(warped, still_a, still_b, zero, count, uses, tiles, weights, row, tile, y, out);
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

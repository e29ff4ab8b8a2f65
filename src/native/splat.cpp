// Motion hypotheses at an instant: flows splatted by importance (Niklaus & Liu 2020), combined, shifted.
#include <cmath>

#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

// Adds weighted sums of the flows from the instant to a and to b, and the sum of weights, to `out` (5, h, w).
void splat(const Splat& job, Targets out) {
    const i64 height = job.flow.height, width = job.flow.width, own = job.from_b ? 1 : 0;
    const bool bent = !job.acceleration.empty();
    const float t = job.t, curve = 0.5f * t * (1.0f - t);
    const float right = static_cast<float>(width + 1), bottom = static_cast<float>(height + 1);
    for (i64 y = 0; y < height; ++y) {
        const float *across = job.flow.row(0, y), *down = job.flow.row(1, y), *importance = job.importance.row(y);
        for (i64 x = 0; x < width; ++x) {
            float dx = t * across[x], dy = t * down[x];
            if (bent) {
                dx = dx - curve * job.acceleration.at(0, y, x);
                dy = dy - curve * job.acceleration.at(1, y, x);
            }
            const float px = clamped(static_cast<float>(x) + dx, -2.0f, right);  // farther off, it lands nowhere
            const float py = clamped(static_cast<float>(y) + dy, -2.0f, bottom);
            const float floor_x = std::floor(px), floor_y = std::floor(py);
            const i64 left = static_cast<i64>(floor_x), top = static_cast<i64>(floor_y);
            const float fx = px - floor_x, fy = py - floor_y;
            const float weight = std::exp(smaller(larger(importance[x], -6.0f), 6.0f));
            const float on_x = across[x] - dx, on_y = down[x] - dy;
            for (i64 below = 0; below < 2; ++below) {
                const i64 line = top + below;
                if (line < 0 || line >= height) continue;
                const float share_y = weight * (below ? fy : 1.0f - fy);
                for (i64 beside = 0; beside < 2; ++beside) {
                    const i64 column = left + beside;
                    if (column < 0 || column >= width) continue;
                    const float share = share_y * (beside ? fx : 1.0f - fx);
                    out.at(2 * own, line, column) -= share * dx;
                    out.at(2 * own + 1, line, column) -= share * dy;
                    out.at(2 - 2 * own, line, column) += share * on_x;
                    out.at(3 - 2 * own, line, column) += share * on_y;
                    out.at(4, line, column) += share;
                }
            }
        }
    }
}

// Splatted flows of both frames together and each alone; holes are filled by the linear combination.
void combine(i64 first, i64 last, const Combination& job) {
    const i64 width = job.ab.width;
    const float t = job.t, s = 1.0f - t, floor = 0.05f;
    const bool bent = !job.acceleration_a.empty();
    Scratch<float> fill(width), inverse(width);
    for (i64 y = first; y < last; ++y) {
        const float *load_a = job.from_a.row(4, y), *load_b = job.from_b.row(4, y);
        for (i64 x = 0; x < width; ++x) inverse[x] = 1.0f / (s * load_a[x] + t * load_b[x] + floor);
        for (i64 c = 0; c < 4; ++c) {
            const float *forward = job.ab.row(c % 2, y), *backward = job.ba.row(c % 2, y);
            const float of_forward = c < 2 ? -t * s : s * s, of_backward = c < 2 ? t * t : -t * s;
            for (i64 x = 0; x < width; ++x) fill[x] = of_forward * forward[x] + of_backward * backward[x];
            if (bent) {
                const float *one = job.acceleration_a.row(c % 2, y), *two = job.acceleration_b.row(c % 2, y);
                const float half = 0.5f * t * s;
                for (i64 x = 0; x < width; ++x) fill[x] += half * (s * one[x] + t * two[x]);
            }
            const float *sum_a = job.from_a.row(c, y), *sum_b = job.from_b.row(c, y);
            float* __restrict target = job.splatted.row(c, y);
            for (i64 x = 0; x < width; ++x) target[x] = (s * sum_a[x] + t * sum_b[x] + floor * fill[x]) * inverse[x];
        }
        if (job.coverage.empty()) continue;
        for (i64 side = 0; side < 2; ++side) {
            const Images flow = side == 0 ? job.ab : job.ba, total = side == 0 ? job.from_a : job.from_b;
            const Images curved = side == 0 ? job.acceleration_a : job.acceleration_b;
            const Targets out = side == 0 ? job.one_sided_a : job.one_sided_b;
            const float way = side == 0 ? t : s;
            const float* load = total.row(4, y);
            for (i64 c = 0; c < (out.empty() ? 0 : 4); ++c) {
                const float *own = flow.row(c % 2, y), *sums = total.row(c, y);
                const float part = (c < 2) == (side == 0) ? 0.0f - way : 1.0f - way;  // back, or on
                if (bent) {
                    const float* bend = curved.row(c % 2, y);
                    const float curve = 0.5f * t * s;
                    for (i64 x = 0; x < width; ++x) fill[x] = part * own[x] + curve * bend[x];
                } else {
                    for (i64 x = 0; x < width; ++x) fill[x] = part * own[x];
                }
                float* __restrict target = out.row(c, y);
                for (i64 x = 0; x < width; ++x) target[x] = (sums[x] + floor * fill[x]) / (load[x] + floor);
            }
            float* __restrict covered = job.coverage.row(side, y);
            for (i64 x = 0; x < width; ++x) covered[x] = load[x] / (load[x] + 0.25f);
        }
        const float *one = job.coverage.row(0, y), *two = job.coverage.row(1, y);
        float* __restrict visible = job.coverage.row(2, y);
        for (i64 x = 0; x < width; ++x) visible[x] = 2.0f * (one[x] - two[x]);
    }
}

// Flows (4, h, w) of the place (dx, dy) away; the edge is repeated.
void shift(i64 first, i64 last, Images flows, i64 dx, i64 dy, Targets out) {
    const i64 height = flows.height, width = flows.width;
    for (i64 c = 0; c < 4; ++c) {
        for (i64 y = first; y < last; ++y) {
            const float* source = flows.row(c, smaller(larger(y + dy, i64(0)), height - 1));
            float* target = out.row(c, y);
            const i64 begin = smaller(larger(-dx, i64(0)), width), end = larger(smaller(width - dx, width), begin);
            for (i64 x = 0; x < begin; ++x) target[x] = source[0];
            copy(source + begin + dx, end - begin, target + begin);
            for (i64 x = end; x < width; ++x) target[x] = source[width - 1];
        }
    }
}

// Tiles in which a hypothesis differs somewhere from the primary by more than a threshold; elsewhere it becomes that.
void find_active(i64 first, i64 last, const Hypotheses& found, float threshold) {
    const Targets primary = found.of(0);
    const i64 tiles = found.width / kTile;
    for (i64 row = first; row < last; ++row) {
        for (i64 tile = 0; tile < tiles; ++tile) {
            found.active.at(0, row, tile) = true;
            for (i64 k = 1; k < found.count; ++k) {
                const Targets own = found.of(k);
                float most = 0.0f;
                for (i64 c = 0; c < 4; ++c) {
                    for (i64 y = kTile * row; y < kTile * (row + 1); ++y) {
                        const float *one = own.row(c, y) + kTile * tile, *two = primary.row(c, y) + kTile * tile;
                        for (i64 x = 0; x < kTile; ++x) most = larger(most, magnitude(one[x] - two[x]));
                    }
                }
                const bool active = most > threshold || k == found.zero;
                found.active.at(k, row, tile) = active;
                if (active) continue;
                for (i64 c = 0; c < 4; ++c)
                    for (i64 y = kTile * row; y < kTile * (row + 1); ++y)
                        copy(primary.row(c, y) + kTile * tile, kTile, own.row(c, y) + kTile * tile);
            }
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

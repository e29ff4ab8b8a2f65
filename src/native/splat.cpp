// Motion hypotheses at an instant: flows splatted by importance (Niklaus & Liu 2020), combined, shifted.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

// Weighted sums of the flows from the instant to a and to b, and the sum of weights: `out` (5, h, w). They are summed side
// by side, a vector to a place.
void splat(const Splat& job, Targets out) {
    constexpr i64 kSums = 8;
    const i64 height = job.flow.height, width = job.flow.width, own = job.from_b ? 1 : 0;
    const bool bent = !job.acceleration.empty();
    const float t = job.t, curve = 0.5f * t * (1.0f - t);
    const float right = static_cast<float>(width + 1), bottom = static_cast<float>(height + 1);
    const float whole = 403.4287934927351f;  // e^6: `exponential` is of what is not above 0
    Scratch<float> sums(kSums * (height + 4) * (width + 4)), weights(width);  // with room for what lands beside the frame
    clear(sums, kSums * (height + 4) * (width + 4));
    for (i64 y = 0; y < height; ++y) {
        const float *across = job.flow.row(0, y), *down = job.flow.row(1, y), *importance = job.importance.row(y);
        for (i64 x = 0; x < width; ++x)
            weights[x] = whole * exponential(smaller(larger(importance[x], -6.0f), 6.0f) - 6.0f);
        for (i64 x = 0; x < width; ++x) {
            float dx = t * across[x], dy = t * down[x];
            if (bent) {
                dx = dx - curve * job.acceleration.at(0, y, x);
                dy = dy - curve * job.acceleration.at(1, y, x);
            }
            const float px = clamped(static_cast<float>(x) + dx, -2.0f, right) + 2.0f;  // farther off, it lands nowhere
            const float py = clamped(static_cast<float>(y) + dy, -2.0f, bottom) + 2.0f;
            const i64 left = smaller(static_cast<i64>(px), width + 2), top = smaller(static_cast<i64>(py), height + 2);
            const float fx = px - static_cast<float>(left), fy = py - static_cast<float>(top);
            const float on_x = across[x] - dx, on_y = down[x] - dy;
            const F<8> value = own == 0 ? F<8>{-dx, -dy, on_x, on_y, 1.0f, 0.0f, 0.0f, 0.0f}
                                        : F<8>{on_x, on_y, -dx, -dy, 1.0f, 0.0f, 0.0f, 0.0f};
            const float upper = weights[x] * (1.0f - fy), lower = weights[x] * fy;
            float* target = sums + kSums * (top * (width + 4) + left);
            float* below = target + kSums * (width + 4);
            store(target, load<8>(target) + (upper * (1.0f - fx)) * value);
            store(target + kSums, load<8>(target + kSums) + (upper * fx) * value);
            store(below, load<8>(below) + (lower * (1.0f - fx)) * value);
            store(below + kSums, load<8>(below + kSums) + (lower * fx) * value);
        }
    }
    for (i64 y = 0; y < height; ++y) {
        const float* source = sums + kSums * ((y + 2) * (width + 4) + 2);
        float *r0 = out.row(0, y), *r1 = out.row(1, y), *r2 = out.row(2, y), *r3 = out.row(3, y), *r4 = out.row(4, y);
        for (i64 x = 0; x < width; ++x) {
            r0[x] = source[kSums * x];
            r1[x] = source[kSums * x + 1];
            r2[x] = source[kSums * x + 2];
            r3[x] = source[kSums * x + 3];
            r4[x] = source[kSums * x + 4];
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

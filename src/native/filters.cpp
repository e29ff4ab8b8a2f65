// Flows of a gap: forward-backward inconsistency, acceleration, confidence-weighted joint bilateral filter.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

// By how many pixels one misses the start, going along a flow and back.
void consistency(i64 first, i64 last, Images flow, Images backward, Target out) {
    const i64 width = flow.width;
    Scratch<float> one(width), two(width);
    for (i64 y = first; y < last; ++y) {
        const float *across = flow.row(0, y), *down = flow.row(1, y);
        fetch_row(backward.plane(0), y, 0, across, down, width, one);
        fetch_row(backward.plane(1), y, 0, across, down, width, two);
        float* __restrict target = out.row(y);
        for (i64 x = 0; x < width; ++x) {
            const float dx = across[x] + one[x], dy = down[x] + two[x];
            target[x] = 4.0f * root(dx * dx + dy * dy);
        }
    }
}

// The acceleration (2, h, w) that the far end of a flow confirms, never more than half the velocity.
void acceleration(i64 first, i64 last, Images own, Images other, Images flow, Targets out) {
    const i64 width = flow.width;
    Scratch<float> one(width), two(width);
    for (i64 y = first; y < last; ++y) {
        const float *across = flow.row(0, y), *down = flow.row(1, y), *own_x = own.row(0, y), *own_y = own.row(1, y);
        fetch_row(other.plane(0), y, 0, across, down, width, one);
        fetch_row(other.plane(1), y, 0, across, down, width, two);
        float* __restrict to_x = out.row(0, y);
        float* __restrict to_y = out.row(1, y);
        for (i64 x = 0; x < width; ++x) {
            const float mean_x = 0.5f * (own_x[x] + one[x]), mean_y = 0.5f * (own_y[x] + two[x]);
            const float dx = own_x[x] - one[x], dy = own_y[x] - two[x];
            const float size = root(mean_x * mean_x + mean_y * mean_y) + 1e-6f;
            const float speed = root(across[x] * across[x] + down[x] * down[x]);
            const float agree = larger(1.0f - root(dx * dx + dy * dy) / size, 0.0f);
            const float gain = agree * smaller(0.5f * speed / size, 1.0f);
            to_x[x] = mean_x * gain;
            to_y[x] = mean_y * gain;
        }
    }
}

// Unreliable vectors take the mean of their neighbours of like colour, weighted by confidence. `padded` is
// (6, h + 2 radius, w + 2 radius): flow, colour, confidence. Only where one of 16 neighbours is unreliable.
void filter_flow(i64 first, i64 last, Images padded, i64 radius, float colour, float reliable, Targets out) {
    const i64 width = out.width;
    Scratch<float> kept(width);
    for (i64 y = first; y < last; ++y) {
        const float* confidence = padded.row(5, y + radius) + radius;
        for (i64 x = 0; x < width; ++x) kept[x] = smaller(reliable * confidence[x], 1.0f);
        for (i64 c = 0; c < 2; ++c) copy(padded.row(c, y + radius) + radius, width, out.row(c, y));
        for (i64 begin = 0; begin < width; begin += 16) {
            const i64 count = smaller(i64(16), width - begin);
            float least = 1.0f;
            for (i64 x = 0; x < count; ++x) least = smaller(least, kept[begin + x]);
            if (least == 1.0f) continue;
            const float *red = padded.row(2, y + radius) + radius + begin,
                        *green = padded.row(3, y + radius) + radius + begin,
                        *blue = padded.row(4, y + radius) + radius + begin;
            float across[16] = {}, down[16] = {}, load[16] = {};
            for (i64 line = y; line < y + 2 * radius + 1; ++line) {
                for (i64 dx = 0; dx < 2 * radius + 1; ++dx) {
                    const i64 up = line - y - radius, beside = dx - radius;
                    const float far = static_cast<float>(beside * beside + up * up) / static_cast<float>(2 * radius * radius);
                    const i64 there = begin + dx;
                    const float *flow_x = padded.row(0, line) + there, *flow_y = padded.row(1, line) + there,
                                *reds = padded.row(2, line) + there, *greens = padded.row(3, line) + there,
                                *blues = padded.row(4, line) + there, *trust = padded.row(5, line) + there;
                    for (i64 x = 0; x < count; ++x) {
                        const float one = reds[x] - red[x], two = greens[x] - green[x], three = blues[x] - blue[x];
                        const float unlike = -colour * (one * one + two * two + three * three) - far;
                        const float weight = trust[x] * exponential(unlike);
                        across[x] += weight * flow_x[x];
                        down[x] += weight * flow_y[x];
                        load[x] += weight;
                    }
                }
            }
            for (i64 c = 0; c < 2; ++c) {
                const float* sums = c == 0 ? across : down;
                float* target = out.row(c, y) + begin;
                for (i64 x = 0; x < count; ++x) {
                    const float mean = sums[x] / load[x];
                    target[x] = mean + kept[begin + x] * (target[x] - mean);
                }
            }
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

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

namespace {

// One neighbour of N places of a flow: its weight by colour and distance, and what it adds.
template <int N>
MIDFRAME_INLINE void accumulate(const float* there, i64 area, const float* red, const float* green, const float* blue,
                                float colour, float far, F<N>& across, F<N>& down, F<N>& total) {
    const F<N> one = load<N>(there + 2 * area) - load<N>(red), two = load<N>(there + 3 * area) - load<N>(green),
               three = load<N>(there + 4 * area) - load<N>(blue);
    const F<N> unlike = -colour * (one * one + two * two + three * three) - far;
    const F<N> weight = load<N>(there + 5 * area) * exponential<N>(unlike);
    across = across + weight * load<N>(there);
    down = down + weight * load<N>(there + area);
    total = total + weight;
}

}  // namespace

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
            const i64 area = padded.height * padded.width;
            const auto distance = [&](i64 up, i64 beside) {
                return static_cast<float>(beside * beside + up * up) / static_cast<float>(2 * radius * radius);
            };
            if (count == 16) {
                for (i64 x = 0; x < 16; x += kLanes) {
                    F<kLanes> sum_across = {}, sum_down = {}, sum_load = {};
                    for (i64 up = -radius; up <= radius; ++up)
                        for (i64 beside = -radius; beside <= radius; ++beside)
                            accumulate<kLanes>(padded.row(0, y + radius + up) + begin + radius + beside + x, area, red + x, green + x,
                                               blue + x, colour, distance(up, beside), sum_across, sum_down, sum_load);
                    store(across + x, sum_across);
                    store(down + x, sum_down);
                    store(load + x, sum_load);
                }
            } else {
                for (i64 up = -radius; up <= radius; ++up) {
                    for (i64 beside = -radius; beside <= radius; ++beside) {
                        const float far = distance(up, beside);
                        const float* there = padded.row(0, y + radius + up) + begin + radius + beside;
                        for (i64 x = 0; x < count; ++x) {
                            const float one = there[2 * area + x] - red[x], two = there[3 * area + x] - green[x],
                                        three = there[4 * area + x] - blue[x];
                            const float unlike = -colour * (one * one + two * two + three * three) - far;
                            const float weight = there[5 * area + x] * exponential(unlike);
                            across[x] += weight * there[x];
                            down[x] += weight * there[area + x];
                            load[x] += weight;
                        }
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

// How surely places lie in front of their surroundings, before it is spread: what moves otherwise than the background and
// uncovers there what the other frame does not show. `own` is how surely they move otherwise.
void uncovering(i64 first, i64 last, Images flow, Images background, Image other_error, const ForegroundThresholds& limits,
                Target own, Target uncovered) {
    const i64 width = flow.width;
    Scratch<float> away(width);
    for (i64 y = first; y < last; ++y) {
        const float *x1 = flow.row(0, y), *y1 = flow.row(1, y), *x2 = background.row(0, y), *y2 = background.row(1, y);
        float* __restrict moves = own.row(y);
        float* __restrict target = uncovered.row(y);
        float most = 0.0f;
        for (i64 x = 0; x < width; ++x) {
            const float dx = x1[x] - x2[x], dy = y1[x] - y2[x];
            away[x] = 4.0f * root(dx * dx + dy * dy);
            moves[x] = smaller(larger(away[x] / limits.other_motion - 1.0f, 0.0f), 1.0f);
            most = larger(most, moves[x]);
        }
        if (most == 0.0f) {
            clear(target, width);
            continue;
        }
        fetch_row(other_error, y, 0, x2, y2, width, target);
        for (i64 x = 0; x < width; ++x) {
            const float value = target[x] / larger(limits.uncovered * away[x], 1e-3f) - 1.0f;
            target[x] = smaller(larger(value, 0.0f), 1.0f) * moves[x];
        }
    }
}

// Occlusion logits and log splatting importance (2, h, w) of a flow.
void importance(i64 first, i64 last, Images flow, Image error, Image own, Image uncovered, const ActiveArea& area,
                const ForegroundThresholds& limits, Targets out) {
    const i64 height = flow.height, width = flow.width;
    const float left = area.left * static_cast<float>(width), top = area.top * static_cast<float>(height);
    const float right = area.right * static_cast<float>(width) - 1.0f, bottom = area.bottom * static_cast<float>(height) - 1.0f;
    const bool foreground = own.data != nullptr;
    const float ninth = static_cast<float>(1.0 / 9.0);
    Scratch<float> front(width), means(3 * (width + 2)), sums(width + 2);
    // of what is uncovered the mean over 3x3 places, in row y, with nothing beyond the edges of the frame
    const auto mean_row = [&](i64 y, float* target) {
        if (y < 0 || y >= height) {
            clear(target, width + 2);
            return;
        }
        const float *above = uncovered.row(larger(y - 1, i64(0))), *here = uncovered.row(y),
                    *below = uncovered.row(smaller(y + 1, height - 1));
        for (i64 x = 0; x < width; ++x) sums[x + 1] = above[x] + here[x] + below[x];
        sums[0] = sums[1];
        sums[width + 1] = sums[width];
        for (i64 x = 0; x < width; ++x) target[x + 1] = ninth * (sums[x] + sums[x + 1] + sums[x + 2]);
        target[0] = target[width + 1] = 0.0f;
    };
    const auto kept = [&](i64 y) { return means + (y + 3) % 3 * (width + 2); };
    if (foreground) {
        mean_row(first - 1, kept(first - 1));
        mean_row(first, kept(first));
    }
    for (i64 y = first; y < last; ++y) {
        const float *across = flow.row(0, y), *down = flow.row(1, y), *miss = error.row(y);
        if (foreground) {
            mean_row(y + 1, kept(y + 1));
            const float *r0 = kept(y - 1), *r1 = kept(y), *r2 = kept(y + 1), *moves = own.row(y);
            for (i64 x = 0; x < width + 2; ++x) sums[x] = larger(larger(r0[x], r1[x]), r2[x]);
            for (i64 x = 0; x < width; ++x) front[x] = moves[x] * larger(larger(sums[x], sums[x + 1]), sums[x + 2]);
        } else {
            clear(front, width);
        }
        float* __restrict logit = out.row(0, y);
        float* __restrict weight = out.row(1, y);
        const float row = static_cast<float>(y);
        for (i64 x = 0; x < width; ++x) {
            const float to_x = static_cast<float>(static_cast<std::int32_t>(x)) + across[x], to_y = row + down[x];
            const float beyond_x = larger(left - to_x, to_x - right), beyond_y = larger(top - to_y, to_y - bottom);
            const float outside = 4.0f * larger(larger(beyond_x, beyond_y), 0.0f);
            logit[x] = smaller(larger(miss[x], limits.outside * outside), 8.0f) - 2.0f;
            const float length = root(across[x] * across[x] + down[x] * down[x]);
            const float stray = smaller(miss[x] / larger(4.0f * limits.relative * length, 1.0f), 8.0f);
            weight[x] = -limits.doubt * stray + (stray < limits.held ? limits.front * front[x] : 0.0f);
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

// Backward warp by a cubic B-spline, and means of blocks.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

template <int P>
struct Weights {  // of P pixels along one axis
    F<P> of[4];
    I<P> first;  // the first of four coefficients, which begin two places before the image
};

template <int P>
MIDFRAME_INLINE Weights<P> weights(F<P> place, i64 size) {
    const float most = static_cast<float>(size - 1);
    const F<P> zero = {}, limit = spread<P>(most);
    place = place > zero ? place : zero;  // also where it is NaN
    place = place < limit ? place : limit;
    const I<P> first = __builtin_convertvector(place, I<P>);
    const F<P> f = place - __builtin_convertvector(first, F<P>);
    const F<P> g = 1.0f - f;
    const float sixth = static_cast<float>(1.0 / 6.0);
    const auto outer = [&](F<P> x) { return x * x * x * sixth; };
    const auto inner = [&](F<P> x) { return (4.0f + x * x * (3.0f * x - 6.0f)) * sixth; };
    return {{outer(g), inner(f), inner(g), outer(f)}, first + 1};
}

template <int P>
MIDFRAME_INLINE F<P> counted() {
    F<P> out;
    for (int k = 0; k < P; ++k) out[k] = static_cast<float>(k);
    return out;
}

template <int P>
MIDFRAME_INLINE bool all_equal(I<P> value, std::int32_t first) {
    const I<P> different = value ^ (first - I<P>{});
    std::int64_t halves[P / 2], any = 0;
    __builtin_memcpy(halves, &different, sizeof halves);
    for (int k = 0; k < P / 2; ++k) any |= halves[k];
    return any == 0;
}

MIDFRAME_INLINE F<8> twice(F<4> x) { return __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3); }

// Eight neighbouring luma pixels whose coefficients lie side by side.
MIDFRAME_INLINE F<8> sample_beside(const float* source, i64 stride, const F<8>* wx, const F<8>* wy) {
    F<8> columns[4];
    for (int k = 0; k < 4; ++k) {
        const float* at = source + k;
        F<8> total = load<8>(at) * wy[0];
        for (int r = 1; r < 4; ++r) total = total + load<8>(at + r * stride) * wy[r];
        columns[k] = total * wx[k];
    }
    return (columns[0] + columns[2]) + (columns[1] + columns[3]);
}

// Four neighbouring chroma pixels, channels interleaved.
MIDFRAME_INLINE F<8> sample_beside_2(const float* source, i64 stride, const F<4>* wx, const F<4>* wy) {
    F<8> columns[4], down[4];
    for (int r = 0; r < 4; ++r) down[r] = twice(wy[r]);
    for (int k = 0; k < 4; ++k) {
        const float* at = source + 2 * k;
        F<8> total = load<8>(at) * down[0];
        for (int r = 1; r < 4; ++r) total = total + load<8>(at + r * stride) * down[r];
        columns[k] = total * twice(wx[k]);
    }
    return (columns[0] + columns[2]) + (columns[1] + columns[3]);
}

// The places in lanes instead, added in the same order. Weights are (4, P) with the pixel's own column given.
MIDFRAME_INLINE float sample_one(const float* source, i64 stride, const float* wx, const float* wy, int step) {
    F<4> total = load<4>(source) * wy[0];
    for (int r = 1; r < 4; ++r) total = total + load<4>(source + r * stride) * wy[r * step];
    total = total * F<4>{wx[0], wx[step], wx[2 * step], wx[3 * step]};
    return (total[0] + total[2]) + (total[1] + total[3]);
}

MIDFRAME_INLINE void sample_one_2(const float* source, i64 stride, const float* wx, const float* wy, int step, float* one,
                                  float* two) {
    F<8> total = load<8>(source) * wy[0];
    for (int r = 1; r < 4; ++r) total = total + load<8>(source + r * stride) * wy[r * step];
    total = total * twice(F<4>{wx[0], wx[step], wx[2 * step], wx[3 * step]});
    *one = (total[0] + total[4]) + (total[2] + total[6]);
    *two = (total[1] + total[5]) + (total[3] + total[7]);
}

MIDFRAME_INLINE void warp_luma(const WarpJob& job, const float* right, const float* below, i64 x, i64 y, float* out) {
    const i64 stride = job.out.width + 4;
    const F<8> to_x = (counted<8>() + static_cast<float>(x)) + 4.0f * enlarged_4(right);
    const F<8> to_y = static_cast<float>(y) + static_cast<float>(job.down) * enlarged_4(below);
    const Weights<8> wx = weights<8>(to_x, job.out.width), wy = weights<8>(to_y, job.out.height);
    const I<8> places = wy.first * static_cast<std::int32_t>(stride) + wx.first - I<8>{0, 1, 2, 3, 4, 5, 6, 7};
    if (all_equal<8>(places, places[0])) {
        store(out, sample_beside(job.spline + places[0], stride, wx.of, wy.of));
        return;
    }
    float across[32], down[32];
    std::int32_t at[8];
    __builtin_memcpy(across, wx.of, sizeof across);
    __builtin_memcpy(down, wy.of, sizeof down);
    __builtin_memcpy(at, &places, sizeof at);
    for (int k = 0; k < 8; ++k) out[k] = sample_one(job.spline + at[k] + k, stride, across + k, down + k, 8);
}

MIDFRAME_INLINE void warp_chroma(const WarpJob& job, F<4> right, F<4> below, i64 x, i64 y, float* one, float* two) {
    const i64 stride = 2 * (job.out.width + 4);
    const F<4> to_x = (counted<4>() + static_cast<float>(x)) + static_cast<float>(job.across) * right;
    const F<4> to_y = static_cast<float>(y) + static_cast<float>(job.down) * below;
    const Weights<4> wx = weights<4>(to_x, job.out.width), wy = weights<4>(to_y, job.out.height);
    const I<4> places = wy.first * static_cast<std::int32_t>(stride) + 2 * (wx.first - I<4>{0, 1, 2, 3});
    if (all_equal<4>(places, places[0])) {
        const F<8> both = sample_beside_2(job.spline + places[0], stride, wx.of, wy.of);
        store(one, __builtin_shufflevector(both, both, 0, 2, 4, 6));
        store(two, __builtin_shufflevector(both, both, 1, 3, 5, 7));
        return;
    }
    float across[16], down[16];
    __builtin_memcpy(across, wx.of, sizeof across);
    __builtin_memcpy(down, wy.of, sizeof down);
    for (int k = 0; k < 4; ++k)
        sample_one_2(job.spline + places[k] + 2 * k, stride, across + k, down + k, 4, one + k, two + k);
}

}  // namespace

void warp(const Span* spans, i64 count, const WarpJob& job) {
    const i64 width = job.out.width, columns = job.flow.width, channels = job.out.channels;
    const i64 down = job.down, across = job.across, together = channels == 1 ? 8 : 4;
    Scratch<float> right(columns + 4), below(columns + 4), total(width);
    clear(right, columns + 4);  // four flows are read at a time, more than there are at the end
    clear(below, columns + 4);
    const float inverse = 1.0f / static_cast<float>(down * across);
    for (i64 n = 0; n < count; ++n) {
        const Span span = spans[n];
        const i64 begin = across * span.left, length = across * (span.right - span.left), groups = length / together;
        for (i64 block = span.first; block < span.last; ++block) {
            for (i64 y = down * block; y < down * (block + 1); ++y) {
                const float place = block_height(y, down);
                between_rows(job.flow.plane(0), place, span.left, span.right, right);
                between_rows(job.flow.plane(1), place, span.left, span.right, below);
                float* one = job.out.row(0, y) + begin;
                if (channels == 1) {
                    for (i64 g = 0; g < groups; ++g)
                        warp_luma(job, right + 2 * g, below + 2 * g, begin + 8 * g, y, one + 8 * g);
                    continue;
                }
                float* two = job.out.row(1, y) + begin;
                if (across == 4) {
                    for (i64 g = 0; g < groups; ++g)
                        warp_chroma(job, enlarged_4_half(right + g), enlarged_4_half(below + g), begin + 4 * g, y,
                                    one + 4 * g, two + 4 * g);
                } else {
                    for (i64 g = 0; g < groups; ++g)
                        warp_chroma(job, enlarged_2(right + 2 * g), enlarged_2(below + 2 * g), begin + 4 * g, y,
                                    one + 4 * g, two + 4 * g);
                }
            }
            for (i64 c = 0; c < channels; ++c) {
                clear(total, length);
                for (i64 y = down * block; y < down * (block + 1); ++y) {
                    const float* source = job.out.row(c, y) + begin;
                    for (i64 x = 0; x < length; ++x) total[x] += source[x];
                }
                pooled(total, across, inverse, span.right - span.left, job.means.row(c, block) + span.left);
            }
        }
    }
}

void block_means(i64 first, i64 last, Images planes, i64 down, i64 across, Targets means) {
    const i64 width = planes.width;
    Scratch<float> total(width);
    const float inverse = 1.0f / static_cast<float>(down * across);
    for (i64 block = first; block < last; ++block) {
        for (i64 c = 0; c < planes.channels; ++c) {
            clear(total, width);
            for (i64 y = down * block; y < down * (block + 1); ++y) {
                const float* source = planes.row(c, y);
                for (i64 x = 0; x < width; ++x) total[x] += source[x];
            }
            pooled(total, across, inverse, means.width, means.row(c, block));
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

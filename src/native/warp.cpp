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
MIDFRAME_INLINE F<4> low(F<8> x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3); }
MIDFRAME_INLINE F<4> high(F<8> x) { return __builtin_shufflevector(x, x, 4, 5, 6, 7); }

// Neighbouring luma pixels whose coefficients lie side by side.
template <int P>
MIDFRAME_INLINE F<P> sample_beside(const float* source, i64 stride, const F<P>* wx, const F<P>* wy) {
    F<P> columns[4];
    for (int k = 0; k < 4; ++k) {
        const float* at = source + k;
        F<P> total = load<P>(at) * wy[0];
        for (int r = 1; r < 4; ++r) total = total + load<P>(at + r * stride) * wy[r];
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

// Rows of four vectors as columns: the weights of each pixel.
MIDFRAME_INLINE void transpose(const F<4>* rows, F<4>* out) {
    const F<4> t0 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5), t1 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
    const F<4> t2 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5), t3 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(t0, t2, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(t1, t3, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
}

MIDFRAME_INLINE F<8> joined(F<4> one, F<4> two) { return __builtin_shufflevector(one, two, 0, 1, 2, 3, 4, 5, 6, 7); }

// Eight luma pixels from anywhere: the places of two or four of them in lanes, added in the same order.
#if defined(__AVX512F__)
MIDFRAME_INLINE F<16> joined(F<8> one, F<8> two) {
    return __builtin_shufflevector(one, two, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

template <int K>
MIDFRAME_INLINE F<16> spread_four(F<8> x) {
    return __builtin_shufflevector(x, x, K, K, K, K, K + 1, K + 1, K + 1, K + 1, K + 2, K + 2, K + 2, K + 2, K + 3, K + 3, K + 3,
                                   K + 3);
}

template <int K>
MIDFRAME_INLINE F<16> four_pixels(const float* source, const std::int32_t* at, i64 stride, F<16> wx, const F<8>* wy) {
    F<16> total;
    for (int r = 0; r < 4; ++r) {
        const float* row = source + r * stride + K;
        const F<16> values = joined(joined(load<4>(row + at[K]), load<4>(row + at[K + 1] + 1)),
                                    joined(load<4>(row + at[K + 2] + 2), load<4>(row + at[K + 3] + 3)));
        const F<16> product = values * spread_four<K>(wy[r]);
        total = r == 0 ? product : total + product;
    }
    total = total * wx;
    total = total + __builtin_shufflevector(total, total, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return total + __builtin_shufflevector(total, total, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}

MIDFRAME_INLINE F<8> sample_apart(const float* source, const std::int32_t* at, i64 stride, const F<8>* wx, const F<8>* wy) {
    const F<16> one = joined(wx[0], wx[1]), two = joined(wx[2], wx[3]);
    const F<16> left = __builtin_shufflevector(one, two, 0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const F<16> right = __builtin_shufflevector(one, two, 4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31);
    const F<16> first = four_pixels<0>(source, at, stride, left, wy), last = four_pixels<4>(source, at, stride, right, wy);
    return __builtin_shufflevector(first, last, 0, 4, 8, 12, 16, 20, 24, 28);
}
#else
template <int K>
MIDFRAME_INLINE F<8> two_pixels(const float* source, const std::int32_t* at, i64 stride, F<8> wx, const F<8>* wy) {
    F<8> total;
    for (int r = 0; r < 4; ++r) {
        const float* row = source + r * stride + K;
        const F<8> weight = __builtin_shufflevector(wy[r], wy[r], K, K, K, K, K + 1, K + 1, K + 1, K + 1);
        const F<8> product = joined(load<4>(row + at[K]), load<4>(row + at[K + 1] + 1)) * weight;
        total = r == 0 ? product : total + product;
    }
    total = total * wx;
    total = total + __builtin_shufflevector(total, total, 2, 3, 0, 1, 6, 7, 4, 5);
    return total + __builtin_shufflevector(total, total, 1, 0, 3, 2, 5, 4, 7, 6);
}

MIDFRAME_INLINE F<8> sample_apart(const float* source, const std::int32_t* at, i64 stride, const F<8>* wx, const F<8>* wy) {
    F<4> half[4], own[8];
    for (int k = 0; k < 4; ++k) half[k] = __builtin_shufflevector(wx[k], wx[k], 0, 1, 2, 3);
    transpose(half, own);
    for (int k = 0; k < 4; ++k) half[k] = __builtin_shufflevector(wx[k], wx[k], 4, 5, 6, 7);
    transpose(half, own + 4);
    const F<8> a = two_pixels<0>(source, at, stride, joined(own[0], own[1]), wy),
               b = two_pixels<2>(source, at, stride, joined(own[2], own[3]), wy),
               c = two_pixels<4>(source, at, stride, joined(own[4], own[5]), wy),
               d = two_pixels<6>(source, at, stride, joined(own[6], own[7]), wy);
    const F<4> ab = __builtin_shufflevector(a, b, 0, 4, 8, 12), cd = __builtin_shufflevector(c, d, 0, 4, 8, 12);
    return joined(ab, cd);
}
#endif

// A chroma pixel, its places and channels in lanes: sums of columns 0 and 2, then of 1 and 3.
template <int K>
MIDFRAME_INLINE F<4> one_pixel_2(const float* source, i64 stride, F<4> wx, const F<4>* wy) {
    F<8> total;
    for (int r = 0; r < 4; ++r) {
        const F<8> weight = __builtin_shufflevector(wy[r], wy[r], K, K, K, K, K, K, K, K);
        const F<8> product = load<8>(source + r * stride) * weight;
        total = r == 0 ? product : total + product;
    }
    total = total * twice(wx);
    return __builtin_shufflevector(total, total, 0, 1, 2, 3) + __builtin_shufflevector(total, total, 4, 5, 6, 7);
}

MIDFRAME_INLINE void sample_apart_2(const float* source, I<4> at, i64 stride, const F<4>* wx, const F<4>* wy, F<4>& one,
                                    F<4>& two) {
    F<4> own[4];
    transpose(wx, own);
    const F<4> a = one_pixel_2<0>(source + at[0], stride, own[0], wy), b = one_pixel_2<1>(source + at[1] + 2, stride, own[1], wy),
               c = one_pixel_2<2>(source + at[2] + 4, stride, own[2], wy), d = one_pixel_2<3>(source + at[3] + 6, stride, own[3], wy);
    const F<4> ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    const F<4> cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
    one = __builtin_shufflevector(ab, cd, 0, 2, 4, 6);
    two = __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}

template <int P>
MIDFRAME_INLINE void add_stored(F<P> value, float* out, float* total) {
    store(out, value);
    store(total, load<P>(total) + value);
}

// P luma pixels from x on in row y, moved by (right, below) blocks; added to `total` too.
template <int P>
MIDFRAME_INLINE void warp_luma(const WarpJob& job, F<P> right, F<P> below, i64 x, i64 y, float* out, float* total) {
    const i64 stride = job.out.width + 4;
    const F<P> to_x = (counted<P>() + static_cast<float>(x)) + static_cast<float>(kBlock) * right;
    const F<P> to_y = static_cast<float>(y) + static_cast<float>(job.down) * below;
    const Weights<P> wx = weights<P>(to_x, job.out.width), wy = weights<P>(to_y, job.out.height);
    const I<P> places =
        wy.first * static_cast<std::int32_t>(stride) + wx.first - __builtin_convertvector(counted<P>(), I<P>);
    if (all_equal<P>(places, places[0])) {
        add_stored<P>(sample_beside<P>(job.spline + places[0], stride, wx.of, wy.of), out, total);
        return;
    }
    std::int32_t at[P];
    __builtin_memcpy(at, &places, sizeof at);
    if constexpr (P == 8) {
        add_stored<8>(sample_apart(job.spline, at, stride, wx.of, wy.of), out, total);
    } else {
        F<8> left[8], last[8];
        for (int k = 0; k < 4; ++k) {
            left[k] = __builtin_shufflevector(wx.of[k], wx.of[k], 0, 1, 2, 3, 4, 5, 6, 7);
            left[k + 4] = __builtin_shufflevector(wy.of[k], wy.of[k], 0, 1, 2, 3, 4, 5, 6, 7);
            last[k] = __builtin_shufflevector(wx.of[k], wx.of[k], 8, 9, 10, 11, 12, 13, 14, 15);
            last[k + 4] = __builtin_shufflevector(wy.of[k], wy.of[k], 8, 9, 10, 11, 12, 13, 14, 15);
        }
        add_stored<8>(sample_apart(job.spline, at, stride, left, left + 4), out, total);
        add_stored<8>(sample_apart(job.spline + 8, at + 8, stride, last, last + 4), out + 8, total + 8);
    }
}

// Eight pixels of two channels.
MIDFRAME_INLINE void warp_chroma(const WarpJob& job, F<8> right, F<8> below, i64 x, i64 y, float* const* out, float* const* total) {
    const i64 stride = 2 * (job.out.width + 4);
    const F<8> to_x = (counted<8>() + static_cast<float>(x)) + static_cast<float>(job.across) * right;
    const F<8> to_y = static_cast<float>(y) + static_cast<float>(job.down) * below;
    const Weights<8> wx = weights<8>(to_x, job.out.width), wy = weights<8>(to_y, job.out.height);
    const I<8> places = wy.first * static_cast<std::int32_t>(stride) + 2 * (wx.first - __builtin_convertvector(counted<8>(), I<8>));
    for (int half = 0; half < 2; ++half) {
        F<4> across[4], down[4];
        for (int k = 0; k < 4; ++k) {
            across[k] = half ? high(wx.of[k]) : low(wx.of[k]);
            down[k] = half ? high(wy.of[k]) : low(wy.of[k]);
        }
        const I<4> at = half ? __builtin_shufflevector(places, places, 4, 5, 6, 7) : __builtin_shufflevector(places, places, 0, 1, 2, 3);
        const float* source = job.spline + 8 * half;
        F<4> one, two;
        if (all_equal<4>(at, at[0])) {
            const F<8> both = sample_beside_2(source + at[0], stride, across, down);
            one = __builtin_shufflevector(both, both, 0, 2, 4, 6);
            two = __builtin_shufflevector(both, both, 1, 3, 5, 7);
        } else {
            sample_apart_2(source, at, stride, across, down, one, two);
        }
        add_stored<4>(one, out[0] + 4 * half, total[0] + 4 * half);
        add_stored<4>(two, out[1] + 4 * half, total[1] + 4 * half);
    }
}

}  // namespace

// A tile is 4 blocks wide and needs one more to either side: flows lie in rows with so many more, the edge repeated.
void warp(const Span* spans, i64 count, const WarpJob& job) {
    const i64 width = job.out.width, columns = job.flow.width, rows = job.flow.height, channels = job.out.channels;
    const i64 down = job.down, across = job.across, stride = columns + 8;
    i64 first = rows, last = 0;
    for (i64 n = 0; n < count; ++n) {
        first = smaller(first, spans[n].first);
        last = larger(last, spans[n].last);
    }
    if (first >= last) return;
    first = larger(first - 1, i64(0));
    last = smaller(last + 1, rows);
    Scratch<float> flow(2 * (last - first) * stride), totals(2 * width);
    const auto padded = [&](i64 c, i64 y) { return flow + (c * (last - first) + y - first) * stride; };
    for (i64 c = 0; c < 2; ++c) {
        for (i64 y = first; y < last; ++y) {
            const float* source = job.flow.row(c, y);
            float* target = padded(c, y);
            target[0] = source[0];
            copy(source, columns, target + 1);
            for (i64 x = columns + 1; x < stride; ++x) target[x] = source[columns - 1];
        }
    }
    const float inverse = 1.0f / static_cast<float>(down * across);
    for (i64 n = 0; n < count; ++n) {
        const Span span = spans[n];
        const i64 begin = across * span.left, length = across * (span.right - span.left);
        for (i64 block = span.first; block < span.last; ++block) {
            for (i64 c = 0; c < channels; ++c) clear(totals + c * width, length);
            for (i64 y = down * block; y < down * (block + 1); ++y) {
                const float place = block_height(y, down);
                const i64 above = static_cast<i64>(place), below = smaller(above + 1, rows - 1);
                const float part = place - static_cast<float>(above);
                const float *x_above = padded(0, above), *x_below = padded(0, below), *y_above = padded(1, above),
                            *y_below = padded(1, below);
                for (i64 x = span.left; x < span.right; x += kTile) {
                    const F<8> upper_x = load<8>(x_above + x), upper_y = load<8>(y_above + x);
                    const F<8> to_x = upper_x + part * (load<8>(x_below + x) - upper_x);
                    const F<8> to_y = upper_y + part * (load<8>(y_below + x) - upper_y);
                    const i64 at = across * x;
                    float* out[2] = {job.out.row(0, y) + at, job.out.row(channels - 1, y) + at};
                    float* total[2] = {totals + (at - begin), totals + (channels - 1) * width + (at - begin)};
                    if (channels == 2) {
                        if (across == 2) {
                            warp_chroma(job, enlarged_twice(to_x), enlarged_twice(to_y), at, y, out, total);
                        } else {
                            warp_chroma(job, enlarged(to_x, false), enlarged(to_y, false), at, y, out, total);
                            float *rest[2] = {out[0] + 8, out[1] + 8}, *rest_total[2] = {total[0] + 8, total[1] + 8};
                            warp_chroma(job, enlarged(to_x, true), enlarged(to_y, true), at + 8, y, rest, rest_total);
                        }
                        continue;
                    }
#if defined(__AVX512F__)
                    warp_luma<16>(job, joined(enlarged(to_x, false), enlarged(to_x, true)),
                                  joined(enlarged(to_y, false), enlarged(to_y, true)), at, y, out[0], total[0]);
#else
                    warp_luma<8>(job, enlarged(to_x, false), enlarged(to_y, false), at, y, out[0], total[0]);
                    warp_luma<8>(job, enlarged(to_x, true), enlarged(to_y, true), at + 8, y, out[0] + 8, total[0] + 8);
#endif
                }
            }
            for (i64 c = 0; c < channels; ++c)
                pooled(totals + c * width, across, inverse, span.right - span.left, job.means.row(c, block) + span.left);
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

// Vectors of a fixed number of lanes (GCC and Clang vector extensions), and the elementary functions of the kernels.
#pragma once

#include <new>

#include "kernels.hpp"

#if defined(__FMA__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace midframe::MIDFRAME_VARIANT {

template <int N>
struct VectorOf {
    typedef float f __attribute__((vector_size(4 * N)));
    typedef std::int32_t i __attribute__((vector_size(4 * N)));
};
template <int N>
using F = typename VectorOf<N>::f;
template <int N>
using I = typename VectorOf<N>::i;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

template <int N>
MIDFRAME_INLINE F<N> load(const float* at) {
    F<N> value;
    __builtin_memcpy(&value, at, sizeof value);
    return value;
}

template <class V>
MIDFRAME_INLINE void store(float* at, V value) {
    __builtin_memcpy(at, &value, sizeof value);
}

template <int N>
MIDFRAME_INLINE F<N> spread(float value) {
    return value - F<N>{};
}

// Fused in every variant: by an instruction where there is one, otherwise by the library.
MIDFRAME_INLINE F<kLanes> fma(F<kLanes> a, F<kLanes> b, F<kLanes> c) {
#if defined(__AVX512F__)
    return (F<kLanes>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (F<kLanes>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (F<kLanes>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    F<kLanes> out;
    for (int k = 0; k < kLanes; ++k) out[k] = __builtin_fmaf(a[k], b[k], c[k]);
    return out;
#endif
}

// As Python's: the first argument where they compare unordered.
MIDFRAME_INLINE float smaller(float a, float b) { return b < a ? b : a; }
MIDFRAME_INLINE float larger(float a, float b) { return b > a ? b : a; }
MIDFRAME_INLINE i64 smaller(i64 a, i64 b) { return b < a ? b : a; }
MIDFRAME_INLINE i64 larger(i64 a, i64 b) { return b > a ? b : a; }
MIDFRAME_INLINE float magnitude(float x) { return __builtin_fabsf(x); }
MIDFRAME_INLINE F<8> magnitude(F<8> x) { return (F<8>)((I<8>)x & 0x7FFFFFFF); }
MIDFRAME_INLINE float root(float x) { return __builtin_sqrtf(x); }

// `low` for NaN, for the result may say where memory is read.
MIDFRAME_INLINE float clamped(float x, float low, float high) { return smaller(x > low ? x : low, high); }

// e^x of x <= 0; relative error 1e-7 times 1 - x.
MIDFRAME_INLINE float exponential(float x) {
    const float y = larger(x * 1.4426950408889634f, -126.0f);
    const std::int32_t whole = static_cast<std::int32_t>(y - 0.5f);
    const float f = y - static_cast<float>(whole);  // -0.5..0.5
    float p = 1.535336188319500e-4f;
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    return p * __builtin_bit_cast(float, (whole + 127) << 23);
}

template <int N>
MIDFRAME_INLINE F<N> exponential(F<N> x) {
    const F<N> least = spread<N>(-126.0f);
    F<N> y = x * 1.4426950408889634f;
    y = least > y ? least : y;
    const I<N> whole = __builtin_convertvector(y - 0.5f, I<N>);
    const F<N> f = y - __builtin_convertvector(whole, F<N>);
    F<N> p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    return p * (F<N>)((whole + 127) << 23);
}

// Of a positive, normal number; error 1e-6.
MIDFRAME_INLINE float logarithm(float x) {
    const std::int32_t bits = __builtin_bit_cast(std::int32_t, x);
    const std::int32_t exponent = (bits >> 23) - 127;
    float m = __builtin_bit_cast(float, (bits & 0x7FFFFF) | 0x3F800000);  // 1..2
    const bool high = m > 1.41421356f;
    m = m * (high ? 0.5f : 1.0f);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float q = s * s;
    const float series = 2.0f + q * (2.0f / 3.0f + q * (0.4f + q * (2.0f / 7.0f)));
    return static_cast<float>(exponent + (high ? 1 : 0)) * 0.6931471805599453f + s * series;
}

// Uninitialised memory of one kernel call.
template <class T>
class Scratch {
public:
    MIDFRAME_INLINE explicit Scratch(i64 size)
        : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(size > 0 ? size : 1) * sizeof(T), std::align_val_t(64)))) {}
    MIDFRAME_INLINE ~Scratch() { ::operator delete(data_, std::align_val_t(64)); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    MIDFRAME_INLINE operator T*() const { return data_; }

private:
    T* data_;
};

MIDFRAME_INLINE void clear(float* out, i64 count) {
    for (i64 x = 0; x < count; ++x) out[x] = 0.0f;
}

MIDFRAME_INLINE void copy(const float* source, i64 count, float* out) {
    if (count > 0) __builtin_memcpy(out, source, static_cast<std::size_t>(count) * sizeof(float));
}

// Rows of the product of a matrix for N * kLanes columns: sums that never leave registers, fused. `row_of(k)` is where the
// columns of entry k of x begin; entries before `first` count as zero.
template <int Rows, int N, class RowOf>
MIDFRAME_INLINE void product(const float* weight, const float* bias, i64 inputs, i64 first, RowOf row_of, float* out,
                             i64 out_stride) {
    F<kLanes> sums[Rows][N];
    for (int r = 0; r < Rows; ++r)
        for (int n = 0; n < N; ++n) sums[r][n] = spread<kLanes>(bias[r]);
    for (i64 k = first; k < inputs; ++k) {
        const float* x = row_of(k);
        F<kLanes> values[N];
        for (int n = 0; n < N; ++n) values[n] = load<kLanes>(x + n * kLanes);
        for (int r = 0; r < Rows; ++r) {
            const F<kLanes> w = spread<kLanes>(weight[r * inputs + k]);
            for (int n = 0; n < N; ++n) sums[r][n] = fma(values[n], w, sums[r][n]);
        }
    }
    for (int r = 0; r < Rows; ++r)
        for (int n = 0; n < N; ++n) store(out + r * out_stride + n * kLanes, sums[r][n]);
}

constexpr int kRows = kLanes == 16 ? 8 : 4;  // of a product: sums, columns and a weight fit the registers
constexpr i64 kColumns = 2 * kLanes;         // of a product; rows of scratch are padded to a multiple of it
constexpr i64 kPadding = 32;                 // of all variants

MIDFRAME_INLINE i64 padded(i64 count) { return (count + kPadding - 1) / kPadding * kPadding; }

template <class RowOf>
MIDFRAME_INLINE void product_columns(const Layer& layer, const float* bias, i64 first, RowOf row_of, float* out, i64 out_stride) {
    const i64 inputs = layer.inputs;
    i64 row = 0;
    for (; row + kRows <= layer.outputs; row += kRows)
        product<kRows, 2>(layer.weight + row * inputs, bias + row, inputs, first, row_of, out + row * out_stride, out_stride);
    for (; row + 2 <= layer.outputs; row += 2)
        product<2, 2>(layer.weight + row * inputs, bias + row, inputs, first, row_of, out + row * out_stride, out_stride);
    for (; row < layer.outputs; ++row)
        product<1, 2>(layer.weight + row * inputs, bias + row, inputs, first, row_of, out + row * out_stride, out_stride);
}

// Sums of 2 or 4 neighbours, times `scale`.
MIDFRAME_INLINE void pooled(const float* row, i64 across, float scale, i64 count, float* __restrict out) {
    if (across == 4) {
        for (i64 x = 0; x < count; ++x) out[x] = scale * (row[4 * x] + row[4 * x + 1] + row[4 * x + 2] + row[4 * x + 3]);
    } else {
        for (i64 x = 0; x < count; ++x) out[x] = scale * (row[2 * x] + row[2 * x + 1]);
    }
}

// Columns of blocks of the next run of tiles that are set, from `tile` on.
struct Run {
    i64 begin, end;
};
MIDFRAME_INLINE Run next_run(const bool* tiles, i64 count, i64 tile) {
    while (tile < count && !tiles[tile]) ++tile;
    const i64 begin = tile;
    while (tile < count && tiles[tile]) ++tile;
    return {kTile * begin, kTile * tile};
}

// Bilinear enlargement, as torch's `interpolate` without aligned corners.

// Where row y lies between rows of blocks that have `down` rows each.
MIDFRAME_INLINE float block_height(i64 y, i64 down) {
    return larger((static_cast<float>(y) + 0.5f) / static_cast<float>(down) - 0.5f, 0.0f);
}

// A grid at height `place`: columns from one before `left` to one after `right`; the edge is repeated.
MIDFRAME_INLINE void between_rows(Image grid, float place, i64 left, i64 right, float* __restrict out) {
    const i64 above = static_cast<i64>(place);
    const float part = place - static_cast<float>(above);
    const i64 first = larger(left - 1, i64(0)), last = smaller(right + 1, grid.width);
    const float* upper = grid.row(above) + first;
    const float* lower = grid.row(smaller(above + 1, grid.height - 1)) + first;
    float* target = out + (first - left + 1);
    const i64 count = last - first;
    for (i64 x = 0; x < count; ++x) target[x] = upper[x] + part * (lower[x] - upper[x]);
    if (left == 0) out[0] = out[1];
    if (right == grid.width) out[right - left + 1] = out[right - left];
}

// Pixels of blocks 4 or 2 wide; blocks[1] is the first pixel's own.
MIDFRAME_INLINE F<8> enlarged_4(const float* blocks) {
    const F<4> four = load<4>(blocks);
    const F<8> one = __builtin_shufflevector(four, four, 0, 0, 1, 1, 1, 1, 2, 2);
    const F<8> two = __builtin_shufflevector(four, four, 1, 1, 2, 2, 2, 2, 3, 3);
    const F<8> part = {0.625f, 0.875f, 0.125f, 0.375f, 0.625f, 0.875f, 0.125f, 0.375f};
    return one + part * (two - one);
}
MIDFRAME_INLINE F<4> enlarged_4_half(const float* blocks) {
    const F<4> four = load<4>(blocks);
    const F<4> one = __builtin_shufflevector(four, four, 0, 0, 1, 1);
    const F<4> two = __builtin_shufflevector(four, four, 1, 1, 2, 2);
    const F<4> part = {0.625f, 0.875f, 0.125f, 0.375f};
    return one + part * (two - one);
}
MIDFRAME_INLINE F<4> enlarged_2(const float* blocks) {
    const F<4> four = load<4>(blocks);
    const F<4> one = __builtin_shufflevector(four, four, 0, 1, 1, 2);
    const F<4> two = __builtin_shufflevector(four, four, 1, 2, 2, 3);
    const F<4> part = {0.75f, 0.25f, 0.75f, 0.25f};
    return one + part * (two - one);
}

// Pixels of the blocks 1 to 4 of eight, from which those beside are needed: of 16 columns all, or one half of them.
MIDFRAME_INLINE F<8> enlarged(F<8> blocks, bool last) {
    const F<8> part = {0.625f, 0.875f, 0.125f, 0.375f, 0.625f, 0.875f, 0.125f, 0.375f};
    const F<8> one = last ? __builtin_shufflevector(blocks, blocks, 2, 2, 3, 3, 3, 3, 4, 4)
                          : __builtin_shufflevector(blocks, blocks, 0, 0, 1, 1, 1, 1, 2, 2);
    const F<8> two = last ? __builtin_shufflevector(blocks, blocks, 3, 3, 4, 4, 4, 4, 5, 5)
                          : __builtin_shufflevector(blocks, blocks, 1, 1, 2, 2, 2, 2, 3, 3);
    return one + part * (two - one);
}

// Likewise of blocks two pixels wide.
MIDFRAME_INLINE F<8> enlarged_twice(F<8> blocks) {
    const F<8> part = {0.75f, 0.25f, 0.75f, 0.25f, 0.75f, 0.25f, 0.75f, 0.25f};
    const F<8> one = __builtin_shufflevector(blocks, blocks, 0, 1, 1, 2, 2, 3, 3, 4);
    const F<8> two = __builtin_shufflevector(blocks, blocks, 1, 2, 2, 3, 3, 4, 4, 5);
    return one + part * (two - one);
}

// Row y of a grid enlarged `down` times and `across` (2 or 4), columns left to right of blocks, an even number of them.
// `wide` has room for two columns more.
MIDFRAME_INLINE void enlarge_row(Image grid, i64 y, i64 down, i64 across, i64 left, i64 right, float* __restrict wide,
                                 float* __restrict out) {
    between_rows(grid, block_height(y, down), left, right, wide);
    const i64 count = right - left;
    if (across == 4) {
        for (i64 x = 0; x < count; x += 2) store(out + 4 * x, enlarged_4(wide + x));
    } else {
        for (i64 x = 0; x < count; x += 2) store(out + 2 * x, enlarged_2(wide + x));
    }
}

// Columns of row y of a plane from `left` on, moved by (across, down); linear, the edge is repeated.
MIDFRAME_INLINE void fetch_row(Image plane, i64 y, i64 left, const float* across, const float* down, i64 count,
                               float* __restrict out) {
    const float right = static_cast<float>(plane.width - 1), bottom = static_cast<float>(plane.height - 1);
    const std::int32_t width = static_cast<std::int32_t>(plane.width);
    const std::int32_t last_column = width - 2, last_line = static_cast<std::int32_t>(plane.height) - 2;
    const float* source = plane.data;
    for (i64 x = 0; x < count; ++x) {
        const float px = clamped(static_cast<float>(static_cast<std::int32_t>(left + x)) + across[x], 0.0f, right);
        const float py = clamped(static_cast<float>(y) + down[x], 0.0f, bottom);
        std::int32_t column = static_cast<std::int32_t>(px), line = static_cast<std::int32_t>(py);
        column = column < last_column ? column : last_column;
        line = line < last_line ? line : last_line;
        const float fx = px - static_cast<float>(column), fy = py - static_cast<float>(line);
        const std::int32_t at = line * width + column;
        const float upper = source[at] + fx * (source[at + 1] - source[at]);
        const float lower = source[at + width] + fx * (source[at + width + 1] - source[at + width]);
        out[x] = upper + fy * (lower - upper);
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

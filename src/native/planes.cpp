// Luma and chroma planes: from RGB and back, from code values and back.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

// R, G and B of luma (h, w) and chroma (2, h, w); `matrix` (3, 2) is of chroma.
void to_rgb(const Span* spans, i64 count, Image luma, Images chroma, const float* matrix, Targets rgb) {
    for (i64 n = 0; n < count; ++n) {
        const Span span = spans[n];
        const i64 length = span.right - span.left;
        for (i64 y = span.first; y < span.last; ++y) {
            const float *own = luma.row(y) + span.left, *one = chroma.row(0, y) + span.left,
                        *two = chroma.row(1, y) + span.left;
            for (i64 c = 0; c < 3; ++c) {
                const float of_one = matrix[2 * c], of_two = matrix[2 * c + 1];
                float* __restrict target = rgb.row(c, y) + span.left;
                for (i64 x = 0; x < length; ++x) target[x] = own[x] + of_one * one[x] + of_two * two[x];
            }
        }
    }
}

// Luma and BT.601's Cb and Cr of RGB.
void from_rgb(i64 first, i64 last, Images rgb, Target luma, Targets chroma) {
    for (i64 y = first; y < last; ++y) {
        const float *red = rgb.row(0, y), *green = rgb.row(1, y), *blue = rgb.row(2, y);
        float* __restrict own = luma.row(y);
        float* __restrict one = chroma.row(0, y);
        float* __restrict two = chroma.row(1, y);
        for (i64 x = 0; x < luma.width; ++x) {
            const float value = 0.299f * red[x] + 0.587f * green[x] + 0.114f * blue[x];
            own[x] = value;
            one[x] = static_cast<float>(1.0 / 1.772) * (blue[x] - value);
            two[x] = static_cast<float>(1.0 / 1.402) * (red[x] - value);
        }
    }
}

namespace {

template <class Code>
MIDFRAME_INLINE void read(i64 first, i64 last, Grid<const Code> codes, float zero, float gain, Target out) {
    for (i64 y = first; y < last; ++y) {
        const Code* source = codes.row(smaller(y, codes.height - 1));
        float* __restrict target = out.row(y);
        for (i64 x = 0; x < codes.width; ++x) target[x] = gain * (static_cast<float>(source[x]) - zero);
        for (i64 x = codes.width; x < out.width; ++x) target[x] = target[codes.width - 1];
    }
}

template <class Code>
MIDFRAME_INLINE void write(i64 first, i64 last, Image plane, float zero, float gain, float most, Grid<Code> codes) {
    const float shift = zero + 0.5f;
    for (i64 y = first; y < smaller(last, codes.height); ++y) {
        const float* source = plane.row(y);
        Code* __restrict target = codes.row(y);
        for (i64 x = 0; x < codes.width; ++x)
            target[x] = static_cast<Code>(static_cast<std::int32_t>(clamped(gain * source[x] + shift, 0.0f, most)));
    }
}

}  // namespace

// A plane of code values, enlarged by repeating its edge.
void read_u8(i64 first, i64 last, Grid<const std::uint8_t> codes, float zero, float gain, Target out) {
    read(first, last, codes, zero, gain, out);
}
void read_u16(i64 first, i64 last, Grid<const std::uint16_t> codes, float zero, float gain, Target out) {
    read(first, last, codes, zero, gain, out);
}

// A plane as the nearest code values below `most` + 0.5 rounded down, as many columns as those have.
void write_u8(i64 first, i64 last, Image plane, float zero, float gain, float most, Grid<std::uint8_t> codes) {
    write(first, last, plane, zero, gain, most, codes);
}
void write_u16(i64 first, i64 last, Image plane, float zero, float gain, float most, Grid<std::uint16_t> codes) {
    write(first, last, plane, zero, gain, most, codes);
}

}  // namespace midframe::MIDFRAME_VARIANT

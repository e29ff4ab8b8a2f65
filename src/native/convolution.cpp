// The fusion network's coarser layers: 3x3 convolutions as products of matrices whose rows are shifted rows of the input.
#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

MIDFRAME_INLINE void finish_row(float* row, i64 width) { row[-1] = row[width] = 0.0f; }

}  // namespace

// Rows first to last of every channel of planes.
void import_map(i64 first, i64 last, Images planes, const FeatureMap& out) {
    for (i64 c = 0; c < planes.channels; ++c) {
        for (i64 y = first; y < last; ++y) {
            copy(planes.row(c, y), planes.width, out.row(c, y));
            finish_row(out.row(c, y), out.width);
        }
    }
}

// Rows first to last of a 3x3 convolution with zeros around, a residual added if there is one, rectified.
void convolve(i64 first, i64 last, const FeatureMap& in, const Layer& layer, i64 stride, const FeatureMap* residual,
              const FeatureMap& out) {
    const i64 channels = in.channels, outputs = layer.outputs, columns = padded(out.width), half = columns + kPadding;
    Scratch<const float*> rows(9 * channels);
    Scratch<float> sums(outputs * kColumns), apart(stride == 2 ? 6 * channels * half : 1);
    for (i64 y = first; y < last; ++y) {
        for (i64 c = 0; c < channels; ++c) {
            for (i64 down = 0; down < 3; ++down) {
                const float* source = in.row(c, stride * y + down - 1);
                const float** taps = rows + 9 * c + 3 * down;
                if (stride == 1) {
                    for (i64 k = 0; k < 3; ++k) taps[k] = source + k - 1;
                    continue;
                }
                float* __restrict odd = apart + (6 * c + 2 * down) * half;  // columns -1, 1, 3 ...; then 0, 2, 4 ...
                float* __restrict even = odd + half;
                for (i64 x = 0; x <= out.width; ++x) odd[x] = source[2 * x - 1];
                for (i64 x = 0; x < out.width; ++x) even[x] = source[2 * x];
                taps[0] = odd;
                taps[1] = even;
                taps[2] = odd + 1;
            }
        }
        const float* const* taps = rows;
        for (i64 at = 0; at < out.width; at += kColumns) {
            product_columns(layer, layer.bias, 0, [=](i64 k) { return taps[k] + at; }, sums, kColumns);
            const i64 count = smaller(kColumns, out.width - at);
            for (i64 c = 0; c < outputs; ++c) {
                const float* source = sums + c * kColumns;
                float* __restrict target = out.row(c, y) + at;
                if (residual != nullptr) {
                    const float* more = residual->row(c, y) + at;
                    for (i64 x = 0; x < count; ++x) target[x] = larger(source[x] + more[x], 0.1f * (source[x] + more[x]));
                } else {
                    for (i64 x = 0; x < count; ++x) target[x] = larger(source[x], 0.1f * source[x]);
                }
            }
        }
        for (i64 c = 0; c < outputs; ++c) finish_row(out.row(c, y), out.width);
    }
}

// Rows first to last: every place of a coarser map added to four of a finer one.
void add_enlarged(i64 first, i64 last, const FeatureMap& coarse, const FeatureMap& out) {
    for (i64 c = 0; c < out.channels; ++c) {
        for (i64 y = first; y < last; ++y) {
            const float* source = coarse.row(c, y / 2);
            float* __restrict target = out.row(c, y);
            for (i64 x = 0; x < out.width / 2; ++x) {
                target[2 * x] += source[x];
                target[2 * x + 1] += source[x];
            }
        }
    }
}

// Rows first to last of a 1x1 convolution.
void pointwise(i64 first, i64 last, const FeatureMap& in, const Layer& layer, Targets out) {
    Scratch<float> sums(layer.outputs * kColumns);
    for (i64 y = first; y < last; ++y) {
        for (i64 at = 0; at < out.width; at += kColumns) {
            product_columns(layer, layer.bias, 0, [&](i64 k) { return in.row(k, y) + at; }, sums, kColumns);
            for (i64 c = 0; c < layer.outputs; ++c)
                copy(sums + c * kColumns, smaller(kColumns, out.width - at), out.row(c, y) + at);
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

// Dense inverse search (Kroeger et al. 2016), as OpenCV's DISOpticalFlow does it: patches of 8x8 pixels of one frame are
// searched in the other by inverse compositional descent, with mean normalisation and spatial propagation; a pixel's
// flow is the mean of the patches on it, weighted by their residual there.
#include <initializer_list>

#include "simd.hpp"

namespace midframe::MIDFRAME_VARIANT {

namespace {

constexpr i64 kSide = kPatch;
constexpr float kFar = 1e5f;  // pixels, beyond any frame

// Sum of the lanes, in an order of its own.
MIDFRAME_INLINE float lane_sum(F<8> x) {
    const F<4> four = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// Eight pixels beside each other, sampled between columns.
MIDFRAME_INLINE F<8> between_columns(const float* row, float part) {
    const F<8> one = load<8>(row);
    return one + part * (load<8>(row + 1) - one);
}

struct Place {  // of a displaced patch in the other frame
    const float* data;
    float right, down;  // parts of a pixel
};

// A patch that has left the frame stays beside it; NaN becomes the first place.
MIDFRAME_INLINE Place place_of(const Bordered& other, float x, float y) {
    const float low = static_cast<float>(1 - kSide);
    const float px = clamped(x, low, static_cast<float>(other.width - 1)) - low;
    const float py = clamped(y, low, static_cast<float>(other.height - 1)) - low;
    const i64 column = static_cast<i64>(px), line = static_cast<i64>(py);
    return {other.row(line + 1 - kSide) + (column + 1 - kSide), px - static_cast<float>(column), py - static_cast<float>(line)};
}

// Sum of squared differences of two patches less their means.
MIDFRAME_INLINE float patch_distance(const float* own, i64 stride, const Place& place) {
    F<8> sum = {}, square = {}, upper = between_columns(place.data, place.right);
    for (i64 r = 0; r < kSide; ++r) {
        const F<8> lower = between_columns(place.data + (r + 1) * stride, place.right);
        const F<8> difference = upper + place.down * (lower - upper) - load<8>(own + r * stride);
        sum = sum + difference;
        square = square + difference * difference;
        upper = lower;
    }
    const float total = lane_sum(sum);
    return lane_sum(square) - total * total * (1.0f / (kSide * kSide));
}

struct Descent {
    float distance, x, y;  // and the products of the difference and the gradient
};

MIDFRAME_INLINE Descent descend(const float* own, i64 stride, const Place& place, const float* right, const float* down,
                                i64 gradient_stride, float right_sum, float down_sum) {
    F<8> sum = {}, square = {}, along_x = {}, along_y = {}, upper = between_columns(place.data, place.right);
    for (i64 r = 0; r < kSide; ++r) {
        const F<8> lower = between_columns(place.data + (r + 1) * stride, place.right);
        const F<8> difference = upper + place.down * (lower - upper) - load<8>(own + r * stride);
        sum = sum + difference;
        square = square + difference * difference;
        along_x = along_x + difference * load<8>(right + r * gradient_stride);
        along_y = along_y + difference * load<8>(down + r * gradient_stride);
        upper = lower;
    }
    const float total = lane_sum(sum), mean = total * (1.0f / (kSide * kSide));
    return {lane_sum(square) - total * mean, lane_sum(along_x) - mean * right_sum, lane_sum(along_y) - mean * down_sum};
}

}  // namespace

// Rows first to last, those of the border included, of a frame in floats with its edge repeated around.
void import_frame(i64 first, i64 last, Grid<const std::uint8_t> frame, const Bordered& out) {
    for (i64 y = first - kBorder; y < last - kBorder; ++y) {
        const std::uint8_t* source = frame.row(smaller(larger(y, i64(0)), frame.height - 1));
        float* __restrict target = out.row(y);
        for (i64 x = 0; x < frame.width; ++x) target[x] = static_cast<float>(source[x]);
        for (i64 x = 1; x <= kBorder; ++x) {
            target[-x] = target[0];
            target[frame.width - 1 + x] = target[frame.width - 1];
        }
    }
}

// Rows first to last of the gradient (2, h, w) by Sobel's filter; edges are mirrored.
void gradient(i64 first, i64 last, const Bordered& frame, Targets out) {
    const i64 width = frame.width, height = frame.height;
    const auto mirrored = [](i64 k, i64 size) { return k < 0 ? smaller(-k, size - 1) : k >= size ? larger(2 * size - 2 - k, i64(0)) : k; };
    for (i64 y = first; y < last; ++y) {
        const float *above = frame.row(mirrored(y - 1, height)), *here = frame.row(y), *below = frame.row(mirrored(y + 1, height));
        float* __restrict right = out.row(0, y);
        float* __restrict down = out.row(1, y);
        for (i64 x = 0; x < width; ++x) {
            right[x] = 0.125f * ((above[x + 1] - above[x - 1]) + 2.0f * (here[x + 1] - here[x - 1]) + (below[x + 1] - below[x - 1]));
            down[x] = 0.125f * ((below[x - 1] - above[x - 1]) + 2.0f * (below[x] - above[x]) + (below[x + 1] - above[x + 1]));
        }
        for (const i64 x : {i64(0), width - 1}) {
            const i64 beside = mirrored(x == 0 ? -1 : width, width);
            right[x] = 0.0f;  // both neighbours are the same one
            down[x] = 0.125f * (2.0f * (below[beside] - above[beside]) + 2.0f * (below[x] - above[x]));
        }
    }
}

// Rows first to last of patches: they begin with the flow of a coarser level (h, w, 2), or without motion, and go over
// their neighbours' vectors twice, there and back. Vectors do not pass from one call to another.
void search_patches(i64 first, i64 last, const PatchSearch& job) {
    const i64 width = job.own.width, stride = job.own.stride(), columns = job.columns;
    const float side = static_cast<float>(kSide), middle = static_cast<float>(kSide / 2);
    const i64 steps = job.steps / 2;
    const float scale_x = static_cast<float>(job.coarse_width) / static_cast<float>(width);
    const float scale_y = static_cast<float>(job.coarse_height) / static_cast<float>(job.own.height);
    Scratch<float> tensors(5 * (last - first) * columns);
    for (i64 row = first; row < last; ++row) {
        for (i64 column = 0; column < columns; ++column) {
            F<8> xx = {}, yy = {}, xy = {}, x = {}, y = {};
            for (i64 r = 0; r < kSide; ++r) {
                const F<8> right = load<8>(job.gradient.row(0, row * job.stride + r) + column * job.stride);
                const F<8> down = load<8>(job.gradient.row(1, row * job.stride + r) + column * job.stride);
                xx = xx + right * right;
                yy = yy + down * down;
                xy = xy + right * down;
                x = x + right;
                y = y + down;
            }
            float* own = tensors + 5 * ((row - first) * columns + column);
            own[0] = lane_sum(xx);
            own[1] = lane_sum(yy);
            own[2] = lane_sum(xy);
            own[3] = lane_sum(x);
            own[4] = lane_sum(y);
            float* vector = job.vectors + 2 * (row * columns + column);
            vector[0] = vector[1] = 0.0f;
            if (job.coarse == nullptr) continue;
            const float at_x = larger((static_cast<float>(column * job.stride) + middle + 0.5f) * scale_x - 0.5f, 0.0f);
            const float at_y = larger((static_cast<float>(row * job.stride) + middle + 0.5f) * scale_y - 0.5f, 0.0f);
            const i64 left = smaller(static_cast<i64>(at_x), job.coarse_width - 1), beside = smaller(left + 1, job.coarse_width - 1);
            const i64 top = smaller(static_cast<i64>(at_y), job.coarse_height - 1), below = smaller(top + 1, job.coarse_height - 1);
            const float fx = at_x - static_cast<float>(left), fy = at_y - static_cast<float>(top);
            const float *upper = job.coarse + 2 * top * job.coarse_width, *lower = job.coarse + 2 * below * job.coarse_width;
            for (i64 c = 0; c < 2; ++c) {
                const float one = upper[2 * left + c] + fx * (upper[2 * beside + c] - upper[2 * left + c]);
                const float two = lower[2 * left + c] + fx * (lower[2 * beside + c] - lower[2 * left + c]);
                vector[c] = 2.0f * (one + fy * (two - one));
            }
        }
    }
    for (i64 pass = 0; pass < 2; ++pass) {
        const i64 way = pass == 0 ? 1 : -1;
        const i64 begin_row = pass == 0 ? first : last - 1, begin_column = pass == 0 ? 0 : columns - 1;
        for (i64 n = 0; n < last - first; ++n) {
            for (i64 m = 0; m < columns; ++m) {
                const i64 row = begin_row + way * n, column = begin_column + way * m;
                const i64 line = row * job.stride, at = column * job.stride;
                const float* patch = job.own.row(line) + at;
                const float x = static_cast<float>(at), y = static_cast<float>(line);
                const auto distance = [&](const float* vector) {
                    return patch_distance(patch, stride, place_of(job.other, x + vector[0], y + vector[1]));
                };
                float* vector = job.vectors + 2 * (row * columns + column);
                float least = distance(vector);
                const auto consider = [&](const float* candidate) {
                    const float found = distance(candidate);
                    if (found < least) {
                        least = found;
                        vector[0] = candidate[0];
                        vector[1] = candidate[1];
                    }
                };
                if (job.initial != nullptr) {
                    const float* given = job.initial + 2 * ((line + kSide / 2) * width + at + kSide / 2);
                    if (magnitude(given[0]) < kFar && magnitude(given[1]) < kFar) consider(given);  // and not NaN
                }
                if (m > 0) consider(vector - way * 2);
                if (n > 0) consider(vector - way * 2 * columns);
                const float* tensor = tensors + 5 * ((row - first) * columns + column);
                float determinant = tensor[0] * tensor[1] - tensor[2] * tensor[2];
                determinant = magnitude(determinant) < kMinDeterminant ? kMinDeterminant : determinant;
                const float inverse = job.relaxation / determinant;
                const float h11 = tensor[1] * inverse, h12 = -tensor[2] * inverse, h22 = tensor[0] * inverse;
                float to_x = vector[0], to_y = vector[1], before = 3.0e38f;
                const float *right = job.gradient.row(0, line) + at, *down = job.gradient.row(1, line) + at;
                for (i64 step = 0; step < steps; ++step) {
                    const Descent found = descend(patch, stride, place_of(job.other, x + to_x, y + to_y), right, down, width,
                                                  tensor[3], tensor[4]);
                    to_x -= h11 * found.x + h12 * found.y;
                    to_y -= h12 * found.x + h22 * found.y;
                    if (!(found.distance < before)) break;
                    before = found.distance;
                }
                const float dx = to_x - vector[0], dy = to_y - vector[1];
                if (dx * dx + dy * dy <= side * side) {  // farther off, the descent went astray
                    vector[0] = to_x;
                    vector[1] = to_y;
                }
            }
        }
    }
}

// Rows first to last of the flow (h, w, 2) of all pixels. Pixels beyond the last patches take theirs.
void densify(i64 first, i64 last, const PatchSearch& job, float* flow) {
    const i64 width = job.own.width, height = job.own.height, stride = job.own.stride(), pitch = width + 2 * kSide;
    Scratch<float> sums(3 * (last - first) * pitch);
    clear(sums, 3 * (last - first) * pitch);
    for (i64 row = 0; row < job.rows; ++row) {
        const i64 top = row * job.stride, end = row + 1 == job.rows ? height : top + kSide;
        const i64 begin = larger(top, first), stop = smaller(end, last);
        if (begin >= stop) continue;
        for (i64 column = 0; column < job.columns; ++column) {
            const i64 left = column * job.stride;
            const float* vector = job.vectors + 2 * (row * job.columns + column);
            const float x = vector[0], y = vector[1];
            const Place place = place_of(job.other, static_cast<float>(left) + x, static_cast<float>(top) + y);
            const i64 chunks = column + 1 == job.columns && left + kSide < width ? 2 : 1;
            for (i64 chunk = 0; chunk < chunks; ++chunk) {
                const float* source = place.data + (begin - top) * stride + chunk * kSide;
                F<8> upper = between_columns(source, place.right);
                for (i64 line = begin; line < stop; ++line) {
                    source += stride;
                    const F<8> lower = between_columns(source, place.right);
                    const F<8> difference = magnitude(upper + place.down * (lower - upper) -
                                                      load<8>(job.own.row(line) + left + chunk * kSide));
                    upper = lower;
                    const F<8> one = spread<8>(1.0f), weight = one / (difference > one ? difference : one);
                    float* sum = sums + 3 * (line - first) * pitch + left + chunk * kSide;
                    store(sum, load<8>(sum) + weight * x);
                    store(sum + pitch, load<8>(sum + pitch) + weight * y);
                    store(sum + 2 * pitch, load<8>(sum + 2 * pitch) + weight);
                }
            }
        }
    }
    for (i64 line = first; line < last; ++line) {
        const float* sum = sums + 3 * (line - first) * pitch;
        float* __restrict target = flow + 2 * line * width;
        for (i64 x = 0; x < width; ++x) {
            const float inverse = 1.0f / sum[2 * pitch + x];
            target[2 * x] = sum[x] * inverse;
            target[2 * x + 1] = sum[pitch + x] * inverse;
        }
    }
}

}  // namespace midframe::MIDFRAME_VARIANT

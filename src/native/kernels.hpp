// The kernels: what every instruction-set variant provides, and the views they work on.
//
// Each kernel file is compiled once per variant (see CMakeLists.txt) inside `namespace midframe::MIDFRAME_VARIANT`;
// everything inline here is forced inline, so that no code of one variant is ever linked into another.
//
// Images are (height, width) or (channels, height, width) float32 without gaps. A block is 4x4 luma pixels, a tile 4x4
// blocks; flows live on the grid of blocks, in units of blocks. Rows do not depend on how they are shared among
// threads. Products and sums are fused only where `fma` is written, so that all variants give the same bits.
#pragma once

#include <cstdint>

#define MIDFRAME_INLINE inline __attribute__((always_inline))

namespace midframe {

using i64 = std::int64_t;

constexpr i64 kBlock = 4;        // pixels; side of a block
constexpr i64 kTile = 4;         // blocks; side of the tiles in which a hypothesis is active or not
constexpr i64 kBand = 8;         // rows of blocks worked on at a time: they fit a processor's own cache
constexpr i64 kFeatures = 17;    // matching features of a hypothesis in a block, see FeatureChannel
constexpr i64 kInputs = 21;      // inputs of the fusion network of one hypothesis
constexpr i64 kShared = 13;      // inputs of the fusion network of the block itself
constexpr i64 kMaxHypotheses = 16;

enum FeatureChannel : i64 {
    kFlowToA = 0,         // 2 channels, in blocks
    kFlowToB = 2,         // 2 channels
    kColourA = 4,         // 3 channels: mean R, G, B of warped a
    kColourB = 7,         // 3 channels
    kResidual = 10,       // mean absolute luma difference of both
    kDeviationA = 11,     // of warped a from the mean of all
    kDeviationB = 12,
    kDetailA = 13,        // root mean square of fine detail
    kDetailB = 14,
    kOcclusionA = 15,     // logit that a's content is not visible in b
    kOcclusionB = 16,
};

template <class T>
struct Grid {
    T* data = nullptr;
    i64 height = 0, width = 0;
    MIDFRAME_INLINE T* row(i64 y) const { return data + y * width; }
    MIDFRAME_INLINE T& at(i64 y, i64 x) const { return data[y * width + x]; }
};

template <class T>
struct Cube {
    T* data = nullptr;
    i64 channels = 0, height = 0, width = 0;
    MIDFRAME_INLINE T* row(i64 c, i64 y) const { return data + (c * height + y) * width; }
    MIDFRAME_INLINE T& at(i64 c, i64 y, i64 x) const { return data[(c * height + y) * width + x]; }
    MIDFRAME_INLINE Grid<T> plane(i64 c) const { return {data + c * height * width, height, width}; }
    MIDFRAME_INLINE Cube<T> planes(i64 first, i64 count) const {
        return {data + first * height * width, count, height, width};
    }
    MIDFRAME_INLINE bool empty() const { return data == nullptr; }
};

using Image = Grid<const float>;
using Target = Grid<float>;
using Images = Cube<const float>;
using Targets = Cube<float>;
using Mask = Cube<bool>;

struct Span {  // rows first to last and columns left to right of blocks, half-open
    i64 first, last, left, right;
};

// Layers of the fusion network that see one block, row-major (outputs, inputs).
struct Layer {
    const float* weight;
    const float* bias;
    i64 outputs, inputs;
};

struct FusionLayers {
    Layer input;                   // kInputs -> each; its bias is per hypothesis:
    const float* hypothesis_bias;  // (K, each)
    Layer hidden;                  // each -> each
    Layer output;                  // each -> each
    Layer head;                    // each -> 2
    Layer context_encoder;         // mean, maximum, primary and zero-motion features and kShared -> context
    Layer context_decoder;         // context -> each + 3
    const float* prior;            // (K,) logits
};

// The coarser layers, 3x3 convolutions but for the last.
struct CoarseLayers {
    Layer down8, down16, residual_1a, residual_1b, residual_2a, residual_2b, up8, head;
};

// Channels of a feature map with room around: rows -1 and `height`, columns -1 and `width` are zero.
struct FeatureMap {
    float* data;  // of row -1, kMargin columns before column 0
    i64 channels, height, width, stride;
    MIDFRAME_INLINE float* row(i64 c, i64 y) const;
};
constexpr i64 kMargin = 16;
MIDFRAME_INLINE float* FeatureMap::row(i64 c, i64 y) const {
    return data + (c * (height + 2) + y + 1) * stride + kMargin;
}

struct ActiveArea {  // between letterbox bars, in parts of the width and the height
    float left, top, right, bottom;
};

struct ForegroundThresholds {
    float other_motion;  // pixels from which on a motion is another than the background's; from twice that on surely
    float uncovered;     // of that difference, by which what it uncovers must be inconsistent
    float outside;       // pixels of inconsistency to which a pixel beyond the edge is equal
    float relative;      // of a vector's length by which it may be inconsistent as by one pixel
    float doubt;         // log importance lost per pixel of inconsistency
    float held;          // pixels, as of short vectors, of inconsistency that foreground may have
    float front;         // log importance of foreground
};

struct Hypotheses {
    float* features;       // (K, kFeatures, h, w)
    Mask active;           // (K, h / kTile, w / kTile)
    Images coverage;       // (3, h, w): splat coverage of a, of b, and the logit of visibility from both
    i64 count, height, width;
    i64 zero;              // index of the zero-motion hypothesis
    i64 refined;           // index of the refined hypothesis, -1 without; no tile in which it is active is trivial
    MIDFRAME_INLINE Targets of(i64 k) const { return {features + k * kFeatures * height * width, kFeatures, height, width}; }
};

struct TrivialThresholds {
    float slow;      // blocks of flow
    float residual;  // where no other hypothesis is active
    float strict;    // where one is
    float colour;
    float worse;     // by which zero motion's residual exceeds the primary's
};

struct Splat {
    Images flow;          // (2, h, w)
    Images acceleration;  // likewise, or empty
    Image importance;     // (h, w), log
    float t;              // from the flow's own frame, 0..1
    bool from_b;
};

struct Combination {
    Images from_a, from_b;        // splats (5, h, w)
    Images ab, ba;                // flows
    Images acceleration_a, acceleration_b;
    float t;
    Targets splatted;             // (4, h, w)
    Targets one_sided_a, one_sided_b;  // or empty
    Targets coverage;             // (3, h, w), or empty: then neither is one-sided
};

struct WarpJob {
    const float* spline;  // (H + 4, W + 4, C)
    Images flow;          // (2, h, w)
    i64 down, across;     // pixels of the plane to a block
    Targets out;          // (C, H, W)
    Targets means;        // (C, h, w)
};

constexpr i64 kCorrelationPadding = 32;  // columns on the right of the map that `correlate` searches
constexpr i64 kPatch = 8;    // pixels; side of the patches of the inverse search
constexpr i64 kBorder = 24;  // pixels around a frame that patches read beyond its edge: two sides and a stride
constexpr float kMinDeterminant = 0.001f / 4096.0f;  // of a structure tensor: OpenCV's, of gradients eight times as large

// A frame with its edge repeated around.
struct Bordered {
    float* data;  // of the upper left corner of the border
    i64 height, width;
    MIDFRAME_INLINE i64 stride() const { return width + 2 * kBorder; }
    MIDFRAME_INLINE float* row(i64 y) const { return data + (y + kBorder) * stride() + kBorder; }
};

struct PatchSearch {
    Bordered own, other;
    Images gradient;       // (2, h, w) of the own frame
    const float* coarse;   // flow of the level below, (h, w, 2), or none
    i64 coarse_height, coarse_width;
    const float* initial;  // a flow (h, w, 2) of further candidates, or none
    i64 rows, columns;     // of patches
    i64 stride;            // pixels between them
    i64 steps;             // of descent, in both passes together
    float relaxation;      // part of a Gauss-Newton step that is taken
    float* vectors;        // (rows, columns, 2)
};

struct BackgroundFit {  // see background_motion in models/flow/extrapolation.py
    i64 rows, columns;  // of cells
    i64 cells;          // along the longer side: the unit of coordinates
    i64 radius;         // of the Gaussian, in cells
    const float* taps;  // 2 radius + 1
    i64 iterations;
    float prior;
    double scale, ridge;
};

struct Kernels {
    const char* name;

    // spline.cpp
    void (*prefilter_rows)(i64 first, i64 last, Images planes, float* out);
    void (*prefilter_columns)(i64 first, i64 last, Image rows, Target out);

    // warp.cpp
    void (*warp)(const Span* spans, i64 count, const WarpJob& job);
    void (*block_means)(i64 first, i64 last, Images planes, i64 down, i64 across, Targets means);

    // planes.cpp
    void (*to_rgb)(const Span* spans, i64 count, Image luma, Images chroma, const float* matrix, Targets rgb);
    void (*from_rgb)(i64 first, i64 last, Images rgb, Target luma, Targets chroma);
    void (*read_u8)(i64 first, i64 last, Grid<const std::uint8_t> codes, float zero, float gain, Target out);
    void (*read_u16)(i64 first, i64 last, Grid<const std::uint16_t> codes, float zero, float gain, Target out);
    void (*write_u8)(i64 first, i64 last, Image plane, float zero, float gain, float most, Grid<std::uint8_t> codes);
    void (*write_u16)(i64 first, i64 last, Image plane, float zero, float gain, float most, Grid<std::uint16_t> codes);

    // splat.cpp
    void (*splat)(const Splat& job, Targets out);
    void (*combine)(i64 first, i64 last, const Combination& job);
    void (*shift)(i64 first, i64 last, Images flows, i64 dx, i64 dy, Targets out);
    void (*find_active)(i64 first, i64 last, const Hypotheses& found, float threshold);

    // filters.cpp
    void (*consistency)(i64 first, i64 last, Images flow, Images backward, Target out);
    void (*acceleration)(i64 first, i64 last, Images own, Images other, Images flow, Targets out);
    void (*filter_flow)(i64 first, i64 last, Images padded, i64 radius, float colour, float reliable, Targets out);

    void (*uncovering)(i64 first, i64 last, Images flow, Images background, Image other_error,
                       const ForegroundThresholds& limits, Target own, Target uncovered);
    void (*importance)(i64 first, i64 last, Images flow, Image error, Image own, Image uncovered, const ActiveArea& area,
                       const ForegroundThresholds& limits, Targets out);

    // features.cpp
    void (*find_trivial)(i64 first, i64 last, Image a, Image b, Image still_a, Image still_b, const Hypotheses& found,
                         const TrivialThresholds& limits, Mask evaluated);
    void (*complete)(i64 first, i64 last, const Hypotheses& found, Mask evaluated, float* luma, Image still_a,
                     Image still_b, Target mean);
    void (*describe)(const Span* spans, i64 count, Image a, Image b, Image mean, Image occlusion_ab, Image occlusion_ba,
                     Targets features);

    // fusion.cpp
    void (*encode)(i64 first, i64 last, const Hypotheses& found, Mask evaluated, float t, const i64* starts,
                   const FusionLayers& layers, float* hidden, Targets fine);
    void (*decode)(i64 first, i64 last, const Hypotheses& found, Mask evaluated, float t, const i64* starts,
                   const FusionLayers& layers, const float* hidden, Images fine, Images coarse, Targets weights);

    // convolution.cpp
    void (*import_map)(i64 first, i64 last, Images planes, const FeatureMap& out);
    void (*convolve)(i64 first, i64 last, const FeatureMap& in, const Layer& layer, i64 stride, const FeatureMap* residual,
                     const FeatureMap& out);
    void (*add_enlarged)(i64 first, i64 last, const FeatureMap& coarse, const FeatureMap& out);
    void (*pointwise)(i64 first, i64 last, const FeatureMap& in, const Layer& layer, Targets out);

    // blend.cpp
    void (*blend)(i64 first, i64 last, const float* warped, Images still_a, Images still_b, i64 zero, Mask evaluated,
                  Images weights, i64 down, i64 across, Targets out);

    // background.cpp
    void (*background)(Images flow, Image weight, const BackgroundFit& fit, Targets out);

    // inverse_search.cpp
    void (*import_frame)(i64 first, i64 last, Grid<const std::uint8_t> frame, const Bordered& out);
    void (*gradient)(i64 first, i64 last, const Bordered& frame, Targets out);
    void (*search_patches)(i64 first, i64 last, const PatchSearch& job);
    void (*densify)(i64 first, i64 last, const PatchSearch& job, float* flow);

    // correlation.cpp
    void (*correlate)(i64 first, i64 last, Images a, Images b, i64 radius, Targets out);

    // math.hpp, for tests
    void (*exponential)(const float* x, i64 count, float* out);
    void (*logarithm)(const float* x, i64 count, float* out);
};

extern const Kernels kKernelsBaseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kKernelsV3;
extern const Kernels kKernelsV4;
#endif

}  // namespace midframe

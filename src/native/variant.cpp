// The table of one variant's kernels.
#include "simd.hpp"

namespace midframe {
namespace MIDFRAME_VARIANT {

void prefilter_rows(i64, i64, Images, float*);
void prefilter_columns(i64, i64, Image, Target);
void warp(const Span*, i64, const WarpJob&);
void block_means(i64, i64, Images, i64, i64, Targets);
void to_rgb(const Span*, i64, Image, Images, const float*, Targets);
void from_rgb(i64, i64, Images, Target, Targets);
void read_u8(i64, i64, Grid<const std::uint8_t>, float, float, Target);
void read_u16(i64, i64, Grid<const std::uint16_t>, float, float, Target);
void write_u8(i64, i64, Image, float, float, float, Grid<std::uint8_t>);
void write_u16(i64, i64, Image, float, float, float, Grid<std::uint16_t>);
void splat(const Splat&, Targets);
void combine(i64, i64, const Combination&);
void shift(i64, i64, Images, i64, i64, Targets);
void find_active(i64, i64, const Hypotheses&, float);
void consistency(i64, i64, Images, Images, Target);
void acceleration(i64, i64, Images, Images, Images, Targets);
void filter_flow(i64, i64, Images, i64, float, float, Targets);
void uncovering(i64, i64, Images, Images, Image, const ForegroundThresholds&, Target, Target);
void importance(i64, i64, Images, Image, Image, Image, const ActiveArea&, const ForegroundThresholds&, Targets);
void find_trivial(i64, i64, Image, Image, Image, Image, const Hypotheses&, const TrivialThresholds&, Mask);
void complete(i64, i64, const Hypotheses&, Mask, float*, Image, Image, Target);
void describe(const Span*, i64, Image, Image, Image, Image, Image, Targets);
void encode(i64, i64, const Hypotheses&, Mask, float, const i64*, const FusionLayers&, float*, Targets);
void decode(i64, i64, const Hypotheses&, Mask, float, const i64*, const FusionLayers&, const float*, Images, Images, Targets);
void import_map(i64, i64, Images, const FeatureMap&);
void convolve(i64, i64, const FeatureMap&, const Layer&, i64, const FeatureMap*, const FeatureMap&);
void add_enlarged(i64, i64, const FeatureMap&, const FeatureMap&);
void pointwise(i64, i64, const FeatureMap&, const Layer&, Targets);
void blend(i64, i64, const float*, Images, Images, i64, Mask, Images, i64, i64, Targets);
void background(Images, Image, const BackgroundFit&, Targets);
void import_frame(i64, i64, Grid<const std::uint8_t>, const Bordered&);
void gradient(i64, i64, const Bordered&, Targets);
void search_patches(i64, i64, const PatchSearch&);
void densify(i64, i64, const PatchSearch&, float*);
void correlate(i64, i64, Images, Images, i64, Targets);

static void exponentials(const float* x, i64 count, float* out) {
    for (i64 k = 0; k < count; ++k) out[k] = exponential(x[k]);
}
static void logarithms(const float* x, i64 count, float* out) {
    for (i64 k = 0; k < count; ++k) out[k] = logarithm(x[k]);
}

}  // namespace MIDFRAME_VARIANT

using namespace MIDFRAME_VARIANT;

const Kernels MIDFRAME_TABLE = {
    MIDFRAME_NAME, prefilter_rows, prefilter_columns, warp, block_means, to_rgb, from_rgb, read_u8, read_u16, write_u8,
    write_u16, splat, combine, shift, find_active, consistency, acceleration, filter_flow, uncovering,
    importance, find_trivial, complete, describe, encode, decode, import_map, convolve, add_enlarged, pointwise, blend,
    background, import_frame, gradient, search_patches, densify, correlate, exponentials, logarithms,
};

}  // namespace midframe

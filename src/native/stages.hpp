// The stages of a model on a CPU: which kernels run on which rows, in which memory. Knows nothing of Python.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "workspace.hpp"

namespace midframe {

// Kernels of the best variant that this processor can run; or of the one that has been chosen.
const Kernels& kernels();
std::vector<std::string> variants();
void use_variant(const std::string& name);

using Matrix = std::array<float, 6>;  // (3, 2): what Cb and Cr add to luma for R, G and B

// A frame: planes, their spline coefficients, and means of blocks. Sides are multiples of a tile's.
struct Planes {
    Array<float> luma;                 // (H, W), 0..1
    Array<float> chroma;               // (2, H / 1 or 2, W / 1 or 2), -0.5..0.5; none of a grey frame
    Array<float> luma_coefficients;    // (H + 4, W + 4, 1)
    Array<float> chroma_coefficients;  // (h + 4, w + 4, 2)
    Array<float> block_means;          // (3, H / 4, W / 4): R, G and B
    Matrix matrix{};
    i64 down() const { return chroma.size(1) / block_means.size(1); }  // rows of chroma in a block
    i64 across() const { return chroma.size(2) / block_means.size(2); }
};

struct CodePlane {  // code values of a plane, 8 or 16 bits
    const void* data;
    i64 height, width;
    bool wide;
    float zero, span;  // the code value of 0, and how many make 1
};

Planes planes_of_rgb(Workspace& workspace, Images rgb, const Matrix& matrix);
Planes planes_of_codes(Workspace& workspace, const std::vector<CodePlane>& codes, i64 height, i64 width, i64 chroma_height,
                       i64 chroma_width, const Matrix& matrix);
Array<float> rgb_of(Workspace& workspace, Image luma, Images chroma, const Matrix& matrix);
void codes_of(Workspace& workspace, Image plane, const CodePlane& codes, float most);
Array<float> spline_coefficients(Workspace& workspace, Images planes);

struct SearchLevel {  // of a pyramid; the first is the finest
    Grid<const std::uint8_t> first, second;
    const float *initial_ab = nullptr, *initial_ba = nullptr;  // flows (h, w, 2), or none
};

// Flows (2, h, w, 2) from the first frame to the second and back, at the finest level.
Array<float> inverse_search(Workspace& workspace, const std::vector<SearchLevel>& levels, i64 stride, i64 steps,
                            float relaxation);

Array<float> background_motion(Workspace& workspace, Images flow, Image weight, const BackgroundFit& fit);

Array<float> forward_backward_error(Workspace& workspace, Images flow, Images backward);
Array<float> confirmed_acceleration(Workspace& workspace, Images own, Images other, Images flow);
Array<float> local_correlation(Workspace& workspace, Images a, Images b, i64 radius);
Array<float> filtered_flow(Workspace& workspace, Images padded, i64 radius, float colour, float reliable);

struct FlowPair {
    Images ab, ba;                      // (2, h, w)
    Image importance_a, importance_b;   // (h, w), log
};

struct MotionHypotheses {
    Array<float> features;  // (K, kFeatures, h, w); only the flows are set
    Array<bool> active;     // (K, h / kTile, w / kTile)
    Array<float> coverage;  // (3, h, w)
    Array<float> refined;   // (2, h, w): visibility logit of the refined hypothesis, and 1 where it has its own flow; or none
    i64 zero = 0, refined_index = -1;
    Hypotheses view() const;
};

struct NamedFlows {
    std::string name;  // of the hypothesis
    FlowPair flows;
};

// `names` as in midnet's architecture; `others` are splatted like `flows`, each for its own hypothesis; a hypothesis
// without flows is the splatted one. `refined` (6, h, w) is that hypothesis's flow at t, its visibility logit, and 1 where
// it differs from the splatted one; or empty. `shift` in blocks; `threshold` in blocks, by which an active hypothesis differs.
MotionHypotheses hypotheses(Workspace& workspace, const FlowPair& flows, const std::vector<NamedFlows>& others,
                            Images refined, Images acceleration_a, Images acceleration_b, float t, const std::vector<std::string>& names,
                            i64 shift, float threshold);

// Both frames warped to an instant. What a hypothesis has in tiles where it is not active is not to be read, nor what
// zero motion has, nor features from kDeviationA on where nothing is evaluated.
struct Warped {
    Array<float> luma;      // (2K, 1, H, W): a under each hypothesis, then b
    Array<float> chroma;    // (2K, 2, h, w), likewise, or none
    Array<bool> evaluated;  // (K, h / kTile, w / kTile): active, and not trivial
    MotionHypotheses hypotheses;
    Planes a, b;
};

Warped warp_hypotheses(Workspace& workspace, const MotionHypotheses& hypotheses, const Planes& a, const Planes& b,
                       Image occlusion_ab, Image occlusion_ba, const TrivialThresholds& limits);

// Occlusion logits and log splatting importance (2, h, w) of a flow.
Array<float> flow_importance(Workspace& workspace, Images flow, Image error, Image other_error, Images background,
                             const ActiveArea& area, const ForegroundThresholds& limits);

// Fusion weights (2K, h, w).
Array<float> fuse(Workspace& workspace, const Warped& warped, const FusionLayers& layers, const CoarseLayers& coarse, float t);

struct Blended {
    Array<float> luma;    // (1, H, W)
    Array<float> chroma;  // (2, h, w) or none
};

Blended blend(Workspace& workspace, const Warped& warped, Images weights);

}  // namespace midframe

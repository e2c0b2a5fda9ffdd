// What Python hands over: one depthwise convolution and the projection and BatchNorm behind it, with what goes in and
// comes out. Keep in step with `Job` in library.py.
//
// Images are dense, channels last: (batch, height, width, channels). `understands` in stage.py guarantees what is assumed
// here: square kernels, stride 1 or 2, the same padding and dilation both ways. Every pass reads and writes its own
// fields; a field for a result that is null is not wanted.
//
// A projection is wide where it has no depthwise convolution before it, and yet a kernel k: it sees k x k pixels by
// (O, k, k, C) weights instead of (O, C).

#pragma once

#include <cstdint>

// To be raised with every change of what a pass does with a job, here and in library.py.
constexpr int64_t INTERFACE = 10;

enum Pool : int64_t { NONE, MAX, MEAN, PADDED_MEAN };

struct Job {
    // transform: result = projection (convolution (input)), or pool (input)
    const void* input;       // (B, H, W, C)
    const void* weight;      // (C, k, k); null: no convolution
    const void* projection;  // (O, C); null: then there is no convolution either, and the result is the input
    void* result;            // (B, h, w, O)
    void* mean;              // (O,): of the result over all pixels
    void* variance;          // (O,): biased
    // combine: output = factor (strength * result + offset), summed over jobs in a row with one output
    const void* strength;  // (O,)
    const void* offset;    // (O,)
    const void* factor;    // (B,); null: 1 for each image. It also multiplies `grad` where that is read
    void* output;          // (B, h, w, O)
    // reduce: sums over all pixels; with relu_output, `grad` counts where strength * result + offset is positive
    const void* grad;  // (B, h, w, O): gradient by the output
    void* products;    // (O,): of grad * result
    void* totals;      // (O,): of grad
    // backpropagate: with `grad` as there, the gradient by the result is by_grad * grad + by_result * result + constant; null: it is grad
    const void* by_grad;    // (O,)
    const void* by_result;  // (O,)
    const void* constant;   // (O,)
    void* d_input;          // (B, H, W, C); summed over jobs in a row that share it
    void* d_weight;         // (C, k, k)
    void* d_projection;     // (O, C)
    // weave: output = what was mixed (result, of O channels; null: nothing) woven with what passes by (input, of C
    // channels, summed over all jobs with strength as its weight, (1,), null: 1); all but input and strength are the first
    // job's
    void* part;  // (B, h, w, O): the first channels of the output
    // unweave: with `grad` (null: zero) as the gradient by the output, those by result, input and (products, (1,)) weight
    const void* grad_part;  // (B, h, w, O): gradient by `part`; null: zero
    void* d_result;         // (B, h, w, O)

    int64_t batch, in_height, in_width, channels, height, width, outputs;
    int64_t kernel, stride, padding, dilation;
    int64_t pool;         // NONE, or the result is a pool of the input, which has no weight and no projection
    int64_t relu_input;   // it is ReLU(input) that is read, and d_input is the gradient by what is before it
    int64_t factorized;   // FactorizedReduce: the first half of the projection reads even rows and columns, the other odd
    int64_t relu_output;  // the sum goes through a ReLU
    int64_t adds;         // d_input holds a gradient already, to which this one is added
};

// An inverted residual: a pointwise convolution to M channels, an activation, a depthwise convolution, an activation, a
// pointwise convolution to O channels, and a BatchNorm behind each convolution. BatchNorms before an activation come as
// strength * convolution + offset. An activation is min(ReLU, limit), without a limit where that is not a number.
//
// Wide images are planes of as many channels as a vector has: (B, planes, h, w, lanes).
struct Inverted {
    // covary: mean and biased covariance of the input's pixels, doubles
    const void* input;  // (B, H, W, C)
    double* mean;       // (C,)
    double* covariance; // (C, C)
    // widen: convolved = depthwise (activation (expansion input + expansion_offset)), and its mean and variance
    const void* expansion;         // (M, C), BatchNorm's strength included; null: the input itself is convolved, M = C
    const void* expansion_offset;  // (M,)
    const void* weight;            // (M, k, k)
    void* convolved;               // planes of (h, w)
    void* convolved_mean;          // (M,); null: not wanted
    void* convolved_variance;      // (M,): biased
    // narrow: result = projection activation (strength * convolved + offset), and its mean and variance
    const void* strength;    // (M,)
    const void* offset;      // (M,)
    const void* projection;  // (O, M)
    void* result;            // (B, h, w, O)
    void* result_mean;       // (O,); null: not wanted
    void* result_variance;   // (O,): biased
    // narrow_back: the gradient by the result is by_grad * grad + by_result * result + constant
    const void* grad;       // (B, h, w, O)
    const void* by_grad;    // (O,)
    const void* by_result;  // (O,)
    const void* constant;   // (O,)
    void* d_line;           // planes of (h, w): the gradient by strength * convolved + offset
    void* totals;           // (M,): sums of it
    void* products;         // (M,): of it * convolved
    void* d_projection;     // (O, M); null: not wanted
    // widen_back: the gradient by convolved is by_line * d_line + by_convolved * convolved + convolved_constant
    const void* by_line;             // (M,)
    const void* by_convolved;        // (M,)
    const void* convolved_constant;  // (M,)
    void* d_weight;                  // (M, k, k); null: not wanted
    // With G the gradient by expansion input + expansion_offset:
    void* expansion_totals;    // (M,): sums of G; null: neither these nor the next are wanted
    void* expansion_products;  // (M,): of G * what the depthwise convolution reads
    void* d_expansion;         // (M, C): G^T input; null: not wanted
    void* d_input;             // (B, H, W, C): G expansion; null: not wanted

    int64_t batch, in_height, in_width, channels, hidden, height, width, outputs;
    int64_t kernel, stride, padding, dilation;
    int64_t adds;  // d_input holds a gradient already, to which this one is added
    double limit;
};

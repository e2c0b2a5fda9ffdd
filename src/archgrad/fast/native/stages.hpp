// The four passes over a batch that search needs, each over all images and all jobs at once.
//
// Threads take images. Sums over pixels are kept for each image and added up in the order of the images; sums of whole
// matrices and kernels are kept by each thread and added up in the order of the threads.
// Included once for each instruction set, inside a namespace of its own.

// From this many bytes on that a pass writes, it writes past the caches: they could not hold them till they are read.
constexpr int64_t STREAMED_FROM = int64_t(8) << 20;

// The jobs from `first` on that share their input's tile and its gradient.
inline int64_t group_end(const Job* jobs, int64_t first, int64_t n) {
    int64_t end = first + 1;
    if (jobs[first].weight)
        while (end < n && jobs[end].weight && jobs[end].input == jobs[first].input &&
               jobs[end].d_input == jobs[first].d_input && jobs[end].relu_input == jobs[first].relu_input)
            ++end;
    return end;
}

// The job that comes when those up to `end` are done for image i: of the same image, or the first of the next.
struct Next {
    Next(const Job* jobs, int64_t n, int64_t end, int64_t i)
        : first(end < n ? end : 0), image(end < n ? i : smaller(i + 1, jobs[0].batch - 1)), job(jobs[first]) {}
    const void* in(const void* images, int64_t bytes) const {
        return images ? static_cast<const char*>(images) + image * bytes : nullptr;
    }
    int64_t first, image;
    const Job& job;
};

inline Shape tile_of(const Job* jobs, int64_t first, int64_t end) {
    int64_t border = 0;
    for (int64_t k = first; k < end; ++k) border = larger(border, jobs[k].padding);
    return {jobs[first].in_height, jobs[first].in_width, border, jobs[first].channels};
}

template <class T>
int64_t largest_tile(const Job* jobs, int64_t n) {
    int64_t most = 0;
    for (int64_t first = 0, end; first < n; first = end) {
        end = group_end(jobs, first, n);
        if (jobs[first].weight) most = larger(most, up_to(tile_of(jobs, first, end).template size<T>(), LINE));
    }
    return most;
}

inline Taps every_tap(const Job& j) { return {0, 1, j.kernel, j.dilation}; }

template <class T>
void pack_kernel(const Job& j, T* to) {
    pack_kernel(static_cast<const T*>(j.weight), j.channels, j.kernel, every_tap(j), every_tap(j), false,
                j.kernel * j.kernel, to);
}

// Some rows of an image: a result is made a few rows at a time, so that what is in between stays in the first cache.
struct Rows {
    int64_t first, count;
};

// How many rows are made at once. Coefficients of the result's channels begin anew with each of them, and the gradient by
// a projection, which is read and written each time, is worth it.
template <class T>
int64_t rows_at_a_time(const Job& j) {
    constexpr int64_t CACHE = 32768, PIXELS = 64;
    const int64_t repeated = Size<T>::period(j) / j.outputs;
    int64_t least = 1;
    while (least * j.width % repeated) ++least;
    const int64_t row = j.width * (j.channels + j.outputs) * sizeof(T);
    const int64_t wanted = larger(CACHE / row, (PIXELS + j.width - 1) / j.width);
    return smaller(up_to(wanted, least), j.height);
}

// Call f(rows) for all rows of the result.
template <class T, class F>
INLINE void by_rows(const Job& j, F f) {
    const int64_t step = rows_at_a_time<T>(j);
    for (int64_t y = 0; y < j.height; y += step) f(Rows{y, smaller(step, j.height - y)});
}

// Rows of the convolution of one image, whose tile is given.
template <class T>
void convolve(const Job& j, const T* tile, Shape s, const T* kernel, Rows rows, T* to, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    const auto plane = j.stride == 1 ? convolve_plane<T, 1> : convolve_plane<T, 2>;
    const Taps taps = every_tap(j);
    for (int64_t b = 0; b < s.template planes<T>(); ++b)
        plane(tile + b * s.template plane<T>() + s.template at<T>(j.stride * rows.first - j.padding, -j.padding),
              s.columns(), kernel + b * j.kernel * j.kernel * L, taps, taps, to + b * L, j.width * j.channels, j.channels,
              rows.count, j.width, j.channels - b * L, false, ahead);
}

// What a projection without a convolution reads in these rows: of the image, or of its ReLU in `room`.
template <class T>
const T* read(const Job& j, int64_t i, Rows rows, T* room) {
    const int64_t row = j.in_width * j.channels;
    const T* image = in<T>(j.input, i, Size<T>::input(j)) + rows.first * row;
    if (!j.relu_input) return image;
    copy_where_positive(image, image, rows.count * row, room);
    return room;
}

// result = projection (convolution (input)) or pool (input), and its mean and variance over all images.
template <class T>
void transform(const Job* jobs, int64_t n) {
    using S = Size<T>;
    const int64_t batch = jobs[0].batch;
    const Parts kernels(jobs, n, S::kernel), matrices(jobs, n, S::transposed), between(jobs, n, S::between);
    const Parts periods(jobs, n, S::period), results(jobs, n, S::result);
    Array<T> kernel(kernels.size()), matrix(matrices.size());
    PerImage means(jobs, n), deviations(jobs, n);
    const int64_t tile_size = largest_tile<T>(jobs, n);
    const bool streams = batch * results.size() * int64_t(sizeof(T)) >= STREAMED_FROM;
#pragma omp parallel
    {
        T* tile = scratch<T>(tile_size + between.largest() + results.largest() + 3 * periods.largest());
        T* kept = tile + tile_size;
        T* made = kept + between.largest();
        T* room = made + results.largest();
        Ahead ahead;
#pragma omp for schedule(static)
        for (int64_t k = 0; k < n; ++k) {
            const Job& j = jobs[k];
            if (j.weight) pack_kernel(j, &kernel[kernels[k]]);
            if (j.factorized)
                pack_grids(j, &matrix[matrices[k]]);
            else if (is_wide(j))
                pack_wide(j, false, &matrix[matrices[k]]);
            else if (j.projection)
                pack_matrix(static_cast<const T*>(j.projection), j.channels, j.outputs, true, &matrix[matrices[k]]);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; ++i)
            for (int64_t first = 0, end; first < n; first = end) {
                end = group_end(jobs, first, n);
                const Next next(jobs, n, end, i);
                ahead.begin();
                ahead.read(next.in(next.job.input, S::input(next.job) * sizeof(T)), S::input(next.job) * sizeof(T));
                int64_t work = 0;
                for (int64_t k = first; k < end; ++k)
                    work += S::pixels(jobs[k]) * (S::kernel(jobs[k]) + S::transposed(jobs[k])) / Vector<T>::lanes;
                ahead.over(work);
                const Shape s = tile_of(jobs, first, end);
                if (jobs[first].weight)
                    fill<T>(tile, s, in<T>(jobs[first].input, i, S::input(jobs[first])), jobs[first].relu_input);
                for (int64_t k = first; k < end; ++k) {
                    const Job& j = jobs[k];
                    T* to = out<T>(j.result, i, S::result(j));
                    T* result = streams ? made : to;
                    if (j.pool) {
                        pool(j, in<T>(j.input, i, S::input(j)), result);
                    } else if (j.factorized) {
                        project_grids(j, in<T>(j.input, i, S::input(j)), &matrix[matrices[k]], kept, result, ahead);
                    } else if (is_wide(j)) {
                        project_wide(j, in<T>(j.input, i, S::input(j)), &matrix[matrices[k]], kept, result, ahead);
                    } else {
                        by_rows<T>(j, [&](Rows rows) {
                            if (j.weight) convolve(j, tile, s, &kernel[kernels[k]], rows, kept, ahead);
                            const T* z = j.weight ? kept : read(j, i, rows, kept);
                            multiply(z, j.channels, rows.count * j.width, j.channels, &matrix[matrices[k]], j.outputs,
                                     Sink<T>::image(result + rows.first * j.width * j.outputs, j.outputs), ahead);
                        });
                    }
                    if (j.mean) moments(result, j.outputs, S::result(j), room, means(i, k), deviations(i, k));
                    if (streams) stream_all(made, S::result(j), to);
                }
            }
        finish_streams();
#pragma omp for schedule(static)
        for (int64_t k = 0; k < n; ++k)
            for (int64_t c = 0; jobs[k].mean && c < jobs[k].outputs; ++c)
                join_moments(
                    batch, S::pixels(jobs[k]), [&](int64_t i) { return means(i, k)[c]; },
                    [&](int64_t i) { return deviations(i, k)[c]; }, static_cast<T*>(jobs[k].mean) + c,
                    static_cast<T*>(jobs[k].variance) + c);
    }
}

// What multiplies image i of a job.
template <class T>
T factor_of(const Job& j, int64_t i) {
    return j.factor ? static_cast<const T*>(j.factor)[i] : T(1);
}

// The strengths of jobs that share an output, each times its factor for image i, at their places in `strength`; and in
// `offset` the sum of their offsets, times these.
template <class T>
void multiply_by_factors(const Job* jobs, int64_t first, int64_t end, int64_t i, const Parts& periods,
                         const T* strengths, const T* offsets, T* strength, T* offset) {
    const int64_t period = Size<T>::period(jobs[first]);
    for (int64_t e = 0; e < period; ++e) offset[e] = 0;
    for (int64_t k = first; k < end; ++k) {
        const T factor = factor_of<T>(jobs[k], i);
        for (int64_t e = periods[k]; e < periods[k] + period; ++e) {
            strength[e] = factor * strengths[e];
            offset[e - periods[k]] += factor * offsets[e];
        }
    }
}

// output = the sum over the jobs that share it of factor (strength * result + offset); through a ReLU if asked for.
template <class T>
void combine(const Job* jobs, int64_t n) {
    using S = Size<T>;
    const Parts periods(jobs, n, S::period);
    Array<T> strengths(periods.size()), offsets(periods.size());
    for (int64_t k = 0; k < n; ++k) {
        Periodic<T>::repeat(jobs[k].strength, jobs[k].outputs, &strengths[periods[k]]);
        Periodic<T>::repeat(jobs[k].offset, jobs[k].outputs, &offsets[periods[k]]);
    }
    int64_t written = 0;
    for (int64_t k = 0; k < n; ++k)
        if (k == 0 || jobs[k].output != jobs[k - 1].output) written += jobs[k].batch * S::result(jobs[k]) * sizeof(T);
    const bool streams = written >= STREAMED_FROM;
    const int64_t most = up_to(8192 / sizeof(T), periods.largest());
#pragma omp parallel
    {
        T* made = scratch<T>(2 * most + periods.size() + periods.largest());
        T* own_strength = made + 2 * most;
        T* own_offset = own_strength + periods.size();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < jobs[0].batch; ++i)
            for (int64_t first = 0, end; first < n; first = end) {
                bool factors = jobs[first].factor;
                for (end = first + 1; end < n && jobs[end].output == jobs[first].output; ++end)
                    factors = factors || jobs[end].factor;
                const T *strength = strengths.data(), *offset = &offsets[periods[first]];
                if (factors) {
                    multiply_by_factors(jobs, first, end, i, periods, strength, offsets.data(), own_strength, own_offset);
                    strength = own_strength;
                    offset = own_offset;
                }
                const int64_t period = S::period(jobs[first]), size = S::result(jobs[first]);
                const int64_t chunk = up_to(8192 / sizeof(T), period);  // stays in the first cache
                for (int64_t begin = 0; begin < size; begin += chunk) {
                    const int64_t count = smaller(chunk, size - begin);
                    T* to = out<T>(jobs[first].output, i, size) + begin;
                    for (int64_t k = first; k < end; ++k)
                        scale_and_shift(in<T>(jobs[k].result, i, size) + begin,
                                        k + 1 < end ? in<T>(jobs[k + 1].result, i, size) + begin
                                                    : in<T>(jobs[first].result, i, size) + begin + chunk,
                                        strength + periods[k], offset, period, count, streams ? made : to, k > first,
                                        k + 1 == end && jobs[k].relu_output);
                    if (streams) stream_all(made, count, to);
                }
            }
        finish_streams();
    }
}

// The ReLU of a job that ends in one.
template <class T>
void repeat_gate(const Job& j, T* to) {
    if (!j.relu_output) return;
    Periodic<T>::repeat(j.strength, j.outputs, to);
    Periodic<T>::repeat(j.offset, j.outputs, to + Size<T>::period(j));
}

template <class T>
Gate<T> gate_of(const Job& j, const T* repeated) {
    return j.relu_output ? Gate<T>{repeated, repeated + Size<T>::period(j)} : Gate<T>{nullptr, nullptr};
}

// products = sum of grad * result and totals = sum of grad, over all pixels.
template <class T>
void reduce(const Job* jobs, int64_t n) {
    using S = Size<T>;
    const int64_t batch = jobs[0].batch;
    const Parts periods(jobs, n, S::period);
    PerImage totals(jobs, n), products(jobs, n);
    Array<T> gates(2 * periods.size());
#pragma omp parallel
    {
        T* room = scratch<T>(2 * periods.largest());
#pragma omp for schedule(static)
        for (int64_t k = 0; k < n; ++k) repeat_gate(jobs[k], &gates[2 * periods[k]]);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; ++i)
            for (int64_t k = 0; k < n; ++k) {
                const Job& j = jobs[k];
                const int64_t size = S::result(j);
                const Next next(jobs, n, k + 1, i);
                sum_gradients(in<T>(j.grad, i, size), gate_of(j, &gates[2 * periods[k]]), in<T>(j.result, i, size),
                              in<T>(next.job.result, next.image, size), j.outputs, size,
                              room, totals(i, k), products(i, k));
            }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < n; ++k)
            for (int64_t c = 0; c < jobs[k].outputs; ++c) {
                double total = 0, product = 0;
                for (int64_t i = 0; i < batch; ++i) {
                    const T factor = factor_of<T>(jobs[k], i);
                    total += factor * totals(i, k)[c];
                    product += factor * products(i, k)[c];
                }
                static_cast<T*>(jobs[k].totals)[c] = T(total);
                static_cast<T*>(jobs[k].products)[c] = T(product);
            }
    }
}

// The gradient by these rows of the result of one image's projection. Of the coefficients there are five: those of the
// gradient, and those of the gate.
template <class T>
void by_result(const Job& j, int64_t i, const T* coefficients, Rows rows, T* to) {
    const int64_t size = Size<T>::result(j), period = Size<T>::period(j), row = j.width * j.outputs;
    const int64_t begin = rows.first * row;
    mix(in<T>(j.grad, i, size) + begin, gate_of(j, coefficients + 3 * period), in<T>(j.result, i, size) + begin,
        coefficients, coefficients + period, coefficients + 2 * period, period, rows.count * row, to);
}

// The coefficients of image i: those of the gradient times its factor, in `room`.
template <class T>
const T* coefficients_of(const Job& j, int64_t i, const T* coefficients, T* room) {
    if (!j.factor) return coefficients;
    const int64_t period = Size<T>::period(j);
    const T factor = factor_of<T>(j, i);
    for (int64_t e = 0; e < period; ++e) room[e] = factor * coefficients[e];
    std::memcpy(room + period, coefficients + period, 4 * period * sizeof(T));
    return room;
}

// The gradients of one image where there is no depthwise convolution: a projection, a pool, or only a value; `add` to
// that by the input.
template <class T>
void without_convolution(const Job& j, int64_t i, const T* coefficients, const T* matrix, bool add, bool streams, T* d_z,
                         T* kept, T* d_result, T* d_matrix, Ahead& ahead) {
    using S = Size<T>;
    T* to = out<T>(j.d_input, i, S::input(j));
    if (j.pool) {
        if (!to) return;
        by_result(j, i, coefficients, {0, j.height}, d_result);
        if (!add) std::memset(to, 0, S::input(j) * sizeof(T));
        through_pool(j, in<T>(j.input, i, S::input(j)), in<T>(j.result, i, S::result(j)), d_result, to);
        return;
    }
    if (!j.projection) {
        if (!to) return;
        const int64_t period = S::period(j);
        T* direct = streams && !add ? kept : to;
        const T* grad = in<T>(j.grad, i, S::result(j));
        scale_and_shift(grad, grad, coefficients, coefficients + 2 * period, period, S::result(j), direct, add, false);
        if (direct == kept) stream_all(kept, S::input(j), to);
        return;
    }
    if (!to && !j.d_projection) return;
    if (is_wide(j) || j.factorized) by_result(j, i, coefficients, {0, j.height}, d_result);
    if (is_wide(j)) {
        through_wide(j, in<T>(j.input, i, S::input(j)), d_result, matrix, add, kept, d_z, to, d_matrix, ahead);
        return;
    }
    if (j.factorized) {
        if (to && !add) std::memset(to, 0, S::input(j) * sizeof(T));
        through_grids(j, in<T>(j.input, i, S::input(j)), d_result, matrix, kept, to, d_matrix, ahead);
        return;
    }
    by_rows<T>(j, [&](Rows rows) {
        const int64_t pixels = rows.count * j.width, begin = rows.first * j.width * j.channels, count = pixels * j.channels;
        by_result(j, i, coefficients, rows, d_result);
        if (j.d_projection) gram(d_result, j.outputs, j.outputs, read(j, i, rows, kept), j.channels, pixels, d_matrix);
        if (!to) return;
        T* direct = add ? kept : to + begin;
        multiply(d_result, j.outputs, pixels, j.outputs, matrix, j.channels, Sink<T>::image(direct, j.channels), ahead);
        if (j.relu_input) copy_where_positive(direct, in<T>(j.input, i, S::input(j)) + begin, count, direct);
        for (int64_t p = 0; add && p < count; ++p) to[begin + p] += kept[p];
    });
}

// Whether the gradients of a group need its input.
inline bool reads_input(const Job* jobs, int64_t first, int64_t end) {
    bool reads = (jobs[first].relu_input || jobs[first].pool) && jobs[first].d_input;
    for (int64_t k = first; k < end; ++k) reads = reads || jobs[k].d_weight || jobs[k].d_projection;
    return reads;
}

// While a group of jobs is done for image i, what the next one reads first is brought near.
template <class T>
void plan_ahead(Ahead& ahead, const Job* jobs, int64_t n, int64_t first, int64_t end, int64_t i) {
    using S = Size<T>;
    const Next next(jobs, n, end, i);
    const Job &here = jobs[first], &there = next.job;
    const int64_t input = S::input(there) * sizeof(T), result = S::result(there) * sizeof(T);
    const auto read = [&](const void* images, const void* now, int64_t bytes) {
        if (images != now || next.image != i) ahead.read(next.in(images, bytes), bytes);
    };
    ahead.begin();
    if (reads_input(jobs, next.first, next.first + 1)) read(there.input, here.input, input);
    if (there.result != there.input) read(there.result, nullptr, result);
    read(there.grad, here.grad, result);
    int64_t work = 0;
    for (int64_t k = first; k < end; ++k) {
        const Job& j = jobs[k];
        const int64_t convolutions = (j.d_projection != nullptr) + (j.d_weight != nullptr) + (j.d_input != nullptr);
        work += S::pixels(j) * (convolutions * S::kernel(j) + S::projection(j)) / Vector<T>::lanes;
    }
    ahead.over(work);
}

// From the gradient by the result to those by projection, kernel and input.
template <class T>
void backpropagate(const Job* jobs, int64_t n) {
    constexpr int64_t L = Vector<T>::lanes;
    using S = Size<T>;
    const Parts kernels(jobs, n, S::kernel), matrices(jobs, n, S::projection), periods(jobs, n, S::period);
    const Parts between(jobs, n, S::between), results(jobs, n, S::result);
    const Parts gradients(jobs, n, [](const Job& j) {
        return j.weight ? Gather(j).tile().template size<T>() : is_wide(j) ? wide_gradient(j).template size<T>() : 0;
    });
    Array<T> kernel(kernels.size()), turned(kernels.size()), matrix(matrices.size()), coefficients(5 * periods.size());
    Array<bool> adds(n);  // whether something was written to its d_input before
    for (int64_t k = 0; k < n; ++k) {
        adds[k] = jobs[k].adds;
        for (int64_t before = 0; before < k; ++before) adds[k] = adds[k] || jobs[before].d_input == jobs[k].d_input;
    }
    Sums<T> kernel_sums(kernels.size()), matrix_sums(matrices.size());
    const int64_t tile_size = largest_tile<T>(jobs, n);
    int64_t written = 0;
    for (int64_t k = 0; k < n; ++k)
        if (jobs[k].d_input && !adds[k]) written += jobs[k].batch * S::input(jobs[k]) * sizeof(T);
    const bool streams = written >= STREAMED_FROM;
#pragma omp parallel
    {
        T* input = scratch<T>(2 * tile_size + gradients.largest() + between.largest() + results.largest() +
                              5 * periods.largest());
        T* d_input = input + tile_size;
        T* d_z = d_input + tile_size;
        T* kept = d_z + gradients.largest();
        T* d_result = kept + between.largest();
        T* own_coefficients = d_result + results.largest();
        T* d_kernels = kernel_sums.own();
        T* d_matrices = matrix_sums.own();
        Ahead ahead;
#pragma omp for schedule(static)
        for (int64_t k = 0; k < n; ++k) {
            const Job& j = jobs[k];
            if (j.weight) {
                pack_kernel(j, &kernel[kernels[k]]);
                Gather(j).pack(&turned[kernels[k]]);
            }
            if (is_wide(j))
                pack_wide(j, true, &matrix[matrices[k]]);
            else if (j.projection)
                pack_matrix(static_cast<const T*>(j.projection), j.outputs, j.channels, false, &matrix[matrices[k]]);
            T* at = &coefficients[5 * periods[k]];
            const void* given[] = {j.by_grad, j.by_result, j.constant};
            for (const void* values : given) {
                Periodic<T>::repeat(values, j.outputs, at);
                at += S::period(j);
            }
            repeat_gate(j, at);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < jobs[0].batch; ++i)
            for (int64_t first = 0, end; first < n; first = end) {
                end = group_end(jobs, first, n);
                const Job& head = jobs[first];
                plan_ahead<T>(ahead, jobs, n, first, end, i);
                if (!head.weight) {
                    const T* own = coefficients_of(head, i, &coefficients[5 * periods[first]], own_coefficients);
                    without_convolution(head, i, own, &matrix[matrices[first]], adds[first], streams, d_z, kept,
                                        d_result, d_matrices + matrices[first], ahead);
                    continue;
                }
                const Shape s = tile_of(jobs, first, end);
                if (reads_input(jobs, first, end)) fill<T>(input, s, in<T>(head.input, i, S::input(head)), head.relu_input);
                const bool writes = Gather(head).is_whole();  // and needs no zeros
                if (head.d_input && !writes) std::memset(d_input, 0, s.template size<T>() * sizeof(T));
                for (int64_t k = first; k < end; ++k) {
                    const Job& j = jobs[k];
                    const T* by_sums = coefficients_of(j, i, &coefficients[5 * periods[k]], own_coefficients);
                    const bool goes_on = j.d_weight || j.d_input;
                    const Gather gather(j);
                    const Shape g = gather.tile();
                    if (goes_on) clear_border(d_z, g);
                    by_rows<T>(j, [&](Rows rows) {
                        by_result(j, i, by_sums, rows, d_result);
                        if (j.d_projection) {  // the convolution's result was not kept
                            convolve(j, input, s, &kernel[kernels[k]], rows, kept, ahead);
                            gram(d_result, j.outputs, j.outputs, kept, j.channels, rows.count * j.width,
                                 d_matrices + matrices[k]);
                        }
                        for (int64_t y = 0; goes_on && y < rows.count; ++y)
                            multiply(d_result + y * j.width * j.outputs, j.outputs, j.width, j.outputs,
                                     &matrix[matrices[k]], j.channels,
                                     Sink<T>::tile(d_z + g.template at<T>(rows.first + y, 0), g), ahead);
                    });
                    if (!goes_on) continue;
                    const int64_t taps = j.kernel * j.kernel;
                    for (int64_t b = 0; b < s.template planes<T>(); ++b) {
                        const T* plane = d_z + b * g.template plane<T>();
                        const int64_t corner = b * s.template plane<T>() + s.template at<T>(-j.padding, -j.padding);
                        const int64_t own = kernels[k] + b * taps * L;
                        if (j.d_weight) {
                            const auto tally = j.stride == 1 ? tally_plane<T, 1> : tally_plane<T, 2>;
                            tally(input + corner, s.columns(), plane + g.template at<T>(0, 0), g.columns(), j.kernel,
                                  j.dilation, d_kernels + own, j.height, j.width, ahead);
                        }
                        if (j.d_input)
                            gather.plane(plane, &turned[own], d_input + b * s.template plane<T>(), s,
                                         k > first || !writes, ahead);
                    }
                }
                if (head.d_input)
                    empty<T>(d_input, s, out<T>(head.d_input, i, S::input(head)), head.relu_input ? input : nullptr,
                             adds[first], streams);
            }
        finish_streams();
#pragma omp for schedule(static)
        for (int64_t k = 0; k < n; ++k) {
            const Job& j = jobs[k];
            const int64_t taps = j.kernel * j.kernel;
            if (j.d_weight) {
                const T* total = kernel_sums.total(kernels[k], kernels[k + 1]);
                for (int64_t c = 0; c < j.channels; ++c)
                    for (int64_t t = 0; t < taps; ++t)
                        static_cast<T*>(j.d_weight)[c * taps + t] = total[(c / L * taps + t) * L + c % L];
            }
            if (j.d_projection) unpack_projection(j, matrix_sums.total(matrices[k], matrices[k + 1]));
        }
    }
}

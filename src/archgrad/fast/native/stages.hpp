// The four passes over a batch that search needs, each over all images and all jobs at once.
//
// Threads take images. Sums over pixels are kept for each image and added up in the order of the images; sums of whole
// matrices and kernels are kept by each thread and added up in the order of the threads.
// Included once for each instruction set, inside a namespace of its own.

// Vectors that cross the lines of the cache cost double.
constexpr int64_t LINE = 64;

template <class T>
T* allocate(int64_t size) {
    void* memory = std::aligned_alloc(LINE, up_to(larger(size * int64_t(sizeof(T)), 1), LINE));
    if (!memory) std::abort();
    return static_cast<T*>(memory);
}

// Zeros that are freed at the end of their scope. The standard library's templates would be compiled once for all
// instruction sets, and that once might be for one that the machine does not have.
template <class T>
class Array {
   public:
    explicit Array(int64_t size) : size_(size), data_(allocate<T>(size)) { std::memset(data_, 0, size * sizeof(T)); }
    Array(const Array&) = delete;
    ~Array() { std::free(data_); }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }
    T* data() { return data_; }
    int64_t size() const { return size_; }

   private:
    int64_t size_;
    T* data_;
};

// Memory that a thread keeps from call to call.
template <class T>
T* scratch(int64_t size) {
    static thread_local T* kept = nullptr;
    static thread_local int64_t room = 0;
    if (room < size) {
        std::free(kept);
        kept = allocate<T>(size);
        room = size;
    }
    return kept;
}

// Sums over images: one copy a thread, each of `size`.
template <class T>
class Sums {
   public:
    explicit Sums(int64_t size) : size_(size), copies_(omp_get_max_threads() * size) {}
    T* own() { return copies_.data() + omp_get_thread_num() * size_; }
    // Copy number 0, with the others added to it.
    const T* total() {
        for (int64_t from = size_; from < copies_.size(); from += size_)
            for (int64_t i = 0; i < size_; ++i) copies_[i] += copies_[from + i];
        return copies_.data();
    }

   private:
    int64_t size_;
    Array<T> copies_;
};

// Where each job's part of a shared array begins: at the beginning of a line.
class Parts {
   public:
    template <class Size>
    Parts(const Job* jobs, int64_t n, Size size) : begin_(n + 1) {
        for (int64_t k = 0; k < n; ++k) begin_[k + 1] = begin_[k] + up_to(size(jobs[k]), LINE);
    }
    int64_t operator[](int64_t k) const { return begin_[k]; }
    int64_t size() const { return begin_[begin_.size() - 1]; }
    int64_t largest() const {
        int64_t most = 0;
        for (int64_t k = 1; k < begin_.size(); ++k) most = larger(most, begin_[k] - begin_[k - 1]);
        return most;
    }

   private:
    Array<int64_t> begin_;
};

// Sums over the pixels of one image: a value for each image, and each output of each job.
class PerImage {
   public:
    PerImage(const Job* jobs, int64_t n)
        : outputs_(jobs, n, [](const Job& j) { return j.outputs; }), values_(jobs[0].batch * outputs_.size()) {}
    double* operator()(int64_t image, int64_t job) { return &values_[image * outputs_.size() + outputs_[job]]; }

   private:
    Parts outputs_;
    Array<double> values_;
};

template <class T>
const T* in(const void* images, int64_t image, int64_t size) {
    return images ? static_cast<const T*>(images) + image * size : nullptr;
}

template <class T>
T* out(void* images, int64_t image, int64_t size) {
    return images ? static_cast<T*>(images) + image * size : nullptr;
}

// Sizes of one job, in values.
template <class T>
struct Size {
    static int64_t up(int64_t channels) { return up_to(channels, Vector<T>::lanes); }
    static int64_t pixels(const Job& j) { return j.height * j.width; }
    static int64_t input(const Job& j) { return j.in_height * j.in_width * j.channels; }
    static int64_t between(const Job& j) { return pixels(j) * j.channels; }
    static int64_t result(const Job& j) { return pixels(j) * j.outputs; }
    static int64_t kernel(const Job& j) { return j.weight ? up(j.channels) * j.kernel * j.kernel : 0; }
    static int64_t projection(const Job& j) { return j.projection ? j.outputs * up(j.channels) : 0; }
    static int64_t transposed(const Job& j) {
        return j.projection ? (j.factorized ? 2 : 1) * j.channels * up(part(j)) : 0;
    }
    // Outputs that are computed from one input: all, or those of one grid.
    static int64_t part(const Job& j) { return j.factorized ? j.outputs / 2 : j.outputs; }
    static int64_t period(const Job& j) { return Periodic<T>::size(j.outputs); }
};

// The gradient by the input of a convolution, gathered from that by its result.
//
// An input at y (counted from the first that is read) was read by result (y - dilation t) / stride for every tap t for
// which that is a whole number. With a stride of 1 that is a convolution with the turned kernel. With a stride of 2, even
// and odd inputs are convolutions of their own, each with the taps that reach it.
struct Gather {
    explicit Gather(const Job& job) : j(job) {}

    // The taps that reach inputs y = stride i + phase, and the result that the first of them comes from: i - base.
    Taps taps(int64_t phase, int64_t* base) const {
        if (j.stride == 1 || j.dilation % 2 == 0) {
            *base = 0;
            return {0, 1, phase == 0 ? j.kernel : 0, j.dilation / j.stride};
        }
        *base = phase * (j.dilation - 1) / 2;
        return {phase, 2, (j.kernel - phase + 1) / 2, j.dilation};
    }

    // A tile for the gradient by the result, with as much border as is read.
    Shape tile() const {
        const int64_t reach = j.dilation * (j.kernel - 1);
        return {j.height, j.width, j.stride == 1 ? reach - j.padding : reach / 2 + 1, j.channels};
    }

    // Call f(taps down, taps across, where they are packed) for every pair of phases that any tap reaches.
    template <class F>
    void each(F f) const {
        int64_t packed = 0;
        for (int64_t a = 0; a < j.stride; ++a)
            for (int64_t b = 0; b < j.stride; ++b) {
                int64_t base[2];
                const Taps down = taps(a, &base[0]), across = taps(b, &base[1]);
                if (down.count == 0 || across.count == 0) continue;
                f(a, b, down, across, base, packed);
                packed += down.count * across.count;
            }
    }

    template <class T>
    void pack(T* to) const {
        each([&](int64_t, int64_t, Taps down, Taps across, const int64_t*, int64_t at) {
            pack_kernel(static_cast<const T*>(j.weight), j.channels, j.kernel, down, across, true, j.kernel * j.kernel,
                        to + at * Vector<T>::lanes);
        });
    }

    // Add one plane's gradient by the input to that of an input tile.
    template <class T>
    void plane(const T* grad, const T* packed, T* d_input, Shape s) const {
        constexpr int64_t L = Vector<T>::lanes;
        const Shape g = tile();
        each([&](int64_t a, int64_t b, Taps down, Taps across, const int64_t* base, int64_t at) {
            // inputs y = stride i + phase that are inside: padding <= y < padding + height
            const auto begin = [&](int64_t phase) { return (j.padding - phase + j.stride - 1) / j.stride; };
            const auto end = [&](int64_t phase, int64_t size) { return (j.padding + size - 1 - phase) / j.stride + 1; };
            const int64_t y = begin(a), x = begin(b);
            const int64_t rows = end(a, j.in_height) - y, columns = end(b, j.in_width) - x;
            const int64_t top = y - base[0] - (down.count - 1) * down.dilation;
            const int64_t left = x - base[1] - (across.count - 1) * across.dilation;
            convolve_plane<T, 1>(grad + g.at<T>(top, left), g.columns(), packed + at * L, down, across,
                                 d_input + s.at<T>(j.stride * y + a - j.padding, j.stride * x + b - j.padding),
                                 j.stride * s.columns() * L, j.stride * L, rows, columns, L, true);
        });
    }

    const Job& j;
};

// The jobs from `first` on that share their input's tile and its gradient.
inline int64_t group_end(const Job* jobs, int64_t first, int64_t n) {
    int64_t end = first + 1;
    if (jobs[first].weight)
        while (end < n && jobs[end].weight && jobs[end].input == jobs[first].input &&
               jobs[end].d_input == jobs[first].d_input && jobs[end].relu_input == jobs[first].relu_input)
            ++end;
    return end;
}

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

// The convolution of one image, whose tile is given.
template <class T>
void convolve(const Job& j, const T* tile, Shape s, const T* kernel, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    const auto plane = j.stride == 1 ? convolve_plane<T, 1> : convolve_plane<T, 2>;
    const Taps taps = every_tap(j);
    for (int64_t b = 0; b < s.template planes<T>(); ++b)
        plane(tile + b * s.template plane<T>() + s.template at<T>(-j.padding, -j.padding), s.columns(),
              kernel + b * j.kernel * j.kernel * L, taps, taps, to + b * L, j.width * j.channels, j.channels,
              j.height, j.width, j.channels - b * L, false);
}

// What a projection without a convolution reads: the image, or its ReLU in `room`.
template <class T>
const T* read(const Job& j, int64_t i, T* room) {
    const T* image = in<T>(j.input, i, Size<T>::input(j));
    if (!j.relu_input) return image;
    copy_where_positive(image, image, Size<T>::input(j), room);
    return room;
}

// --- FactorizedReduce: grid 0 are the even rows and columns of the image, grid 1 the odd ones -------------------------

// Call f(pixel of the image, or -1 outside, and pixel of the grid), row by row.
template <class F>
INLINE void each_of_grid(const Job& j, int64_t grid, F f) {
    for (int64_t y = 0; y < j.height; ++y)
        for (int64_t x = 0; x < j.width; ++x) {
            const int64_t row = 2 * y + grid, column = 2 * x + grid;
            const bool inside = row < j.in_height && column < j.in_width;
            f(inside ? row * j.in_width + column : -1, y * j.width + x);
        }
}

// to = the grid of the image, or of its ReLU.
template <class T>
void gather_grid(const Job& j, const T* image, int64_t grid, T* to) {
    const int64_t channels = j.channels;
    each_of_grid(j, grid, [=](int64_t from, int64_t pixel) __attribute__((always_inline)) {
        for (int64_t c = 0; c < channels; ++c) {
            const T value = from < 0 ? T(0) : image[from * channels + c];
            to[pixel * channels + c] = j.relu_input && value <= 0 ? T(0) : value;
        }
    });
}

// d_image += the gradient by a grid, at its place.
template <class T>
void scatter_grid(const Job& j, const T* d_grid, const T* image, int64_t grid, T* d_image) {
    const int64_t channels = j.channels;
    each_of_grid(j, grid, [=](int64_t to, int64_t pixel) __attribute__((always_inline)) {
        for (int64_t c = 0; to >= 0 && c < channels; ++c) {
            const int64_t at = to * channels + c;
            d_image[at] += j.relu_input && image[at] <= 0 ? T(0) : d_grid[pixel * channels + c];
        }
    });
}

template <class T>
void pack_grids(const Job& j, T* to) {
    const int64_t part = Size<T>::part(j);
    for (int64_t grid = 0; grid < 2; ++grid)
        pack_matrix(static_cast<const T*>(j.projection) + grid * part * j.channels, j.channels, part, true,
                    to + grid * j.channels * Size<T>::up(part));
}

template <class T>
void project_grids(const Job& j, const T* image, const T* matrix, T* room, T* result) {
    const int64_t part = Size<T>::part(j);
    for (int64_t grid = 0; grid < 2; ++grid) {
        gather_grid(j, image, grid, room);
        multiply(room, j.channels, Size<T>::pixels(j), j.channels, matrix + grid * j.channels * Size<T>::up(part), part,
                 Sink<T>{result + grid * part, j.outputs, Vector<T>::lanes, part});
    }
}

// The gradients by the projection, d_matrix, and by the image, to which they are added; the latter may be null.
template <class T>
void through_grids(const Job& j, const T* image, const T* d_result, const T* matrix, T* room, T* d_image, T* d_matrix) {
    const int64_t part = Size<T>::part(j), pixels = Size<T>::pixels(j), width = Size<T>::up(j.channels);
    for (int64_t grid = 0; grid < 2; ++grid) {
        const T* d_part = d_result + grid * part;
        if (j.d_projection) {
            gather_grid(j, image, grid, room);
            gram(d_part, j.outputs, part, room, j.channels, pixels, d_matrix + grid * part * width);
        }
        if (!d_image) continue;
        multiply(d_part, j.outputs, pixels, part, matrix + grid * part * width, j.channels,
                 Sink<T>::image(room, j.channels));
        scatter_grid(j, room, image, grid, d_image);
    }
}

// --- the passes -------------------------------------------------------------------------------------------------------

// result = projection (convolution (input)) or pool (input), and its mean and variance over all images.
template <class T>
void transform(const Job* jobs, int64_t n) {
    using S = Size<T>;
    const int64_t batch = jobs[0].batch;
    const Parts kernels(jobs, n, S::kernel), matrices(jobs, n, S::transposed), between(jobs, n, S::between);
    const Parts periods(jobs, n, S::period);
    Array<T> kernel(kernels.size()), matrix(matrices.size());
    for (int64_t k = 0; k < n; ++k) {
        const Job& j = jobs[k];
        if (j.weight) pack_kernel(j, &kernel[kernels[k]]);
        if (j.factorized)
            pack_grids(j, &matrix[matrices[k]]);
        else if (j.projection)
            pack_matrix(static_cast<const T*>(j.projection), j.channels, j.outputs, true, &matrix[matrices[k]]);
    }
    PerImage means(jobs, n), deviations(jobs, n);
    const int64_t tile_size = largest_tile<T>(jobs, n);
#pragma omp parallel
    {
        T* tile = scratch<T>(tile_size + between.largest() + 3 * periods.largest());
        T* kept = tile + tile_size;
        T* room = kept + between.largest();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; ++i)
            for (int64_t first = 0, end; first < n; first = end) {
                end = group_end(jobs, first, n);
                const Shape s = tile_of(jobs, first, end);
                if (jobs[first].weight)
                    fill<T>(tile, s, in<T>(jobs[first].input, i, S::input(jobs[first])), jobs[first].relu_input);
                for (int64_t k = first; k < end; ++k) {
                    const Job& j = jobs[k];
                    T* result = out<T>(j.result, i, S::result(j));
                    if (j.pool) {
                        pool(j, in<T>(j.input, i, S::input(j)), result);
                    } else if (j.factorized) {
                        project_grids(j, in<T>(j.input, i, S::input(j)), &matrix[matrices[k]], kept, result);
                    } else {
                        if (j.weight) convolve(j, tile, s, &kernel[kernels[k]], kept);
                        const T* z = j.weight ? kept : read(j, i, kept);
                        multiply(z, j.channels, S::pixels(j), j.channels, &matrix[matrices[k]], j.outputs,
                                 Sink<T>::image(result, j.outputs));
                    }
                    if (j.mean) moments(result, j.outputs, S::result(j), room, means(i, k), deviations(i, k));
                }
            }
    }
    for (int64_t k = 0; k < n; ++k)
        for (int64_t c = 0; jobs[k].mean && c < jobs[k].outputs; ++c) {
            double mean = 0, within = 0, across = 0;
            for (int64_t i = 0; i < batch; ++i) mean += means(i, k)[c] / batch;
            for (int64_t i = 0; i < batch; ++i) {
                const double d = means(i, k)[c] - mean;
                within += deviations(i, k)[c];
                across += d * d;
            }
            static_cast<T*>(jobs[k].mean)[c] = T(mean);
            static_cast<T*>(jobs[k].variance)[c] = T((within / S::pixels(jobs[k]) + across) / batch);
        }
}

// output = the sum over the jobs that share it of strength * result + offset; through a ReLU if asked for.
template <class T>
void combine(const Job* jobs, int64_t n) {
    using S = Size<T>;
    const Parts periods(jobs, n, S::period);
    Array<T> strength(periods.size()), offset(periods.size());
    for (int64_t k = 0; k < n; ++k) {
        Periodic<T>::repeat(jobs[k].strength, jobs[k].outputs, &strength[periods[k]]);
        Periodic<T>::repeat(jobs[k].offset, jobs[k].outputs, &offset[periods[k]]);
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < jobs[0].batch; ++i)
        for (int64_t first = 0, end; first < n; first = end) {
            for (end = first + 1; end < n && jobs[end].output == jobs[first].output;) ++end;
            const int64_t period = S::period(jobs[first]), size = S::result(jobs[first]);
            const int64_t chunk = up_to(8192 / sizeof(T), period);  // of the output, so that it stays in the first cache
            for (int64_t begin = 0; begin < size; begin += chunk)
                for (int64_t k = first; k < end; ++k)
                    scale_and_shift(in<T>(jobs[k].result, i, size) + begin, &strength[periods[k]], &offset[periods[k]],
                                    period, begin + chunk < size ? chunk : size - begin,
                                    out<T>(jobs[k].output, i, size) + begin, k > first,
                                    k + 1 == end && jobs[k].relu_output);
        }
}

// products = sum of grad * result and totals = sum of grad, over all pixels.
template <class T>
void reduce(const Job* jobs, int64_t n) {
    using S = Size<T>;
    const int64_t batch = jobs[0].batch;
    const Parts periods(jobs, n, S::period);
    PerImage totals(jobs, n), products(jobs, n);
#pragma omp parallel
    {
        T* room = scratch<T>(2 * periods.largest());
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; ++i)
            for (int64_t k = 0; k < n; ++k) {
                const Job& j = jobs[k];
                const int64_t size = S::result(j);
                sum_gradients(in<T>(j.grad, i, size), in<T>(j.mask, i, size), in<T>(j.result, i, size), j.outputs, size,
                              room, totals(i, k), products(i, k));
            }
    }
    for (int64_t k = 0; k < n; ++k)
        for (int64_t c = 0; c < jobs[k].outputs; ++c) {
            double total = 0, product = 0;
            for (int64_t i = 0; i < batch; ++i) {
                total += totals(i, k)[c];
                product += products(i, k)[c];
            }
            static_cast<T*>(jobs[k].totals)[c] = T(total);
            static_cast<T*>(jobs[k].products)[c] = T(product);
        }
}

// The gradient by the result of one image's projection.
template <class T>
void by_result(const Job& j, int64_t i, const T* coefficients, T* to) {
    const int64_t size = Size<T>::result(j), period = Size<T>::period(j);
    mix(in<T>(j.grad, i, size), in<T>(j.mask, i, size), in<T>(j.result, i, size), coefficients, coefficients + period,
        coefficients + 2 * period, period, size, to);
}

// The gradients of one image where there is no convolution: a projection, a pool, or only a value; `add` to that by the
// input.
template <class T>
void without_convolution(const Job& j, int64_t i, const T* coefficients, const T* matrix, bool add, T* kept, T* d_result,
                        T* d_matrix) {
    using S = Size<T>;
    T* to = out<T>(j.d_input, i, S::input(j));
    if (j.pool) {
        if (!to) return;
        by_result(j, i, coefficients, d_result);
        if (!add) std::memset(to, 0, S::input(j) * sizeof(T));
        through_pool(j, in<T>(j.input, i, S::input(j)), in<T>(j.result, i, S::result(j)), d_result, to);
        return;
    }
    if (!j.projection) {
        const int64_t period = S::period(j);
        if (to)
            scale_and_shift(in<T>(j.grad, i, S::result(j)), coefficients, coefficients + 2 * period, period,
                            S::result(j), to, add, false);
        return;
    }
    by_result(j, i, coefficients, d_result);
    if (j.factorized) {
        if (to && !add) std::memset(to, 0, S::input(j) * sizeof(T));
        through_grids(j, in<T>(j.input, i, S::input(j)), d_result, matrix, kept, to, d_matrix);
        return;
    }
    if (j.d_projection) gram(d_result, j.outputs, j.outputs, read(j, i, kept), j.channels, S::pixels(j), d_matrix);
    if (!to) return;
    T* direct = add ? kept : to;
    multiply(d_result, j.outputs, S::pixels(j), j.outputs, matrix, j.channels, Sink<T>::image(direct, j.channels));
    if (j.relu_input) copy_where_positive(direct, in<T>(j.input, i, S::input(j)), S::input(j), direct);
    for (int64_t p = 0; add && p < S::input(j); ++p) to[p] += kept[p];
}

// From the gradient by the result to those by projection, kernel and input.
template <class T>
void backpropagate(const Job* jobs, int64_t n) {
    constexpr int64_t L = Vector<T>::lanes;
    using S = Size<T>;
    const Parts kernels(jobs, n, S::kernel), matrices(jobs, n, S::projection), periods(jobs, n, S::period);
    const Parts between(jobs, n, S::between), results(jobs, n, S::result);
    const Parts gradients(jobs, n, [](const Job& j) { return j.weight ? Gather(j).tile().template size<T>() : 0; });
    Array<T> kernel(kernels.size()), turned(kernels.size()), matrix(matrices.size()), coefficients(3 * periods.size());
    Array<bool> adds(n);  // whether something was written to its d_input before
    for (int64_t k = 0; k < n; ++k) {
        const Job& j = jobs[k];
        adds[k] = j.adds;
        for (int64_t before = 0; before < k; ++before) adds[k] = adds[k] || jobs[before].d_input == j.d_input;
        if (j.weight) {
            pack_kernel(j, &kernel[kernels[k]]);
            Gather(j).pack(&turned[kernels[k]]);
        }
        if (j.projection)
            pack_matrix(static_cast<const T*>(j.projection), j.outputs, j.channels, false, &matrix[matrices[k]]);
        T* at = &coefficients[3 * periods[k]];
        const void* given[] = {j.by_grad, j.by_result, j.constant};
        for (const void* values : given) {
            Periodic<T>::repeat(values, j.outputs, at);
            at += S::period(j);
        }
    }
    Sums<T> kernel_sums(kernels.size()), matrix_sums(matrices.size());
    const int64_t tile_size = largest_tile<T>(jobs, n);
#pragma omp parallel
    {
        T* input = scratch<T>(2 * tile_size + gradients.largest() + between.largest() + results.largest());
        T* d_input = input + tile_size;
        T* d_z = d_input + tile_size;
        T* kept = d_z + gradients.largest();
        T* d_result = kept + between.largest();
        T* d_kernels = kernel_sums.own();
        T* d_matrices = matrix_sums.own();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < jobs[0].batch; ++i)
            for (int64_t first = 0, end; first < n; first = end) {
                end = group_end(jobs, first, n);
                const Job& head = jobs[first];
                if (!head.weight) {
                    without_convolution(head, i, &coefficients[3 * periods[first]], &matrix[matrices[first]],
                                        adds[first], kept, d_result, d_matrices + matrices[first]);
                    continue;
                }
                const Shape s = tile_of(jobs, first, end);
                bool is_read = head.relu_input && head.d_input;
                for (int64_t k = first; k < end; ++k) is_read = is_read || jobs[k].d_weight || jobs[k].d_projection;
                if (is_read) fill<T>(input, s, in<T>(head.input, i, S::input(head)), head.relu_input);
                if (head.d_input) std::memset(d_input, 0, s.template size<T>() * sizeof(T));
                for (int64_t k = first; k < end; ++k) {
                    const Job& j = jobs[k];
                    by_result(j, i, &coefficients[3 * periods[k]], d_result);
                    if (j.d_projection) {  // the convolution's result was not kept
                        convolve(j, input, s, &kernel[kernels[k]], kept);
                        gram(d_result, j.outputs, j.outputs, kept, j.channels, S::pixels(j), d_matrices + matrices[k]);
                    }
                    if (!j.d_weight && !j.d_input) continue;
                    const Gather gather(j);
                    const Shape g = gather.tile();
                    clear_border(d_z, g);
                    for (int64_t y = 0; y < j.height; ++y)
                        multiply(d_result + y * j.width * j.outputs, j.outputs, j.width, j.outputs, &matrix[matrices[k]],
                                 j.channels, Sink<T>::tile(d_z + g.template at<T>(y, 0), g));
                    const int64_t taps = j.kernel * j.kernel;
                    for (int64_t b = 0; b < s.template planes<T>(); ++b) {
                        const T* plane = d_z + b * g.template plane<T>();
                        const int64_t corner = b * s.template plane<T>() + s.template at<T>(-j.padding, -j.padding);
                        const int64_t own = kernels[k] + b * taps * L;
                        if (j.d_weight) {
                            const auto tally = j.stride == 1 ? tally_plane<T, 1> : tally_plane<T, 2>;
                            tally(input + corner, s.columns(), plane + g.template at<T>(0, 0), g.columns(), j.kernel,
                                  j.dilation, d_kernels + own, j.height, j.width);
                        }
                        if (j.d_input) gather.plane(plane, &turned[own], d_input + b * s.template plane<T>(), s);
                    }
                }
                if (head.d_input)
                    empty<T>(d_input, s, out<T>(head.d_input, i, S::input(head)), head.relu_input ? input : nullptr,
                             adds[first]);
            }
    }
    const T* kernel_total = kernel_sums.total();
    const T* matrix_total = matrix_sums.total();
    for (int64_t k = 0; k < n; ++k) {
        const Job& j = jobs[k];
        const int64_t taps = j.kernel * j.kernel;
        for (int64_t c = 0; j.d_weight && c < j.channels; ++c)
            for (int64_t t = 0; t < taps; ++t)
                static_cast<T*>(j.d_weight)[c * taps + t] = kernel_total[kernels[k] + (c / L * taps + t) * L + c % L];
        for (int64_t o = 0; j.d_projection && o < j.outputs; ++o)
            std::memcpy(static_cast<T*>(j.d_projection) + o * j.channels,
                        matrix_total + matrices[k] + o * S::up(j.channels), j.channels * sizeof(T));
    }
}

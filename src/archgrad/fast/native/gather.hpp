// The gradient of one image through a depthwise convolution.
// Included once for each instruction set, inside a namespace of its own.

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

    // Whether all of the input is reached at once.
    bool is_whole() const { return j.stride == 1; }

    // Add one plane's gradient by the input to that of an input tile; or write it there, if it is whole.
    template <class T>
    void plane(const T* grad, const T* packed, T* d_input, Shape s, bool add, Ahead& ahead) const {
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
                                 j.stride * s.columns() * L, j.stride * L, rows, columns, L, add, ahead);
        });
    }

    const Job& j;
};

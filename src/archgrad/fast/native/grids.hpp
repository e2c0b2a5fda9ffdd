// FactorizedReduce of one image: grid 0 are the even rows and columns of the image, grid 1 the odd ones.
// Included once for each instruction set, inside a namespace of its own.

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
void project_grids(const Job& j, const T* image, const T* matrix, T* room, T* result, Ahead& ahead) {
    const int64_t part = Size<T>::part(j);
    for (int64_t grid = 0; grid < 2; ++grid) {
        gather_grid(j, image, grid, room);
        multiply(room, j.channels, Size<T>::pixels(j), j.channels, matrix + grid * j.channels * Size<T>::up(part), part,
                 Sink<T>{result + grid * part, j.outputs, Vector<T>::lanes, part}, ahead);
    }
}

// The gradients by the projection, d_matrix, and by the image, to which they are added; the latter may be null.
template <class T>
void through_grids(const Job& j, const T* image, const T* d_result, const T* matrix, T* room, T* d_image, T* d_matrix, Ahead& ahead) {
    const int64_t part = Size<T>::part(j), pixels = Size<T>::pixels(j), width = Size<T>::up(j.channels);
    for (int64_t grid = 0; grid < 2; ++grid) {
        const T* d_part = d_result + grid * part;
        if (j.d_projection) {
            gather_grid(j, image, grid, room);
            gram(d_part, j.outputs, part, room, j.channels, pixels, d_matrix + grid * part * width);
        }
        if (!d_image) continue;
        multiply(d_part, j.outputs, pixels, part, matrix + grid * part * width, j.channels,
                 Sink<T>::image(room, j.channels), ahead);
        scatter_grid(j, room, image, grid, d_image);
    }
}

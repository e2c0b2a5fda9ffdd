// Pools of one image, and their gradients. What lies outside the image is left out of a window, but for padded means, to
// which it is zeros.
// Included once for each instruction set, inside a namespace of its own.

struct Span {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

// The inputs along one axis that output number i of a pool reads.
INLINE Span window(const Job& j, int64_t i, int64_t size) {
    const int64_t begin = i * j.stride - j.padding;
    return {larger(begin, 0), smaller(begin + j.kernel, size)};
}

// By how much a mean divides whose window has so many rows and columns inside the image.
INLINE int64_t divisor(const Job& j, int64_t rows, int64_t columns) {
    return j.pool == PADDED_MEAN ? j.kernel * j.kernel : rows * columns;
}

template <class T>
INLINE Vec<T> greater(Vec<T> v, Vec<T> than) {
    return (v > than) | (v != v) ? v : than;  // what is not a number must not be hidden
}

// One row of a pool, one vector of channels; the rows of its window are given. Columns are pooled down first.
template <class T, bool MAXIMUM>
INLINE void pool_row(const Job& j, const T* image, Span rows, int64_t n, T* to) {
    const auto column = [&](int64_t x) __attribute__((always_inline)) {
        const T* at = image + (rows.begin * j.in_width + x) * j.channels;
        Vec<T> found = load(at, n);
        for (int64_t y = rows.begin + 1; y < rows.end; ++y) {
            at += j.in_width * j.channels;
            found = MAXIMUM ? greater<T>(load(at, n), found) : found + load(at, n);
        }
        return found;
    };
    const auto both = [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) {
        return MAXIMUM ? greater<T>(b, a) : a + b;
    };
    const auto write = [&](int64_t x, Vec<T> v, int64_t columns) __attribute__((always_inline)) {
        store(to + x * j.channels, MAXIMUM ? v : v * (T(1) / divisor(j, rows.size(), columns)), n);
    };
    int64_t x = 0;
    if (j.kernel == 3 && j.padding == 1 && j.stride == 1 && j.width > 2) {  // neighbours share two columns
        Vec<T> before = column(0), here = column(1);
        write(0, both(before, here), 2);
        for (x = 1; x + 1 < j.width; ++x) {
            const Vec<T> after = column(x + 1);
            write(x, both(both(before, here), after), 3);
            before = here;
            here = after;
        }
    }
    for (; x < j.width; ++x) {
        const Span columns = window(j, x, j.in_width);
        Vec<T> found = column(columns.begin);
        for (int64_t c = columns.begin + 1; c < columns.end; ++c) found = both(found, column(c));
        write(x, found, columns.size());
    }
}

template <class T>
void pool(const Job& j, const T* image, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    for (int64_t y = 0; y < j.height; ++y)
        for (int64_t c = 0; c < j.channels; c += L) {
            const Span rows = window(j, y, j.in_height);
            T* row = to + y * j.width * j.channels + c;
            const int64_t n = j.channels - c;
            if (j.pool == MAX && n >= L)
                pool_row<T, true>(j, image + c, rows, L, row);
            else if (j.pool == MAX)
                pool_row<T, true>(j, image + c, rows, n, row);
            else if (n >= L)
                pool_row<T, false>(j, image + c, rows, L, row);
            else
                pool_row<T, false>(j, image + c, rows, n, row);
        }
}

// What one output gives to its window; of several greatest values the first gets it.
template <class T, bool MAXIMUM>
INLINE void give(const Job& j, const T* image, Span rows, Span columns, Vec<T> greatest, Vec<T> rest, int64_t n,
                 T* d_image) {
    if (!MAXIMUM) rest *= T(1) / divisor(j, rows.size(), columns.size());
    for (int64_t y = rows.begin; y < rows.end; ++y)
        for (int64_t x = columns.begin; x < columns.end; ++x) {
            const int64_t at = (y * j.in_width + x) * j.channels;
            if (!MAXIMUM) {
                store(d_image + at, load(d_image + at, n) + rest, n);
                continue;
            }
            const auto is_it = load(image + at, n) == greatest;
            store(d_image + at, load(d_image + at, n) + (is_it ? rest : Vec<T>{}), n);
            rest = is_it ? Vec<T>{} : rest;
        }
}

// The same for a row of outputs with windows of 3 columns one apart: each column's sums wait in registers for all three.
template <class T, bool MAXIMUM, int ROWS>
INLINE void give_row(const Job& j, const T* image, int64_t top, const T* result, const T* grad, T* d_image) {
    const int64_t row = j.in_width * j.channels;
    image += top * row;
    d_image += top * row;
    Vec<T> left[ROWS] = {}, middle[ROWS] = {};  // sums for the columns x - 1 and x
    const auto flush = [&](int64_t x, Vec<T>* sums) __attribute__((always_inline)) {
        UNROLL for (int r = 0; r < ROWS; ++r) {
            T* at = d_image + r * row + x * j.channels;
            store(at, load(at) + sums[r]);
        }
    };
    for (int64_t x = 0; x < j.width; ++x) {
        Vec<T> right[ROWS] = {};
        Vec<T> rest = load(grad + x * j.channels);
        const bool has_left = x > 0, has_right = x + 1 < j.width;
        if (MAXIMUM) {
            const Vec<T> greatest = load(result + x * j.channels);
            const auto take = [&](const T* at, Vec<T>& sum) __attribute__((always_inline)) {
                const auto is_it = load(at) == greatest;
                sum += is_it ? rest : Vec<T>{};
                rest = is_it ? Vec<T>{} : rest;
            };
            UNROLL for (int r = 0; r < ROWS; ++r) {
                const T* at = image + r * row + x * j.channels;
                if (has_left) take(at - j.channels, left[r]);
                take(at, middle[r]);
                if (has_right) take(at + j.channels, right[r]);
            }
        } else {
            rest *= T(1) / divisor(j, ROWS, 1 + has_left + has_right);
            UNROLL for (int r = 0; r < ROWS; ++r) {
                left[r] += rest;
                middle[r] += rest;
                right[r] += rest;
            }
        }
        if (has_left) flush(x - 1, left);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            left[r] = middle[r];
            middle[r] = right[r];
        }
    }
    flush(j.width - 1, left);
}

template <class T, bool MAXIMUM>
void give_all(const Job& j, const T* image, const T* result, const T* grad, T* d_image) {
    constexpr int64_t L = Vector<T>::lanes;
    for (int64_t y = 0; y < j.height; ++y) {
        const Span rows = window(j, y, j.in_height);
        for (int64_t c = 0; c < j.channels; c += L) {
            const int64_t n = j.channels - c, first = y * j.width * j.channels + c;
            const bool neighbours = j.kernel == 3 && j.padding == 1 && j.stride == 1 && n >= L;
            if (neighbours && rows.size() == 3) {
                give_row<T, MAXIMUM, 3>(j, image + c, rows.begin, result + first, grad + first, d_image + c);
            } else if (neighbours && rows.size() == 2) {
                give_row<T, MAXIMUM, 2>(j, image + c, rows.begin, result + first, grad + first, d_image + c);
            } else {
                for (int64_t x = 0; x < j.width; ++x) {
                    const int64_t at = first + x * j.channels;
                    give<T, MAXIMUM>(j, image + c, rows, window(j, x, j.in_width), load(result + at, n),
                                     load(grad + at, n), n, d_image + c);
                }
            }
        }
    }
}

// d_image += the gradient through the pool.
template <class T>
void through_pool(const Job& j, const T* image, const T* result, const T* grad, T* d_image) {
    if (j.pool == MAX)
        give_all<T, true>(j, image, result, grad, d_image);
    else
        give_all<T, false>(j, image, result, grad, d_image);
}

/* Vectors of REAL (float or double) as wide as the processor's, and matrix products of a few dozen columns.
 *
 * A matrix row of n numbers is stored as whole vectors: it takes `padded(n)` numbers, of which the first n are used.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined __AVX512F__ /* bytes in a vector; size of a product's tile, which fills the registers */
enum { BYTES = 64, ROWS = 6, COLUMNS = 4 };
#elif defined __AVX__
enum { BYTES = 32, ROWS = 6, COLUMNS = 2 };
#elif defined __aarch64__
enum { BYTES = 16, ROWS = 6, COLUMNS = 4 };
#else
enum { BYTES = 16, ROWS = 6, COLUMNS = 2 };
#endif

#ifdef DOUBLE
typedef double REAL;
typedef int64_t INT;
enum { TERMS = 13, FRACTION = 52, BIAS = 1023, LEAST = -708 };
#define SQRT sqrt
#else
typedef float REAL;
typedef int32_t INT;
enum { TERMS = 7, FRACTION = 23, BIAS = 127, LEAST = -87 };
#define SQRT sqrtf
#endif

enum { LANES = BYTES / sizeof(REAL) };
typedef REAL vec __attribute__((vector_size(BYTES)));
typedef INT ivec __attribute__((vector_size(BYTES)));

static inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static inline vec load(const REAL *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(REAL *p, vec v) { memcpy(p, &v, sizeof v); }

/* exp(x) for x <= 0: 2^n times the Taylor polynomial of the remainder, at most ln(2)/2 (Cephes' split of ln 2). NaN stays
 * NaN. */
static inline vec exponential(vec x) {
    const REAL rounding = (REAL)1.5 * (REAL)((int64_t)1 << FRACTION); /* adding and subtracting this rounds to an integer */
    vec n = (x * (REAL)1.4426950408889634 + rounding) - rounding;
    vec r = x - n * (REAL)0.693145751953125;
    r -= n * (REAL)1.42860682030941723212e-6;
    vec p = (vec){0} + (REAL)1;
    for (int k = TERMS; k > 0; k--) p = p * r * ((REAL)1 / (REAL)k) + (REAL)1;
    ivec power = (__builtin_convertvector(n, ivec) + (INT)BIAS) << (INT)FRACTION;
    return (vec)((ivec)(p * (vec)power) & ~(x < (REAL)LEAST));
}

/* One tile of c = bias + a b, with all of its sums in registers; element (i, l) of a is a[i*row_stride + l*col_stride]. */
static inline __attribute__((always_inline)) void tile(int rows, int columns, int64_t inner, const REAL *a,
                                                       int64_t row_stride, int64_t col_stride, const REAL *b, int64_t ldb,
                                                       const REAL *bias, REAL *c, int64_t ldc) {
    vec sum[ROWS][COLUMNS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sum[i][j] = bias ? load(bias + j * LANES) : (vec){0};
    for (int64_t l = 0; l < inner; l++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                sum[i][j] += a[i * row_stride + l * col_stride] * load(b + l * ldb + j * LANES);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) store(c + i * ldc + j * LANES, sum[i][j]);
}

/* c [m, n] = bias [n] + a [m, inner] b [inner, n]; n a multiple of LANES, bias 0: none. */
static void product(int64_t m, int64_t n, int64_t inner, const REAL *a, int64_t row_stride, int64_t col_stride,
                    const REAL *b, int64_t ldb, const REAL *bias, REAL *c, int64_t ldc) {
    for (int64_t j = 0, columns; j < n; j += columns * LANES) {
        columns = (n - j) / LANES < COLUMNS ? (n - j) / LANES : COLUMNS;
        for (int64_t i = 0, rows; i < m; i += rows) {
            rows = m - i < ROWS ? m - i : ROWS;
            switch (rows * 8 + columns) {
#define TILE(r, k)                                                                                              \
    case (r) * 8 + (k):                                                                                         \
        tile(r, k, inner, a + i * row_stride, row_stride, col_stride, b + j, ldb, bias ? bias + j : 0,          \
             c + i * ldc + j, ldc);                                                                             \
        break;
#if defined __AVX512F__ || defined __aarch64__
#define TILES(r) TILE(r, 1) TILE(r, 2) TILE(r, 3) TILE(r, 4)
#else
#define TILES(r) TILE(r, 1) TILE(r, 2)
#endif
                TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
            }
        }
    }
}

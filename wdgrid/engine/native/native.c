/* Training of K multilayer perceptrons, a cell at a time: all that a cell's step touches stays in a core's cache.
 *
 * A network is a row of layers on features: linear, batch norm, ReLU; its loss is the mean cross-entropy. Weights,
 * moments and statistics are the engine's own [cells, ...] tensors, and wdgrid/engine/native.py hands them over with all
 * the memory that is worked in. Built where wdgrid runs, without -ffast-math: what is not a number has to come through.
 * A cell's result depends on nothing but the cell. The update rules are those of wdgrid/optim/algorithms.py, which has their sources.
 */
#include "vectors.h"

enum { LINEAR, NORM, RELU };
enum { SGD, ADAM, KALMAN };

typedef struct {
    int64_t kind, inputs, outputs;
    int64_t weight, bias;  /* columns of theta where they begin (norm: scale, shift); bias -1: none */
    double momentum, eps;
    REAL *mean, *variance; /* norm: running statistics [cells, outputs] */
    REAL *out;             /* activations [rows, padded(outputs)] */
    REAL *normal, *scale;  /* norm: normalised input, as `out`; 1/deviation [padded(outputs)] */
    REAL *turned;          /* linear: weights [inputs, padded(outputs)] */
} Layer;

typedef struct {
    int64_t layers, cells, width; /* width: columns of theta [cells, width] */
    const Layer *layer;
    REAL *theta, *gradient;       /* gradient [width]: of the cell at work */
    int64_t rows;                 /* images that go through the network together, at most */
    REAL *back, *next;            /* gradients of activations [rows, padded(widest)] */
    REAL *sums, *spare;           /* [padded(widest)], and [widest, padded(widest)] */
} Network;

typedef struct {
    int64_t kind, inside, l2, library; /* rate inside of the momentum; decay in the gradient; decay times the rate */
    REAL *first, *second;              /* moments [cells, width]; SGD and the filter have one */
    const double *lr, *weight_decay, *beta1, *beta2, *eps; /* [cells] */
    int64_t parts;                                         /* columns end at ends[p], where lambda counts times[p] */
    const int64_t *ends;
    const double *times;
} Rule;

typedef struct {
    int64_t steps, images, first; /* first: steps done before */
    const REAL *x;                /* [steps, images, padded(inputs)] */
    const int64_t *y;             /* [steps, images] */
    const double *eta, *decay;    /* [steps] */
} Batches;

int64_t lanes(void) { return LANES; }

/* ---- forward ---- */

static void turn(const Layer *l, const REAL *restrict w, REAL *restrict turned) {
    int64_t ld = padded(l->outputs);
    for (int64_t i = 0; i < l->inputs; i++)
        for (int64_t o = 0; o < l->outputs; o++) turned[i * ld + o] = w[o * l->inputs + i];
}

static void turn_all(const Network *net, const REAL *theta) {
    for (const Layer *l = net->layer; l < net->layer + net->layers; l++)
        if (l->kind == LINEAR) turn(l, theta + l->weight, l->turned);
}

static void linear(const Network *net, const Layer *l, const REAL *theta, const REAL *x, int64_t n) {
    int64_t ld = padded(l->outputs);
    if (l->bias >= 0) memcpy(net->sums, theta + l->bias, l->outputs * sizeof *theta); /* its end may not be readable */
    product(n, ld, l->inputs, x, padded(l->inputs), 1, l->turned, ld, l->bias < 0 ? 0 : net->sums, l->out, ld);
}

/* Batch norm by the statistics of the batch, in two passes, as torch does. */
static void norm(const Layer *l, int64_t k, const REAL *theta, const REAL *restrict x, int64_t n, REAL *restrict mean) {
    int64_t f = l->outputs, ld = padded(f);
    REAL *restrict out = l->out, *restrict normal = l->normal, *restrict scale = l->scale;
    REAL *restrict running = l->mean + k * f, *restrict spread = l->variance + k * f;
    const REAL *gamma = theta + l->weight, *beta = theta + l->bias;
    REAL part = l->momentum, eps = l->eps;
    memset(mean, 0, f * sizeof *mean);
    memset(scale, 0, f * sizeof *scale);
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) mean[j] += x[b * ld + j];
    for (int64_t j = 0; j < f; j++) mean[j] /= n;
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) scale[j] += (x[b * ld + j] - mean[j]) * (x[b * ld + j] - mean[j]);
    for (int64_t j = 0; j < f; j++) {
        running[j] = (1 - part) * running[j] + part * mean[j];
        spread[j] = (1 - part) * spread[j] + part * (scale[j] / (n - 1));
        scale[j] = 1 / SQRT(scale[j] / n + eps);
    }
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) {
            normal[b * ld + j] = (x[b * ld + j] - mean[j]) * scale[j];
            out[b * ld + j] = normal[b * ld + j] * gamma[j] + beta[j];
        }
}

/* Batch norm by the running statistics. */
static void norm_in_test(const Layer *l, int64_t k, const REAL *theta, const REAL *restrict x, int64_t n) {
    int64_t f = l->outputs, ld = padded(f);
    REAL *restrict out = l->out, *restrict scale = l->scale, eps = l->eps;
    const REAL *mean = l->mean + k * f, *variance = l->variance + k * f;
    const REAL *gamma = theta + l->weight, *beta = theta + l->bias;
    for (int64_t j = 0; j < f; j++) scale[j] = gamma[j] / SQRT(variance[j] + eps);
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) out[b * ld + j] = (x[b * ld + j] - mean[j]) * scale[j] + beta[j];
}

/* Logits [n, padded(classes)] of x [n, padded(inputs)], after `turn_all`. */
static REAL *forward(const Network *net, int64_t k, const REAL *theta, const REAL *x, int64_t n, int training) {
    REAL *restrict out = 0;
    for (const Layer *l = net->layer; l < net->layer + net->layers; l++, x = out) {
        out = l->out;
        if (l->kind == LINEAR)
            linear(net, l, theta, x, n);
        else if (l->kind == NORM && training)
            norm(l, k, theta, x, n, net->sums);
        else if (l->kind == NORM)
            norm_in_test(l, k, theta, x, n);
        else
            for (int64_t j = 0; j < n * padded(l->outputs); j++) out[j] = x[j] < 0 ? 0 : x[j]; /* NaN stays */
    }
    return out;
}

/* Sum of the cross-entropies of logits [n, padded(classes)] in nats, and the misclassified; `g`, where given, becomes the
 * gradient of their mean. */
static double cross_entropy(int64_t classes, int64_t n, REAL *logits, const int64_t *y, REAL *g, int64_t *wrong) {
    int64_t ld = padded(classes);
    double loss = 0;
    for (int64_t b = 0; b < n; b++) {
        REAL *z = logits + b * ld, sum = 0;
        int64_t best = 0;
        for (int64_t c = 1; c < classes; c++)
            if (z[c] > z[best]) best = c;
        *wrong += best != y[b];
        REAL top = z[best], right = z[y[b]] - top;
        for (int64_t c = classes; c < ld; c++) z[c] = -INFINITY;
        for (int64_t c = 0; c < ld; c += LANES) store(z + c, exponential(load(z + c) - top));
        for (int64_t c = 0; c < classes; c++) sum += z[c];
        loss += log(sum) - right;
        if (!g) continue;
        REAL share = 1 / (sum * n);
        for (int64_t c = 0; c < ld; c++) g[b * ld + c] = z[c] * share;
        g[b * ld + y[b]] -= 1 / (REAL)n;
    }
    return loss;
}

/* ---- backward: net->back [n, padded(outputs)] becomes the gradient of the layer's input ---- */

static void linear_back(Network *net, const Layer *l, const REAL *theta, const REAL *x, int64_t n) {
    int64_t in = padded(l->inputs), out = padded(l->outputs);
    const REAL *g = net->back, *w = theta + l->weight;
    REAL *gradient = net->gradient + l->weight;
    int padding = in != l->inputs;
    product(l->outputs, in, n, g, 1, out, x, in, 0, padding ? net->spare : gradient, in);
    for (int64_t o = 0; padding && o < l->outputs; o++) {
        memcpy(gradient + o * l->inputs, net->spare + o * in, l->inputs * sizeof *w);
        memcpy(net->spare + o * in, w + o * l->inputs, l->inputs * sizeof *w);
    }
    if (l->bias >= 0) {
        REAL *restrict sum = net->gradient + l->bias;
        memset(sum, 0, l->outputs * sizeof *sum);
        for (int64_t b = 0; b < n; b++)
            for (int64_t j = 0; j < l->outputs; j++) sum[j] += g[b * out + j];
    }
    if (l == net->layer) return;
    product(n, in, l->outputs, g, out, 1, padding ? net->spare : w, in, 0, net->next, in);
    REAL *last = net->back;
    net->back = net->next;
    net->next = last;
}

static void norm_back(Network *net, const Layer *l, const REAL *theta, int64_t n) {
    int64_t f = l->outputs, ld = padded(f);
    const REAL *restrict normal = l->normal, *restrict scale = l->scale, *gamma = theta + l->weight;
    REAL *restrict g = net->back, *restrict dgamma = net->gradient + l->weight, *restrict dbeta = net->gradient + l->bias;
    memset(dgamma, 0, f * sizeof *g);
    memset(dbeta, 0, f * sizeof *g);
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) {
            dgamma[j] += g[b * ld + j] * normal[b * ld + j];
            dbeta[j] += g[b * ld + j];
        }
    REAL each = 1 / (REAL)n;
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++)
            g[b * ld + j] = (g[b * ld + j] - each * (dbeta[j] + normal[b * ld + j] * dgamma[j])) * scale[j] * gamma[j];
}

static void backward(Network *net, const REAL *theta, const REAL *x, int64_t n) {
    for (const Layer *l = net->layer + net->layers - 1; l >= net->layer; l--) {
        REAL *restrict g = net->back;
        const REAL *restrict out = l->out;
        if (l->kind == LINEAR)
            linear_back(net, l, theta, l > net->layer ? l[-1].out : x, n);
        else if (l->kind == NORM)
            norm_back(net, l, theta, n);
        else
            for (int64_t j = 0; j < n * padded(l->outputs); j++) g[j] = out[j] <= 0 ? 0 : g[j];
    }
}

/* ---- update rules: columns begin to end of a cell's theta; lambda counts `times` there ---- */

static void update(const Rule *r, int64_t k, int64_t begin, int64_t end, double times, REAL *restrict theta,
                   const REAL *restrict gradient, REAL *restrict m, REAL *restrict v, double eta, double decay, int64_t t) {
    double alpha = eta * r->lr[k], lambda = decay * r->weight_decay[k] * times, beta1 = r->beta1[k], beta2 = r->beta2[k];
    REAL l2 = r->l2 ? lambda : 0, keep = r->l2 ? 1 : 1 - lambda * (r->library ? alpha : eta), eps = r->eps[k];
    REAL b1 = beta1, b2 = beta2, c1 = 1 - beta1, c2 = 1 - beta2;
    if (r->kind == SGD) {
        REAL in = r->inside ? alpha : 1, out = r->inside ? 1 : alpha;
        for (int64_t i = begin; i < end; i++) {
            m[i] = b1 * m[i] + in * (gradient[i] + l2 * theta[i]);
            theta[i] = keep * theta[i] - out * m[i];
        }
    } else if (r->kind == ADAM) {
        REAL rate = alpha / (1 - pow(beta1, t)), unbias = 1 / (1 - pow(beta2, t));
        for (int64_t i = begin; i < end; i++) {
            REAL g = gradient[i] + l2 * theta[i];
            m[i] = b1 * m[i] + c1 * g;
            v[i] = b2 * v[i] + c2 * g * g;
            theta[i] = keep * theta[i] - rate * m[i] / (SQRT(v[i] * unbias) + eps);
        }
    } else {
        REAL kappa = (1 - beta2) * eta * eta, rate = alpha;
        for (int64_t i = begin; i < end; i++) {
            REAL g = gradient[i] / eps, s = m[i] + kappa * (1 - m[i]);
            m[i] = s / (1 + kappa * g * g * s);
            theta[i] = keep * theta[i] - rate * m[i] * g;
        }
    }
}

/* ---- what Python calls ---- */

/* Losses [steps, cells] of training steps. A cell whose loss is not finite is frozen before that step's update: its weights
 * and moments are zero, it is not `alive` [cells] any more, and what is left of its losses is NaN. Where `gradients`
 * [cells, width] is given, gradients go there and nothing is updated. */
void train(Network *net, const Rule *rule, const Batches *batches, uint8_t *alive, double *losses, REAL *gradients) {
    int64_t n = batches->images, inputs = padded(net->layer[0].inputs), width = net->width;
    int64_t classes = net->layer[net->layers - 1].outputs;
    for (int64_t k = 0; k < net->cells; k++)
        for (int64_t s = 0; s < batches->steps; s++) {
            double *loss = losses + s * net->cells + k;
            *loss = NAN;
            if (!alive[k]) continue;
            REAL *theta = net->theta + k * width, *m = rule->first + k * width;
            REAL *v = rule->second ? rule->second + k * width : 0;
            const REAL *x = batches->x + s * n * inputs;
            int64_t wrong = 0, begin = 0;
            turn_all(net, theta);
            REAL *logits = forward(net, k, theta, x, n, 1);
            *loss = (REAL)(cross_entropy(classes, n, logits, batches->y + s * n, net->back, &wrong) / n);
            if (!isfinite(*loss)) {
                alive[k] = 0;
                memset(theta, 0, width * sizeof *theta);
                memset(m, 0, width * sizeof *m);
                if (v) memset(v, 0, width * sizeof *v);
                continue;
            }
            backward(net, theta, x, n);
            if (gradients) {
                memcpy(gradients + k * width, net->gradient, width * sizeof *gradients);
                continue;
            }
            for (int64_t p = 0; p < rule->parts; begin = rule->ends[p++])
                update(rule, k, begin, rule->ends[p], rule->times[p], theta, net->gradient, m, v, batches->eta[s],
                       batches->decay[s], batches->first + s + 1);
        }
}

/* Misclassified images and summed losses, each [cells], of x [images, padded(inputs)], y [images]; NaN of frozen cells. */
void test(Network *net, int64_t images, const REAL *x, const int64_t *y, const uint8_t *alive, int64_t *wrong,
          double *losses) {
    int64_t inputs = padded(net->layer[0].inputs), classes = net->layer[net->layers - 1].outputs;
    for (int64_t k = 0; k < net->cells; k++) {
        const REAL *theta = net->theta + k * net->width;
        wrong[k] = 0, losses[k] = alive[k] ? 0 : NAN;
        if (!alive[k]) continue;
        turn_all(net, theta);
        for (int64_t at = 0; at < images; at += net->rows) {
            int64_t n = images - at < net->rows ? images - at : net->rows;
            REAL *logits = forward(net, k, theta, x + at * inputs, n, 0);
            losses[k] += cross_entropy(classes, n, logits, y + at, 0, wrong + k);
        }
    }
}

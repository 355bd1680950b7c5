/* Trains K MLPs, one cell after another, so that everything a cell's step touches stays in a core's cache.
 *
 * A network is a sequence of linear, batch norm and ReLU layers; its loss is the mean cross-entropy. Weights, moments and
 * statistics are the engine's own [cells, ...] tensors. wdgrid/engine/native/backend.py passes pointers to them and to all
 * working memory. The code is compiled on the machine that runs it, without -ffast-math, because NaN has to propagate.
 * A cell's result does not depend on the other cells. The update rules and their sources are in wdgrid/optim/algorithms.py.
 */
#include "vectors.h"

enum { LINEAR, NORM, RELU };
enum { SGD, ADAM, KALMAN };

typedef struct {
    int64_t kind, inputs, outputs;
    int64_t weight, bias; /* first columns in theta (norm: gamma, beta); bias -1: none */
    double momentum, eps;
    REAL *running_mean, *running_var; /* norm: [cells, outputs] */
    REAL *out;                        /* activations [rows, padded(outputs)] */
    REAL *normalised, *scale;         /* norm: normalised input, as `out`; 1/deviation [padded(outputs)] */
    REAL *transposed;                 /* linear: weights [inputs, padded(outputs)] */
} Layer;

typedef struct {
    int64_t layers, cells, width;   /* width: columns of theta [cells, width] */
    const Layer *layer;
    REAL *theta, *gradient;         /* gradient [width]: of the cell being trained */
    int64_t rows;                   /* most images that one call of `forward` takes */
    REAL *out_gradient, *in_gradient; /* of a layer's output and input [rows, padded(widest)] */
    REAL *sums, *scratch;           /* working memory: [padded(widest)], and [widest, padded(widest)] */
} Network;

typedef struct {
    int64_t kind;
    int64_t lr_in_momentum; /* the learning rate multiplies the gradient before it enters the momentum buffer */
    int64_t l2;             /* the decay term is added to the gradient */
    int64_t decay_times_lr; /* decoupled decay is multiplied by the learning rate */
    REAL *first, *second;   /* moments [cells, width]; SGD and the filter have one */
    const double *lr, *weight_decay, *beta1, *beta2, *eps; /* [cells] */
    int64_t groups; /* of columns with one decay multiplier each; group p ends before column ends[p] */
    const int64_t *ends;
    const double *multiplier;
} Rule;

typedef struct {
    int64_t steps, images, first; /* first: number of steps before these */
    const REAL *x;                /* [steps, images, padded(inputs)] */
    const int64_t *y;             /* [steps, images] */
    const double *eta, *decay;    /* [steps] */
} Batches;

int64_t lanes(void) { return LANES; }

/* ---- forward ---- */

static void transpose(const Layer *l, const REAL *restrict w, REAL *restrict transposed) {
    int64_t ld = padded(l->outputs);
    for (int64_t i = 0; i < l->inputs; i++)
        for (int64_t o = 0; o < l->outputs; o++) transposed[i * ld + o] = w[o * l->inputs + i];
}

static void transpose_weights(const Network *net, const REAL *theta) {
    for (const Layer *l = net->layer; l < net->layer + net->layers; l++)
        if (l->kind == LINEAR) transpose(l, theta + l->weight, l->transposed);
}

static void linear(const Network *net, const Layer *l, const REAL *theta, const REAL *x, int64_t n) {
    int64_t ld = padded(l->outputs);
    /* A copy, because `product` reads whole vectors and theta may end before the last of them does. */
    if (l->bias >= 0) memcpy(net->sums, theta + l->bias, l->outputs * sizeof *theta);
    product(n, ld, l->inputs, x, padded(l->inputs), 1, l->transposed, ld, l->bias < 0 ? 0 : net->sums, l->out, ld);
}

/* Batch norm with the batch's statistics, in two passes as in PyTorch. Updates the running statistics. */
static void norm(const Layer *l, int64_t k, const REAL *theta, const REAL *restrict x, int64_t n, REAL *restrict mean) {
    int64_t f = l->outputs, ld = padded(f);
    REAL *restrict out = l->out, *restrict normalised = l->normalised, *restrict scale = l->scale;
    REAL *restrict running_mean = l->running_mean + k * f, *restrict running_var = l->running_var + k * f;
    const REAL *gamma = theta + l->weight, *beta = theta + l->bias;
    REAL momentum = l->momentum, eps = l->eps;
    memset(mean, 0, f * sizeof *mean);
    memset(scale, 0, f * sizeof *scale);
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) mean[j] += x[b * ld + j];
    for (int64_t j = 0; j < f; j++) mean[j] /= n;
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) scale[j] += (x[b * ld + j] - mean[j]) * (x[b * ld + j] - mean[j]);
    for (int64_t j = 0; j < f; j++) {
        running_mean[j] = (1 - momentum) * running_mean[j] + momentum * mean[j];
        running_var[j] = (1 - momentum) * running_var[j] + momentum * (scale[j] / (n - 1));
        scale[j] = 1 / SQRT(scale[j] / n + eps);
    }
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) {
            normalised[b * ld + j] = (x[b * ld + j] - mean[j]) * scale[j];
            out[b * ld + j] = normalised[b * ld + j] * gamma[j] + beta[j];
        }
}

/* Batch norm with the running statistics. */
static void norm_in_eval(const Layer *l, int64_t k, const REAL *theta, const REAL *restrict x, int64_t n) {
    int64_t f = l->outputs, ld = padded(f);
    REAL *restrict out = l->out, *restrict scale = l->scale, eps = l->eps;
    const REAL *running_mean = l->running_mean + k * f, *running_var = l->running_var + k * f;
    const REAL *gamma = theta + l->weight, *beta = theta + l->bias;
    for (int64_t j = 0; j < f; j++) scale[j] = gamma[j] / SQRT(running_var[j] + eps);
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) out[b * ld + j] = (x[b * ld + j] - running_mean[j]) * scale[j] + beta[j];
}

/* Logits [n, padded(classes)] of x [n, padded(inputs)]; `transpose_weights` must have been called for theta. */
static REAL *forward(const Network *net, int64_t k, const REAL *theta, const REAL *x, int64_t n, int training) {
    REAL *restrict out = 0;
    for (const Layer *l = net->layer; l < net->layer + net->layers; l++, x = out) {
        out = l->out;
        if (l->kind == LINEAR)
            linear(net, l, theta, x, n);
        else if (l->kind == NORM && training)
            norm(l, k, theta, x, n, net->sums);
        else if (l->kind == NORM)
            norm_in_eval(l, k, theta, x, n);
        else
            for (int64_t j = 0; j < n * padded(l->outputs); j++) out[j] = x[j] < 0 ? 0 : x[j]; /* NaN propagates */
    }
    return out;
}

/* Returns the sum of the cross-entropies of logits [n, padded(classes)] in nats, adds the misclassified images to `errors`
 * and, if `g` is not 0, writes the gradient of the mean cross-entropy to it. Overwrites the logits. */
static double cross_entropy(int64_t classes, int64_t n, REAL *logits, const int64_t *y, REAL *g, int64_t *errors) {
    int64_t ld = padded(classes);
    double loss = 0;
    for (int64_t b = 0; b < n; b++) {
        REAL *z = logits + b * ld, sum = 0;
        int64_t best = 0;
        for (int64_t c = 1; c < classes; c++)
            if (z[c] > z[best]) best = c;
        *errors += best != y[b];
        REAL max_logit = z[best], target_logit = z[y[b]] - max_logit;
        for (int64_t c = classes; c < ld; c++) z[c] = -INFINITY;
        for (int64_t c = 0; c < ld; c += LANES) store(z + c, exponential(load(z + c) - max_logit));
        for (int64_t c = 0; c < classes; c++) sum += z[c];
        loss += log(sum) - target_logit;
        if (!g) continue;
        REAL factor = 1 / (sum * n);
        for (int64_t c = 0; c < ld; c++) g[b * ld + c] = z[c] * factor;
        g[b * ld + y[b]] -= 1 / (REAL)n;
    }
    return loss;
}

/* ---- backward: each function replaces net->out_gradient, the gradient of the layer's output, by that of its input ---- */

static void linear_back(Network *net, const Layer *l, const REAL *theta, const REAL *x, int64_t n) {
    int64_t in = padded(l->inputs), out = padded(l->outputs);
    const REAL *g = net->out_gradient, *w = theta + l->weight;
    REAL *gradient = net->gradient + l->weight;
    int padding = in != l->inputs;
    product(l->outputs, in, n, g, 1, out, x, in, 0, padding ? net->scratch : gradient, in);
    for (int64_t o = 0; padding && o < l->outputs; o++) {
        memcpy(gradient + o * l->inputs, net->scratch + o * in, l->inputs * sizeof *w);
        memcpy(net->scratch + o * in, w + o * l->inputs, l->inputs * sizeof *w);
    }
    if (l->bias >= 0) {
        REAL *restrict sum = net->gradient + l->bias;
        memset(sum, 0, l->outputs * sizeof *sum);
        for (int64_t b = 0; b < n; b++)
            for (int64_t j = 0; j < l->outputs; j++) sum[j] += g[b * out + j];
    }
    if (l == net->layer) return;
    product(n, in, l->outputs, g, out, 1, padding ? net->scratch : w, in, 0, net->in_gradient, in);
    REAL *swap = net->out_gradient;
    net->out_gradient = net->in_gradient;
    net->in_gradient = swap;
}

static void norm_back(Network *net, const Layer *l, const REAL *theta, int64_t n) {
    int64_t f = l->outputs, ld = padded(f);
    const REAL *restrict normalised = l->normalised, *restrict scale = l->scale, *gamma = theta + l->weight;
    REAL *restrict g = net->out_gradient;
    REAL *restrict dgamma = net->gradient + l->weight, *restrict dbeta = net->gradient + l->bias;
    memset(dgamma, 0, f * sizeof *g);
    memset(dbeta, 0, f * sizeof *g);
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++) {
            dgamma[j] += g[b * ld + j] * normalised[b * ld + j];
            dbeta[j] += g[b * ld + j];
        }
    REAL inverse_n = 1 / (REAL)n;
    for (int64_t b = 0; b < n; b++)
        for (int64_t j = 0; j < f; j++)
            g[b * ld + j] =
                (g[b * ld + j] - inverse_n * (dbeta[j] + normalised[b * ld + j] * dgamma[j])) * scale[j] * gamma[j];
}

static void backward(Network *net, const REAL *theta, const REAL *x, int64_t n) {
    for (const Layer *l = net->layer + net->layers - 1; l >= net->layer; l--) {
        REAL *restrict g = net->out_gradient;
        const REAL *restrict out = l->out;
        if (l->kind == LINEAR)
            linear_back(net, l, theta, l > net->layer ? l[-1].out : x, n);
        else if (l->kind == NORM)
            norm_back(net, l, theta, n);
        else
            for (int64_t j = 0; j < n * padded(l->outputs); j++) g[j] = out[j] <= 0 ? 0 : g[j];
    }
}

/* ---- update rules, for columns begin to end - 1 of a cell's theta; lambda is multiplied by `multiplier` ---- */

static void update(const Rule *r, int64_t k, int64_t begin, int64_t end, double multiplier, REAL *restrict theta,
                   const REAL *restrict gradient, REAL *restrict m, REAL *restrict v, double eta, double decay, int64_t t) {
    double alpha = eta * r->lr[k], lambda = decay * r->weight_decay[k] * multiplier;
    double beta1 = r->beta1[k], beta2 = r->beta2[k];
    REAL l2 = r->l2 ? lambda : 0, shrink = r->l2 ? 1 : 1 - lambda * (r->decay_times_lr ? alpha : eta), eps = r->eps[k];
    REAL b1 = beta1, b2 = beta2, c1 = 1 - beta1, c2 = 1 - beta2;
    if (r->kind == SGD) {
        REAL in = r->lr_in_momentum ? alpha : 1, out = r->lr_in_momentum ? 1 : alpha;
        for (int64_t i = begin; i < end; i++) {
            m[i] = b1 * m[i] + in * (gradient[i] + l2 * theta[i]);
            theta[i] = shrink * theta[i] - out * m[i];
        }
    } else if (r->kind == ADAM) {
        REAL rate = alpha / (1 - pow(beta1, t)), unbias = 1 / (1 - pow(beta2, t));
        for (int64_t i = begin; i < end; i++) {
            REAL g = gradient[i] + l2 * theta[i];
            m[i] = b1 * m[i] + c1 * g;
            v[i] = b2 * v[i] + c2 * g * g;
            theta[i] = shrink * theta[i] - rate * m[i] / (SQRT(v[i] * unbias) + eps);
        }
    } else {
        REAL kappa = (1 - beta2) * eta * eta, rate = alpha;
        for (int64_t i = begin; i < end; i++) {
            REAL g = gradient[i] / eps, s = m[i] + kappa * (1 - m[i]);
            m[i] = s / (1 + kappa * g * g * s);
            theta[i] = shrink * theta[i] - rate * m[i] * g;
        }
    }
}

/* ---- called from Python ---- */

/* Trains and writes the losses [steps, cells]. A cell whose loss is not finite is frozen before that step's update: its
 * weights and moments are set to zero, its `alive` [cells] to 0, and its later losses to NaN. If `gradients` [cells, width]
 * is not 0, gradients are written there and nothing is updated. */
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
            int64_t errors = 0, begin = 0;
            transpose_weights(net, theta);
            REAL *logits = forward(net, k, theta, x, n, 1);
            *loss = (REAL)(cross_entropy(classes, n, logits, batches->y + s * n, net->out_gradient, &errors) / n);
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
            for (int64_t p = 0; p < rule->groups; begin = rule->ends[p++])
                update(rule, k, begin, rule->ends[p], rule->multiplier[p], theta, net->gradient, m, v, batches->eta[s],
                       batches->decay[s], batches->first + s + 1);
        }
}

/* Counts the misclassified images and sums the losses, each [cells], of x [images, padded(inputs)], y [images]. The loss
 * of a frozen cell is NaN. */
void test(Network *net, int64_t images, const REAL *x, const int64_t *y, const uint8_t *alive, int64_t *errors,
          double *losses) {
    int64_t inputs = padded(net->layer[0].inputs), classes = net->layer[net->layers - 1].outputs;
    for (int64_t k = 0; k < net->cells; k++) {
        const REAL *theta = net->theta + k * net->width;
        errors[k] = 0, losses[k] = alive[k] ? 0 : NAN;
        if (!alive[k]) continue;
        transpose_weights(net, theta);
        for (int64_t begin = 0; begin < images; begin += net->rows) {
            int64_t n = images - begin < net->rows ? images - begin : net->rows;
            REAL *logits = forward(net, k, theta, x + begin * inputs, n, 0);
            losses[k] += cross_entropy(classes, n, logits, y + begin, 0, errors + k);
        }
    }
}

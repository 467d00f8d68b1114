/* birdie diff: the weights of two files, tensor by tensor. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/tensor_set.h"

const char bd_cmd_diff_summary[] = "compare the weights of two checkpoints or artifacts";

typedef enum diff_kind { DIFF_EQUAL, DIFF_VALUES, DIFF_SHAPE, DIFF_ONLY_A, DIFF_ONLY_B } diff_kind;
static const char *const kind_names[] = {"equal", "different", "shape", "only in A", "only in B"};

typedef struct diff {
    const char *name;
    diff_kind kind;
    const bd_named_tensor *a, *b;
    double max_abs, rel_rms; /* rel_rms: rms of the difference over rms of A */
    int64_t differing;
} diff;

static void compare_values(diff *d, const float *a, const float *b, int64_t n) {
    double sum = 0, base = 0;
    for (int64_t i = 0; i < n; i++) {
        bool same = a[i] == b[i] || (isnan(a[i]) && isnan(b[i]));
        double e = same ? 0 : (double)b[i] - (double)a[i];
        if (!same) d->differing++;
        if (fabs(e) > d->max_abs || isnan(e)) d->max_abs = fabs(e);
        sum += e * e;
        base += (double)a[i] * (double)a[i];
    }
    d->rel_rms = sum == 0 ? 0 : base > 0 ? sqrt(sum / base) : (double)INFINITY;
    d->kind = d->differing ? DIFF_VALUES : DIFF_EQUAL;
}

static bd_status diff_pair(diff *d, const bd_tensor_set *sa, int ia, const bd_tensor_set *sb, int ib, bd_err *err) {
    d->a = &sa->tensors[ia];
    d->b = &sb->tensors[ib];
    d->name = d->a->name;
    d->kind = DIFF_SHAPE;
    if (d->a->ndim != d->b->ndim || memcmp(d->a->dim, d->b->dim, (size_t)d->a->ndim * sizeof *d->a->dim) != 0)
        return BD_OK;
    int64_t n = d->a->count;
    float *x = malloc((size_t)n * sizeof *x + 1), *y = malloc((size_t)n * sizeof *y + 1);
    bd_status st = x && y ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (st == BD_OK) st = bd_tensor_set_read(sa, ia, x, err);
    if (st == BD_OK) st = bd_tensor_set_read(sb, ib, y, err);
    if (st == BD_OK) compare_values(d, x, y, n);
    free(x);
    free(y);
    return st;
}

/* Both lists are sorted: one merge. */
static bd_status diff_all(diff *out, int *n, const bd_tensor_set *a, const bd_tensor_set *b, bd_err *err) {
    int i = 0, k = 0;
    *n = 0;
    while (i < a->n || k < b->n) {
        diff *d = &out[(*n)++];
        int c = i == a->n ? 1 : k == b->n ? -1 : strcmp(a->tensors[i].name, b->tensors[k].name);
        if (c == 0) {
            BD_TRY(diff_pair(d, a, i++, b, k++, err));
        } else if (c < 0) {
            *d = (diff){.name = a->tensors[i].name, .kind = DIFF_ONLY_A, .a = &a->tensors[i]};
            i++;
        } else {
            *d = (diff){.name = b->tensors[k].name, .kind = DIFF_ONLY_B, .b = &b->tensors[k]};
            k++;
        }
    }
    return BD_OK;
}

static json_t *shape_json(const bd_named_tensor *t) {
    json_t *a = json_array();
    for (int d = 0; d < t->ndim; d++) json_array_append_new(a, json_integer(t->dim[d]));
    return a;
}

static json_t *diff_json(const diff *list, int n, bool equal) {
    json_t *o = json_object(), *tensors = json_array();
    for (int i = 0; i < n; i++) {
        const diff *d = &list[i];
        json_t *t = json_object();
        json_object_set_new(t, "name", bd_cli_str(d->name));
        json_object_set_new(t, "status", json_string(kind_names[d->kind]));
        if (d->a) json_object_set_new(t, "shape_a", shape_json(d->a));
        if (d->b) json_object_set_new(t, "shape_b", shape_json(d->b));
        if (d->kind == DIFF_EQUAL || d->kind == DIFF_VALUES) {
            json_object_set_new(t, "differing", bd_cli_i64(d->differing));
            json_object_set_new(t, "max_abs", bd_cli_real(d->max_abs));
            json_object_set_new(t, "rel_rms", bd_cli_real(d->rel_rms));
        }
        json_array_append_new(tensors, t);
    }
    json_object_set_new(o, "equal", json_boolean(equal));
    json_object_set_new(o, "tensors", tensors);
    return o;
}

static void print_diff(const diff *list, int n, bool equal) {
    char name[72], sa[64], sb[64];
    int differ = 0;
    for (int i = 0; i < n; i++) {
        const diff *d = &list[i];
        if (d->kind == DIFF_EQUAL) continue;
        if (!differ++)
            printf("%-44s %-12s %12s %12s %12s\n", "tensor", "status", "differing", "max abs", "rel rms");
        bd_safe_text(name, sizeof name, d->name);
        if (d->kind == DIFF_VALUES) {
            printf("%-44s %-12s %12" PRId64 " %12.4g %12.4g\n", name, kind_names[d->kind], d->differing, d->max_abs,
                   d->rel_rms);
        } else if (d->kind == DIFF_SHAPE) {
            bd_shape_text(sa, sizeof sa, d->a->ndim, d->a->dim);
            bd_shape_text(sb, sizeof sb, d->b->ndim, d->b->dim);
            printf("%-44s %-12s %s and %s\n", name, kind_names[d->kind], sa, sb);
        } else {
            const bd_named_tensor *t = d->a ? d->a : d->b;
            bd_shape_text(sa, sizeof sa, t->ndim, t->dim);
            printf("%-44s %-12s %s\n", name, kind_names[d->kind], sa);
        }
    }
    if (equal) printf("equal: %d tensors\n", n);
    else printf("%d of %d tensors differ\n", differ, n);
}

int bd_cmd_diff(int argc, char **argv) {
    bd_cli_common common = {0};
    const bd_cli_spec spec = {
        .name = "diff",
        .summary = bd_cmd_diff_summary,
        .usage = "diff A B",
        .text =
            "A and B are checkpoints, artifacts or directories that train wrote, in any mixture; values are "
            "compared as float32. "
            "Exit code 0 if all tensors are equal, 1 if something differs.",
        .examples = "  birdie diff model.pt model.safetensors\n",
        .min_args = 2,
        .max_args = 2,
        .common = &common,
    };
    bd_cli_list args;
    bd_err err = {0};
    bd_tensor_set a = {0}, b = {0};
    diff *list = NULL;
    int rc, n = 0;
    bool equal = true;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    bd_status st = bd_tensor_set_open(&a, args.items[0], (uint64_t)common.max_memory, &err);
    if (st == BD_OK) st = bd_tensor_set_open(&b, args.items[1], (uint64_t)common.max_memory, &err);
    if (st == BD_OK) {
        list = calloc((size_t)a.n + (size_t)b.n + 1, sizeof *list);
        st = list ? diff_all(list, &n, &a, &b, &err) : BD_FAIL(&err, BD_E_NOMEM, "out of memory");
    }
    if (st != BD_OK) {
        rc = bd_cli_error(&err, common.json);
    } else {
        for (int i = 0; i < n; i++) equal &= list[i].kind == DIFF_EQUAL;
        rc = 0;
        if (common.json) rc = bd_cli_print_json(diff_json(list, n, equal));
        else print_diff(list, n, equal);
        if (rc == 0) rc = equal ? 0 : 1;
    }
    free(list);
    bd_tensor_set_close(&a);
    bd_tensor_set_close(&b);
    bd_cli_free(&spec, &args);
    return rc;
}

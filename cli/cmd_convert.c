/* birdie convert: any weights to float32 safetensors. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "cli/cli.h"
#include "cli/tensor_set.h"

const char bd_cmd_convert_summary[] = "write any checkpoint or artifact as float32 safetensors";

/* An artifact's graph goes along, so that the copy opens without --model. */
static bd_status put_meta(bd_st_writer *w, const bd_tensor_set *in, bd_err *err) {
    for (int i = 0; in->ckpt && i < in->ckpt->n_meta; i++)
        BD_TRY(bd_st_meta(w, in->ckpt->meta_keys[i], in->ckpt->meta_values[i], err));
    if (!in->model) return BD_OK;
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = bd_graph_print(in->model->graph, &text, err);
    bd_buf_u8(&text, 0);
    if (st == BD_OK) st = bd_buf_check(&text, err);
    if (st == BD_OK) st = bd_st_meta(w, BD_META_GRAPH, (const char *)text.data, err);
    if (st == BD_OK) st = bd_st_meta(w, BD_META_MODEL, in->model->model_name, err);
    bd_buf_free(&text);
    return st;
}

static bd_status total_floats(const bd_tensor_set *in, uint64_t max_memory, uint64_t *total, bd_err *err) {
    *total = 0;
    for (int i = 0; i < in->n; i++)
        if (!bd_add_u64(*total, (uint64_t)in->tensors[i].count, total))
            return BD_FAIL(err, BD_E_LIMIT, "the tensors are too large");
    if (*total > SIZE_MAX / sizeof(float) || (max_memory && *total * sizeof(float) > max_memory))
        return BD_FAIL(err, BD_E_LIMIT, "%" PRIu64 " values need more memory than allowed", *total);
    return BD_OK;
}

static bd_status convert(const bd_tensor_set *in, uint64_t total, const char *path, bd_err *err) {
    bd_st_writer *w = NULL;
    float *data = malloc((size_t)total * sizeof *data + 1);
    if (!data) return BD_FAIL(err, BD_E_NOMEM, "no memory for %" PRIu64 " values", total);
    bd_status st = bd_st_create(&w, path, err);
    if (st == BD_OK) st = put_meta(w, in, err);
    float *at = data;
    for (int i = 0; i < in->n && st == BD_OK; i++) {
        const bd_named_tensor *t = &in->tensors[i];
        st = bd_tensor_set_read(in, i, at, err);
        if (st == BD_OK) st = bd_st_tensor(w, t->name, BD_CK_F32, t->ndim, t->dim, at, err);
        at += t->count;
    }
    if (st == BD_OK) st = bd_st_finish(w, err);
    else if (w) bd_st_abort(w);
    free(data);
    return st;
}

int bd_cmd_convert(int argc, char **argv) {
    bd_cli_common common = {0};
    const char *out = NULL;
    const bd_cli_opt opts[] = {{"out", BD_CLI_STRING, &out, "FILE", "the safetensors file to write"}};
    const bd_cli_spec spec = {
        .name = "convert",
        .summary = bd_cmd_convert_summary,
        .usage = "convert IN --out FILE.safetensors",
        .text =
            "IN is a checkpoint (.safetensors, .pt, .ptz), an artifact or a directory that train wrote. Quantized "
            "values are "
            "dequantized as the scorer does it; metadata is kept.",
        .examples = "  birdie convert model.int8.ptz --out model.safetensors\n",
        .opts = opts,
        .n_opts = 1,
        .min_args = 1,
        .max_args = 1,
        .common = &common,
    };
    bd_cli_list args;
    bd_err err = {0};
    bd_tensor_set in = {0};
    uint64_t total = 0;
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    bd_status st = out ? BD_OK : BD_FAIL(&err, BD_E_USAGE, "name the output with --out");
    if (st == BD_OK) st = bd_tensor_set_open(&in, args.items[0], (uint64_t)common.max_memory, &err);
    if (st == BD_OK) st = total_floats(&in, (uint64_t)common.max_memory, &total, &err);
    if (st == BD_OK && !common.dry_run) st = convert(&in, total, out, &err);
    if (st != BD_OK) {
        rc = bd_cli_error(&err, common.json);
    } else if (common.json) {
        json_t *o = json_object();
        json_object_set_new(o, "out", bd_cli_str(out));
        json_object_set_new(o, "tensors", json_integer(in.n));
        json_object_set_new(o, "values", bd_cli_u64(total));
        if (common.dry_run) json_object_set_new(o, "dry_run", json_true());
        rc = bd_cli_print_json(o);
    } else {
        printf("%s: %d tensors, %" PRIu64 " values%s\n", out, in.n, total,
               common.dry_run ? " (not written: --dry-run)" : "");
        rc = 0;
    }
    bd_tensor_set_close(&in);
    bd_cli_free(&spec, &args);
    return rc;
}

/* birdie inspect: what is in a file, whatever it is. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/sha256.h"
#include "cli/cli.h"
#include "cli/plan_report.h"
#include "cli/protocol_json.h"
#include "cli/score_json.h"
#include "cli/tensor_set.h"
#include "format/shard.h"
#include "format/tokenizer.h"

const char bd_cmd_inspect_summary[] = "show what a checkpoint, artifact, shard or tokenizer holds";

typedef struct show {
    bool model, tensors, sections, plan, json;
    uint64_t max_memory;
    bool allow_external;
    json_t *o; /* with json */
    const char *path;
    uint64_t bytes;
} show;

/* ---- printing ---- */

/* Text of a stranger's file: line breaks stay, other control bytes do not reach the terminal. */
static void put_text(const char *text, uint64_t size) {
    for (uint64_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        putchar(c == '\n' || (c >= 0x20 && c < 0x7f) ? c : '?');
    }
    if (size && text[size - 1] != '\n') putchar('\n');
}

static json_t *text_json(const char *text, uint64_t size) {
    json_t *j = json_stringn(text, (size_t)size);
    return j ? j : json_null();
}

static void put_line(const char *key, const char *value) { printf("%-12s %s\n", key, value); }

static void head(show *s, const char *type) {
    char safe[512];
    if (s->json) {
        json_object_set_new(s->o, "type", json_string(type));
        json_object_set_new(s->o, "file", bd_cli_str(s->path));
        json_object_set_new(s->o, "bytes", bd_cli_u64(s->bytes));
    } else {
        put_line("file", bd_safe_text(safe, sizeof safe, s->path));
        put_line("type", type);
        printf("%-12s %" PRIu64 "\n", "bytes", s->bytes);
    }
}

static void hash_line(show *s, const char *key, const char *label, const uint8_t hash[32]) {
    char hex[65];
    bd_sha256_hex(hash, hex);
    if (s->json) json_object_set_new(s->o, key, json_string(hex));
    else put_line(label, hex);
}

static json_t *dims_json(int ndim, const int64_t *dim) {
    json_t *a = json_array();
    for (int d = 0; d < ndim; d++) json_array_append_new(a, json_integer(dim[d]));
    return a;
}

static bd_status show_graph(show *s, const bd_graph *g, bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = bd_graph_print(g, &text, err);
    if (st == BD_OK) st = bd_buf_check(&text, err);
    if (st == BD_OK && s->json) json_object_set_new(s->o, "model", text_json((const char *)text.data, text.size));
    else if (st == BD_OK) put_text((const char *)text.data, text.size);
    bd_buf_free(&text);
    return st;
}

/* ---- checkpoints ---- */

static bd_status show_checkpoint(show *s, const char *path, bd_err *err) {
    bd_ckpt *c = NULL;
    bd_model *m = NULL;
    BD_TRY(bd_ckpt_open(&c, path, err));
    uint64_t total = 0;
    for (int i = 0; i < c->n; i++) total += (uint64_t)c->tensors[i].count;
    bd_err why = {0};
    bd_limits lim = bd_limits_default();
    bd_graph *g = NULL;
    char name[64] = "";
    bd_status known = bd_recognize(&g, name, c, NULL, &lim, &why), st = BD_OK;
    if (s->model && known != BD_OK) {
        if (err) *err = why;
        st = known;
        goto done;
    }
    if (!s->model || s->json) {
        head(s, "checkpoint");
        if (s->json) {
            json_object_set_new(s->o, "format", json_string(c->format));
            json_object_set_new(s->o, "n_tensors", json_integer(c->n));
            json_object_set_new(s->o, "params", bd_cli_u64(total));
            json_object_set_new(s->o, "recognised", known == BD_OK ? bd_cli_str(name) : json_null());
            json_t *meta = json_object();
            for (int i = 0; i < c->n_meta; i++) {
                json_t *v = bd_cli_str(c->meta_values[i]);
                if (json_object_set_new(meta, c->meta_keys[i], v)) continue; /* a key that is not UTF-8 */
            }
            json_object_set_new(s->o, "metadata", meta);
        } else {
            char safe[512];
            put_line("format", c->format);
            printf("%-12s %d, %" PRIu64 " values\n", "tensors", c->n, total);
            if (known == BD_OK) put_line("model", bd_safe_text(safe, sizeof safe, name));
            else printf("%-12s not recognised: %s\n", "model", bd_safe_text(safe, sizeof safe, why.msg));
        }
    }
    if (s->tensors || s->json) {
        json_t *list = json_array();
        if (!s->json) printf("\n%-48s %-6s %-18s %12s\n", "tensor", "dtype", "shape", "values");
        for (int i = 0; i < c->n; i++) {
            const bd_ckpt_tensor *t = &c->tensors[i];
            if (s->json) {
                json_t *e = json_object();
                json_object_set_new(e, "name", bd_cli_str(t->name));
                json_object_set_new(e, "dtype", json_string(bd_ckpt_dtype_text(t->dtype)));
                json_object_set_new(e, "shape", dims_json(t->ndim, t->dim));
                json_array_append_new(list, e);
            } else {
                char safe[96], shape[96];
                bd_shape_text(shape, sizeof shape, t->ndim, t->dim);
                printf("%-48s %-6s %-18s %12" PRId64 "\n", bd_safe_text(safe, sizeof safe, t->name),
                       bd_ckpt_dtype_text(t->dtype), shape, t->count);
            }
        }
        if (s->json) json_object_set_new(s->o, "tensors", list);
        else json_decref(list);
    }
    if (s->model) st = show_graph(s, g, err);
done:
    bd_graph_destroy(g);
    bd_model_close(m);
    bd_ckpt_close(c);
    return st;
}

/* ---- artifacts ---- */

/* Codes at their nominal width plus scales: what the tensor takes before entropy coding. */
static uint64_t nominal_bytes(const bd_qtensor *t) {
    uint64_t n = (uint64_t)t->rows * t->cols;
    switch (t->method) {
        case BD_Q_F16: return 2 * n;
        case BD_Q_F32: return 4 * n;
        case BD_Q_ROW: return (n * t->bits + 7) / 8 + 2 * (uint64_t)t->rows;
        case BD_Q_TERNARY: return (n + 4) / 5 + 2 * (t->group ? (n + t->group - 1) / t->group : 0);
        case BD_Q_TCQ: return 2 * (n + t->rows + t->cols) + 4;
        case BD_Q_LOG: return 2 * n + 4;
        case BD_Q_LQER:
            return (n * t->bits + 7) / 8 + 2 * (uint64_t)t->rows +
                   (2 * (uint64_t)t->rows * t->rank + 4 * (uint64_t)t->rank * t->cols + 7) / 8 +
                   2 * (1 + ((uint64_t)t->rank * t->cols + t->group - 1) / t->group);
        case BD_Q_COUNT: break;
    }
    return 0;
}

static void show_sections(show *s, const bd_artifact *a) {
    json_t *list = json_array();
    if (!s->json)
        printf("\n%-20s %-8s %10s %10s %10s  %s\n", "section", "codec", "offset", "stored", "raw", "sha256");
    for (uint32_t i = 0; i < a->n_sections; i++) {
        const bd_section_info *x = &a->sections[i];
        char hex[65], safe[64];
        bd_sha256_hex(x->sha256, hex);
        if (!s->json) {
            printf("%-20s %-8s %10" PRIu64 " %10" PRIu64 " %10" PRIu64 "  %s\n",
                   bd_safe_text(safe, sizeof safe, x->name), bd_codec_name(x->codec), x->offset, x->stored, x->raw,
                   hex);
            continue;
        }
        json_t *e = json_object();
        json_object_set_new(e, "name", bd_cli_str(x->name));
        json_object_set_new(e, "codec", json_string(bd_codec_name(x->codec)));
        json_object_set_new(e, "offset", bd_cli_u64(x->offset));
        json_object_set_new(e, "stored", bd_cli_u64(x->stored));
        json_object_set_new(e, "raw", bd_cli_u64(x->raw));
        json_object_set_new(e, "sha256", json_string(hex));
        json_array_append_new(list, e);
    }
    if (s->json) json_object_set_new(s->o, "sections", list);
    else json_decref(list);
}

static void show_groups(show *s, const bd_artifact *a) {
    json_t *list = json_array();
    if (!s->json) printf("\n%-20s %-8s %8s %12s %12s\n", "group", "codec", "tensors", "params", "bytes");
    for (uint32_t i = 0; i < a->n_groups; i++) {
        const bd_qgroup *g = &a->groups[i];
        uint64_t params = 0;
        char safe[64];
        for (uint32_t k = 0; k < g->n_tensors; k++) params += (uint64_t)g->tensors[k].rows * g->tensors[k].cols;
        if (!s->json) {
            printf("%-20s %-8s %8" PRIu32 " %12" PRIu64 " %12" PRIu64 "\n",
                   bd_safe_text(safe, sizeof safe, g->name), bd_codec_name(g->codec), g->n_tensors, params,
                   g->stored_bytes);
            continue;
        }
        json_t *e = json_object();
        json_object_set_new(e, "name", bd_cli_str(g->name));
        json_object_set_new(e, "codec", json_string(bd_codec_name(g->codec)));
        json_object_set_new(e, "tensors", json_integer(g->n_tensors));
        json_object_set_new(e, "params", bd_cli_u64(params));
        json_object_set_new(e, "bytes", bd_cli_u64(g->stored_bytes));
        json_array_append_new(list, e);
    }
    if (s->json) json_object_set_new(s->o, "groups", list);
    else json_decref(list);
}

static void show_qtensors(show *s, const bd_artifact *a, const bd_graph *g) {
    json_t *list = json_array();
    if (!s->json)
        printf("\n%-40s %-16s %-8s %5s %6s %10s  %s\n", "tensor", "shape", "method", "bits", "group", "bytes",
               "in group");
    for (uint32_t i = 0; i < a->n_groups; i++) {
        for (uint32_t k = 0; k < a->groups[i].n_tensors; k++) {
            const bd_qtensor *t = &a->groups[i].tensors[k];
            const char *name = t->param < (uint32_t)g->n_params ? g->params[t->param].name : "?";
            int64_t dim[2] = {t->rows, t->cols};
            if (!s->json) {
                char safe[96], group[64], shape[64];
                bd_shape_text(shape, sizeof shape, 2, dim);
                printf("%-40s %-16s %-8s %5u %6" PRIu32 " %10" PRIu64 "  %s\n",
                       bd_safe_text(safe, sizeof safe, name), shape, bd_qmethod_name(t->method), t->bits, t->group,
                       nominal_bytes(t), bd_safe_text(group, sizeof group, a->groups[i].name));
                continue;
            }
            json_t *e = json_object();
            json_object_set_new(e, "name", bd_cli_str(name));
            json_object_set_new(e, "shape", dims_json(2, dim));
            json_object_set_new(e, "method", json_string(bd_qmethod_name(t->method)));
            json_object_set_new(e, "bits", json_integer(t->bits));
            json_object_set_new(e, "group_size", json_integer(t->group));
            json_object_set_new(e, "bytes", bd_cli_u64(nominal_bytes(t)));
            json_object_set_new(e, "group", bd_cli_str(a->groups[i].name));
            json_array_append_new(list, e);
        }
    }
    if (s->json) json_object_set_new(s->o, "tensors", list);
    else {
        printf("(bytes: codes at their nominal width and scales, before the group's codec)\n");
        json_decref(list);
    }
}

static void show_artifact_head(show *s, const bd_artifact *a, const bd_graph *g) {
    head(s, "artifact");
    if (s->json) {
        json_object_set_new(s->o, "version", json_integer(a->version));
        json_object_set_new(s->o, "numerics", json_integer(a->numerics));
        json_object_set_new(s->o, "vocab", json_integer(a->vocab));
        json_object_set_new(s->o, "params", bd_cli_u64(g->param_count));
        json_object_set_new(s->o, "protocol", bd_protocol_to_json(&a->protocol));
        json_object_set_new(s->o, "claim", bd_claim_json(&a->claim));
    } else {
        const bd_protocol *p = &a->protocol;
        printf("%-12s %" PRIu32 ", numerics %" PRIu32 "\n", "version", a->version, a->numerics);
        printf("%-12s %" PRIu64 ", vocabulary %" PRIu32 "\n", "parameters", g->param_count, a->vocab);
        printf("%-12s %s, window %" PRIu32 ", stride %" PRIu32 "\n", "protocol", bd_protocol_kind_name(p->kind),
               p->window, p->stride ? p->stride : p->window);
        if (a->claim.present)
            printf("%-12s targets %" PRIu64 " to %" PRIu64 " of %" PRIu32 " shards: %" PRIu64
                   " bytes, nll_q32 %" PRId64 "\n",
                   "claim", a->claim.first_target, a->claim.first_target + a->claim.tokens - 1, a->claim.n_shards,
                   a->claim.bytes, a->claim.nll_q32);
        else put_line("claim", "none");
    }
    hash_line(s, "model_hash", "model hash", a->model_hash);
    hash_line(s, "root_hash", "root hash", a->root_hash);
    hash_line(s, "tokenizer_model_hash", "tokenizer", a->tokenizer_model_hash);
    hash_line(s, "tokenizer_tables_hash", "byte tables", a->tokenizer_tables_hash);
}

/* The plan that stands in an artifact may be any text: one that is no plan is shown as it is. */
static bd_status show_own_plan(show *s, const bd_artifact *a, const bd_graph *g, bd_err *err) {
    bd_plan *p = NULL;
    bd_err why = {0};
    char safe[512];
    bd_status st = bd_plan_parse(&p, a->plan_text, a->plan_size, &why);
    if (st == BD_E_NOMEM) {
        if (err) *err = why;
        return st;
    }
    if (s->json) {
        json_object_set_new(s->o, "plan", text_json(a->plan_text, a->plan_size));
        json_object_set_new(s->o, "plan_error", st ? bd_cli_str(why.msg) : json_null());
        if (st) json_object_set_new(s->o, "plan_report", json_null());
    }
    if (!st) st = bd_plan_report(p, a, g, s->o, err);
    else if (!s->json) {
        show_groups(s, a);
        printf("\nthis text is no plan (%s):\n", bd_safe_text(safe, sizeof safe, why.msg));
        put_text(a->plan_text, a->plan_size);
        st = BD_OK;
    } else st = BD_OK;
    bd_plan_close(p);
    return st;
}

static bd_status show_artifact(show *s, const bd_map *map, bd_err *err) {
    bd_artifact *a = NULL;
    bd_graph *g = NULL;
    bd_artifact_limits lim = bd_artifact_limits_default();
    lim.allow_external = s->allow_external;
    if (s->max_memory && lim.decoded_bytes > s->max_memory) lim.decoded_bytes = s->max_memory;
    BD_TRY(bd_artifact_parse(&a, map->data, map->size, &lim, err));
    bd_limits glim = bd_limits_default();
    bd_status st = bd_graph_parse(&g, a->graph_text, a->graph_size, &glim, err);
    if (st != BD_OK) {
        bd_err_prefix(err, "graph: ");
        goto done;
    }
    bool summary = !s->model && !s->tensors && !s->sections && !s->plan;
    if (summary || s->json) show_artifact_head(s, a, g);
    if (summary || s->sections || s->json) show_sections(s, a);
    if (summary || s->json) show_groups(s, a);
    if (s->tensors || s->json) show_qtensors(s, a, g);
    if (s->model) {
        if (s->json) json_object_set_new(s->o, "model", text_json(a->graph_text, a->graph_size));
        else put_text(a->graph_text, a->graph_size);
    }
    if (s->plan) st = show_own_plan(s, a, g, err);
done:
    bd_graph_destroy(g);
    bd_artifact_close(a);
    return st;
}

/* ---- shards, tokenizers, model files ---- */

static bd_status show_shard(show *s, const char *path, bd_err *err) {
    bd_shard *sh = calloc(1, sizeof *sh);
    if (!sh) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_status st = bd_shard_open(sh, path, err);
    if (st == BD_OK) {
        uint16_t lo = sh->n ? UINT16_MAX : 0, hi = 0;
        for (uint64_t i = 0; i < sh->n; i++) {
            if (sh->tokens[i] < lo) lo = sh->tokens[i];
            if (sh->tokens[i] > hi) hi = sh->tokens[i];
        }
        head(s, "shard");
        if (s->json) {
            json_object_set_new(s->o, "tokens", bd_cli_u64(sh->n));
            json_object_set_new(s->o, "min_id", json_integer(lo));
            json_object_set_new(s->o, "max_id", json_integer(hi));
        } else {
            printf("%-12s %" PRIu64 "\n%-12s %u to %u\n", "tokens", sh->n, "ids", lo, hi);
        }
        hash_line(s, "sha256", "sha256", sh->sha256);
        bd_shard_close(sh);
    }
    free(sh);
    return st;
}

static void show_tokenizer(show *s, const bd_tokenizer *t) {
    static const char *const types[] = {"normal", "unknown", "control", "user-defined", "unused", "byte"};
    uint64_t count[6] = {0};
    for (uint32_t i = 0; i < t->n; i++)
        if (t->pieces[i].type >= 1 && t->pieces[i].type <= 6) count[t->pieces[i].type - 1]++;
    head(s, "tokenizer");
    if (s->json) {
        json_t *kinds = json_object();
        for (int i = 0; i < 6; i++) json_object_set_new(kinds, types[i], json_integer((json_int_t)count[i]));
        json_object_set_new(s->o, "pieces", json_integer(t->n));
        json_object_set_new(s->o, "types", kinds);
        json_object_set_new(s->o, "bos", json_integer(t->bos));
        json_object_set_new(s->o, "eos", json_integer(t->eos));
        json_object_set_new(s->o, "unk", json_integer(t->unk));
        json_object_set_new(s->o, "pad", json_integer(t->pad));
    } else {
        printf("%-12s %" PRIu32 ":", "pieces", t->n);
        for (int i = 0; i < 6; i++)
            if (count[i]) printf(" %" PRIu64 " %s", count[i], types[i]);
        printf("\n%-12s bos %d, eos %d, unk %d, pad %d\n", "ids", t->bos, t->eos, t->unk, t->pad);
    }
    hash_line(s, "sha256", "sha256", t->model_hash);
    hash_line(s, "tables_hash", "byte tables", t->tables_hash);
}

static bd_status show_model_file(show *s, const bd_map *map, bd_err *err) {
    bd_limits lim = bd_limits_default();
    bd_graph *g = NULL;
    if (map->size > lim.text_bytes)
        return BD_FAIL(err, BD_E_LIMIT, "a model file may have %" PRIu64 " bytes", lim.text_bytes);
    BD_TRY(bd_model_elaborate(&g, (const char *)map->data, map->size, s->path, NULL, 0, NULL, &lim, err));
    bd_status st = BD_OK;
    if (!s->model || s->json) {
        char safe[96];
        head(s, "model file");
        if (s->json) {
            json_object_set_new(s->o, "name", bd_cli_str(g->name));
            json_object_set_new(s->o, "params", bd_cli_u64(g->param_count));
            json_object_set_new(s->o, "operations", json_integer(g->n_nodes));
        } else {
            put_line("name", bd_safe_text(safe, sizeof safe, g->name ? g->name : ""));
            printf("%-12s %" PRIu64 " parameters in %d tensors, %d operations (default constants)\n", "size",
                   g->param_count, g->n_params, g->n_nodes);
        }
    }
    if (s->model) st = show_graph(s, g, err);
    bd_graph_destroy(g);
    return st;
}

static bd_status show_plan_file(show *s, const bd_map *map, bd_err *err) {
    bd_plan *p = NULL;
    BD_TRY(bd_plan_parse(&p, (const char *)map->data, map->size, err));
    head(s, "plan");
    bd_status st = bd_plan_report(p, NULL, NULL, s->o, err);
    bd_plan_close(p);
    return st;
}

/* ---- which is it? ---- */

static bool is_plan(const bd_map *m) { return m->size >= 12 && !memcmp(m->data, "birdie-plan ", 12); }

static bool is_shard(const bd_map *m) {
    if (m->size < 4) return false;
    uint32_t magic =
        (uint32_t)m->data[0] | (uint32_t)m->data[1] << 8 | (uint32_t)m->data[2] << 16 | (uint32_t)m->data[3] << 24;
    return magic == BD_SHARD_MAGIC;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* ".model" names SentencePiece files (binary) and our model files (text). */
static bd_status show_dot_model(show *s, const bd_map *m, bd_err *err) {
    bool text = true;
    for (uint64_t i = 0; i < m->size && text; i++) text = m->data[i] >= 0x20 || strchr("\t\r\n", m->data[i]);
    for (uint64_t i = 0; i < m->size && text; i++) text = m->data[i] != 0;
    if (text) return show_model_file(s, m, err);
    bd_tokenizer *t = NULL;
    BD_TRY(bd_tokenizer_parse(&t, m->data, m->size, err));
    show_tokenizer(s, t);
    bd_tokenizer_close(t);
    return BD_OK;
}

static bd_status inspect(show *s, const char *path, bd_err *err) {
    char inside[1024];
    bd_map m;
    if (bd_path_is_dir(path)) {
        int n = snprintf(inside, sizeof inside, "%s/model.safetensors", path);
        if (n < 0 || (size_t)n >= sizeof inside) return BD_FAIL(err, BD_E_USAGE, "the path is too long");
        path = inside;
    }
    BD_TRY(bd_map_open(&m, path, err));
    s->path = path;
    s->bytes = m.size;
    bd_status st;
    if (bd_artifact_is(m.data, m.size)) st = show_artifact(s, &m, err);
    else if (is_plan(&m) && !s->sections && !s->model && !s->tensors) st = show_plan_file(s, &m, err);
    else if (s->sections || s->plan) st = BD_FAIL(err, BD_E_USAGE, "--sections and --plan are for artifacts");
    else if (is_shard(&m)) st = show_shard(s, path, err);
    else if (ends_with(path, ".model")) st = show_dot_model(s, &m, err);
    else st = show_checkpoint(s, path, err);
    bd_map_close(&m);
    if (st != BD_OK) bd_err_file(err, path);
    return st;
}

int bd_cmd_inspect(int argc, char **argv) {
    bd_cli_common common = {0};
    show s = {0};
    const bd_cli_opt opts[] = {
        {"model", BD_CLI_FLAG, &s.model, NULL, "the model's graph in its canonical spelling"},
        {"tensors", BD_CLI_FLAG, &s.tensors, NULL, "every tensor"},
        {"sections", BD_CLI_FLAG, &s.sections, NULL, "artifacts: sections with sizes and hashes"},
        {"plan", BD_CLI_FLAG, &s.plan, NULL,
         "artifacts: the compiler's plan beside what the file holds: bytes, methods, parameters"},
        {"allow-external", BD_CLI_FLAG, &s.allow_external, NULL,
         "artifacts: allow sections that need an external program (lrzip)"},
    };
    const bd_cli_spec spec = {
        .name = "inspect",
        .summary = bd_cmd_inspect_summary,
        .usage = "inspect FILE [--model | --tensors | --sections | --plan] [--allow-external]",
        .text =
            "FILE is a checkpoint, an artifact, a directory that train wrote, a token shard, a SentencePiece "
            "tokenizer, a "
            "model file or a compiler's plan. Nothing in it is executed.",
        .examples = "  birdie inspect model.int8.ptz --tensors\n  birdie inspect out.birdie --plan\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof *opts,
        .min_args = 1,
        .max_args = 1,
        .common = &common,
    };
    bd_cli_list args;
    bd_err err = {0};
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    s.json = common.json;
    s.max_memory = (uint64_t)common.max_memory;
    s.o = s.json ? json_object() : NULL;
    bd_status st = BD_OK;
    if (s.model + s.tensors + s.sections + s.plan > 1)
        st = BD_FAIL(&err, BD_E_USAGE, "give one of --model, --tensors, --sections, --plan");
    if (st == BD_OK) st = inspect(&s, args.items[0], &err);
    if (st != BD_OK) {
        json_decref(s.o);
        rc = bd_cli_error(&err, common.json);
    } else {
        rc = s.json ? bd_cli_print_json(s.o) : 0;
    }
    bd_cli_free(&spec, &args);
    return rc;
}

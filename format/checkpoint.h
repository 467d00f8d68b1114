/* Checkpoints of any kind behind one door: safetensors, torch zip (.pt), and
 * compressed torch zip (.ptz: zlib, xz, zstd or raw), including the official
 * int8_clean_per_row_v1 dictionary. A file is data: no pickle opcode is
 * executed beyond building tuples, dicts, strings, numbers and tensor views. */
#ifndef BD_FORMAT_CHECKPOINT_H
#define BD_FORMAT_CHECKPOINT_H

#include <stdint.h>

#include "base/status.h"

enum { BD_CKPT_MAX_RANK = 8 };

typedef enum bd_ckpt_dtype {
    BD_CK_F64,
    BD_CK_F32,
    BD_CK_F16,
    BD_CK_BF16,
    BD_CK_I64,
    BD_CK_I32,
    BD_CK_I16,
    BD_CK_I8,
    BD_CK_U8,
    BD_CK_U16,
    BD_CK_BOOL,
    BD_CK_DTYPE_COUNT
} bd_ckpt_dtype;

typedef struct bd_ckpt_tensor {
    const char *name;
    bd_ckpt_dtype dtype; /* as stored; int8_clean tensors report F32 */
    int ndim;
    int64_t dim[BD_CKPT_MAX_RANK];
    int64_t count;
    int internal; /* index into the reader's own tables */
} bd_ckpt_tensor;

typedef struct bd_ckpt {
    bd_ckpt_tensor *tensors; /* sorted bytewise by name */
    int n;
    const char *format; /* "safetensors", "torch", "torch int8_clean_per_row_v1" */
    /* safetensors __metadata__, else empty; sorted by key */
    const char **meta_keys, **meta_values;
    int n_meta;
    struct bd_ckpt_impl *impl;
} bd_ckpt;

bd_status bd_ckpt_open(bd_ckpt **out, const char *path, bd_err *err);
/* The same from memory (fuzzing, tests); the memory must outlive the checkpoint. */
bd_status bd_ckpt_open_memory(bd_ckpt **out, const void *data, uint64_t size, bd_err *err);
void bd_ckpt_close(bd_ckpt *c);
int bd_ckpt_find(const bd_ckpt *c, const char *name);        /* -1: none */
const char *bd_ckpt_meta(const bd_ckpt *c, const char *key); /* NULL: none */
/* Convert to float32 in row-major order (dequantized, with the dtype casts the official loader does). out: (count).
 */
bd_status bd_ckpt_read_f32(const bd_ckpt *c, int index, float *out, bd_err *err);
/* Raw bytes when contiguous and stored as such (NULL otherwise). */
const void *bd_ckpt_raw(const bd_ckpt *c, int index, uint64_t *bytes);

/* --- writing safetensors --- */
typedef struct bd_st_writer bd_st_writer;
bd_status bd_st_create(bd_st_writer **out, const char *path, bd_err *err); /* atomic: see base/file.h */
bd_status bd_st_meta(bd_st_writer *w, const char *key, const char *value, bd_err *err);
/* data must stay valid until finish. dtype: any of the list. */
bd_status bd_st_tensor(bd_st_writer *w, const char *name, bd_ckpt_dtype dtype, int ndim, const int64_t *dim,
                       const void *data, bd_err *err);
/* Write header and data (in the order added), sync, rename; frees w in any case. */
bd_status bd_st_finish(bd_st_writer *w, bd_err *err);
void bd_st_abort(bd_st_writer *w);

#endif

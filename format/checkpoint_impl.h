/* Inside of the checkpoint readers: not for other folders.
 *
 * Every reader turns its file into a list of sources: strided views of bytes
 * that stay mapped, with what is needed to get float32 values from them. */
#ifndef BD_FORMAT_CHECKPOINT_IMPL_H
#define BD_FORMAT_CHECKPOINT_IMPL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/status.h"
#include "format/checkpoint.h"
#include "format/torch_zip.h"

enum {
    BD_CKPT_MAX_TENSORS = 1 << 18,
    BD_CKPT_MAX_NAME = 1024,
    BD_CKPT_MAX_META = 1 << 16,
};
#define BD_CKPT_MAX_ELEMENTS (UINT64_C(1) << 40)
#define BD_CKPT_ARENA_LIMIT  (UINT64_C(1) << 30)

/* A tensor lying in bytes; strides in elements, never negative. Whoever makes a
 * view has checked that every element lies inside its storage. */
typedef struct bd_ckpt_view {
    const uint8_t *data; /* first element; not necessarily aligned */
    bd_ckpt_dtype dtype;
    int ndim;
    int64_t dim[BD_CKPT_MAX_RANK], stride[BD_CKPT_MAX_RANK];
    int64_t count;
} bd_ckpt_view;

typedef struct bd_ckpt_source {
    bd_ckpt_view value;
    bool scaled; /* multiply by scale: one per row, or one for all when scale.ndim is 0 */
    bd_ckpt_view scale;
    bd_ckpt_dtype cast; /* round values to it afterwards: BD_CK_F16, BD_CK_BF16; BD_CK_F32: no rounding */
} bd_ckpt_source;

struct bd_ckpt_impl {
    bd_map map;
    uint8_t *unwrapped; /* decompressed file, or NULL */
    bd_zip *zip;        /* torch files */
    bd_arena *arena;    /* names and metadata */
    bd_ckpt_source *sources;
    int cap;
};

uint64_t bd_ckpt_dtype_size(bd_ckpt_dtype t);
const char *bd_ckpt_dtype_name(bd_ckpt_dtype t); /* safetensors' spelling: "F32", "BF16", ... */
bool bd_ckpt_view_contiguous(const bd_ckpt_view *v);
void bd_ckpt_view_row_major(bd_ckpt_view *v); /* fill in strides */
/* Product of dimensions with limits (rank, sign, BD_CKPT_MAX_ELEMENTS); offset and name only for the message. */
bd_status bd_ckpt_count(int64_t *count, int ndim, const int64_t *dim, const char *name, uint64_t offset,
                        bd_err *err);

/* Append a tensor; name is copied, its text is checked. `offset`: where the file names it. */
bd_status bd_ckpt_add(bd_ckpt *c, const char *name, uint64_t name_len, bd_ckpt_dtype reported,
                      const bd_ckpt_source *src, uint64_t offset, bd_err *err);

/* The readers. They fill a checkpoint made by bd_ckpt_open*; sorting and the check for duplicate names follow. */
bd_status bd_safetensors_parse(bd_ckpt *c, const uint8_t *data, uint64_t size, bd_err *err);
bd_status bd_torch_parse(bd_ckpt *c, const uint8_t *data, uint64_t size, bd_err *err);

#endif

/* A restricted pickle machine: protocol 2, the opcodes torch.save emits for
 * dictionaries of tensors, and nothing that runs code. Values are plain records;
 * a global is one of a closed list, and the only "calls" are an empty
 * OrderedDict and the construction of a checked tensor view.
 *
 * The machine is a loop over opcodes with limits on stack, marks, memo, values
 * and text; nothing recurses. Containers may contain themselves (the memo makes
 * that possible), so whoever walks values bounds the depth and the steps. */
#ifndef BD_FORMAT_TORCH_PICKLE_H
#define BD_FORMAT_TORCH_PICKLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "format/checkpoint_impl.h"
#include "format/torch_zip.h"

typedef enum bd_pk_kind {
    BD_PK_NONE,
    BD_PK_BOOL,
    BD_PK_INT,
    BD_PK_FLOAT,
    BD_PK_BIGINT,
    BD_PK_STR,
    BD_PK_TUPLE,
    BD_PK_LIST,
    BD_PK_DICT,
    BD_PK_GLOBAL,
    BD_PK_STORAGE,
    BD_PK_TENSOR
} bd_pk_kind;

typedef struct bd_pk_value {
    bd_pk_kind kind;
    uint32_t n; /* STR: bytes; TUPLE, LIST, DICT: items */
    union {
        int64_t i; /* BOOL, INT; GLOBAL: index in the machine's list */
        double f;
        const char *s; /* STR: inside the pickle, not terminated, well-formed UTF-8 */
        struct {
            uint32_t first, last; /* LIST, DICT: cells; TUPLE: first reference */
        } c;
        uint32_t index; /* STORAGE, TENSOR */
    } u;
} bd_pk_value;

typedef struct bd_pk_cell {
    uint32_t key, value, next; /* next 0: last */
} bd_pk_cell;

typedef struct bd_pk_storage {
    bd_ckpt_dtype dtype;
    int64_t numel;
    const uint8_t *data;
} bd_pk_storage;

typedef struct bd_pk_tensor {
    bd_ckpt_view view;
    uint64_t at; /* position of its construction in the pickle */
} bd_pk_tensor;

typedef struct bd_pickle {
    const uint8_t *p;
    uint64_t size, pos, op; /* op: position of the current opcode */
    uint64_t file_at;       /* offset of the pickle in the file, or BD_NO_OFFSET when it was deflated */
    const bd_zip *zip;
    const char *prefix; /* storages are PREFIX/data/KEY */
    uint32_t prefix_len;
    uint32_t root;
    bd_pk_value *values;
    bd_pk_cell *cells;                     /* cell 0 is unused */
    uint32_t *refs, *stack, *marks, *memo; /* memo: value + 1, 0: empty */
    bd_pk_storage *storages;
    bd_pk_tensor *tensors;
    uint32_t n_values, n_cells, n_refs, n_stack, n_marks, n_memo, n_storages, n_tensors;
    uint32_t c_values, c_cells, c_refs, c_stack, c_marks, c_memo, c_storages, c_tensors;
} bd_pickle;

/* Run the pickle of `entry` (an entry of zip). Free with bd_pickle_free in any case. */
bd_status bd_pickle_load(bd_pickle *k, const bd_zip *zip, const bd_zip_entry *entry, const char *prefix,
                         uint32_t prefix_len, bd_err *err);
void bd_pickle_free(bd_pickle *k);
const char *bd_pk_kind_name(bd_pk_kind k); /* "dictionary", ... */

/* A value of a dictionary by its string key (linear search; the last one wins), or NULL. */
const bd_pk_value *bd_pickle_get(const bd_pickle *k, const bd_pk_value *dict, const char *key);
bool bd_pickle_str_is(const bd_pk_value *v, const char *s);

/* The items of a dictionary whose keys are all strings, sorted bytewise; a key
 * that occurs twice is an error. `what` names the dictionary. free() the list. */
typedef struct bd_pk_item {
    const char *key;
    uint32_t key_len;
    const bd_pk_value *value;
} bd_pk_item;
bd_status bd_pickle_items(bd_pk_item **items, const bd_pickle *k, const bd_pk_value *dict, const char *what,
                          bd_err *err);
const bd_pk_value *bd_pickle_item_find(const bd_pk_item *items, uint32_t n, const char *key, uint32_t key_len);

/* File offset of a position in the pickle, for messages. */
uint64_t bd_pickle_offset(const bd_pickle *k, uint64_t pos);

/* The official quantized dictionary: add its tensors, dequantized when read. */
bd_status bd_int8_clean_read(bd_ckpt *c, const bd_pickle *k, const bd_pk_value *root, bd_err *err);

#endif

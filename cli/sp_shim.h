/* A thin C face of the SentencePiece library; nothing else includes its headers
 * and no exception leaves it. A build without the library has the same
 * functions, which fail with BD_E_UNSUPPORTED. */
#ifndef BD_CLI_SP_SHIM_H
#define BD_CLI_SP_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define _Noreturn [[noreturn]] /* C11's word, in base/status.h */
extern "C" {
#endif

#include "base/buf.h"
#include "base/status.h"

bool bd_sp_available(void);

typedef struct bd_sp bd_sp;

bd_status bd_sp_open(bd_sp **out, const void *model, size_t n, bd_err *err);
void bd_sp_close(bd_sp *sp);
/* Append the ids of a text as uint16 in host order. Several threads may encode with one bd_sp. */
bd_status bd_sp_encode(const bd_sp *sp, const void *text, size_t n, bd_buf *ids, bd_err *err);
/* The same, calling back with each id and its surface: the part of the text that the library aligns it with. */
typedef bd_status bd_sp_piece_fn(void *user, uint32_t id, const void *surface, size_t n, bd_err *err);
bd_status bd_sp_encode_pieces(const bd_sp *sp, const void *text, size_t n, bd_sp_piece_fn *fn, void *user,
                              bd_err *err);

/* Sentences for training: *n = 0 and BD_OK at the end; the text stays valid until the next call. */
typedef bd_status bd_sp_sentence_fn(void *user, const void **text, size_t *n, bd_err *err);
typedef struct bd_sp_train_opts {
    uint32_t pieces;
    const char *user_symbols; /* joined by commas, or NULL */
    uint32_t max_sentence;    /* bytes; longer ones would be left out */
} bd_sp_train_opts;
/* Byte-pair encoding with byte fallback; pad 0, bos 1, eos 2, unk 3. Appends the model file to `model`. The same
 * sentences give the same bytes. */
bd_status bd_sp_train(const bd_sp_train_opts *o, bd_sp_sentence_fn *next, void *user, bd_buf *model, bd_err *err);

#ifdef __cplusplus
}
#endif
#endif

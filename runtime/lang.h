/* The model language's insides: tokens, symbols and the syntax tree. Private to
 * runtime (lang_lex.c, lang_parse.c, lang_elaborate.c). */
#ifndef BD_RUNTIME_LANG_H
#define BD_RUNTIME_LANG_H

#include "base/arena.h"
#include "runtime/model_lang.h"

/* Depths a file may reach; they bound the C stack: (expression + statement) * calls frames at most. */
enum { BD_LANG_EXPR_DEPTH = 64, BD_LANG_STMT_DEPTH = 24, BD_LANG_CALL_DEPTH = 12, BD_LANG_MAX_ARGS = 16 };

typedef enum bd_tok_kind {
    BD_TOK_END,
    BD_TOK_NEWLINE, /* or ';' */
    BD_TOK_NAME,
    BD_TOK_INT,
    BD_TOK_REAL,
    BD_TOK_STRING,
    BD_TOK_PUNCT /* ( ) [ ] { } , = + - * / % == != < <= > >= .. */
} bd_tok_kind;

typedef struct bd_tok {
    bd_tok_kind kind;
    uint32_t pos, len; /* in the text; strings without their quotes */
    int line, col;
    int sym; /* NAME: symbol, else -1 */
    int64_t i;
    double r;
    char punct[3];
} bd_tok;

/* Symbols: interned strings, numbered from 0. */
typedef struct bd_syms {
    bd_arena *arena;
    const char **text;
    uint32_t *len;
    int n, cap;
    int *slot; /* hash table of n_slots, -1: free */
    int n_slots;
} bd_syms;

typedef struct bd_lang {
    bd_arena *arena;
    const char *text;
    uint64_t size;
    const char *file;
    bd_limits lim;
    bd_syms syms;
    bd_err *err;
    bd_tok *toks;
    int n_toks;
} bd_lang;

/* -1: out of memory */
int bd_sym(bd_syms *s, const char *text, uint64_t len);
bd_status bd_lang_error(bd_lang *l, bd_status code, uint32_t pos, int line, int col, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* Fills toks; the last is END. */
bd_status bd_lang_lex(bd_lang *l);

/* --- syntax tree --- */

typedef enum bd_expr_kind {
    BD_EX_INT,
    BD_EX_REAL,
    BD_EX_STRING,
    BD_EX_NAME,
    BD_EX_INDEX, /* a[b] */
    BD_EX_LIST,  /* [args] */
    BD_EX_CALL,  /* name(args) */
    BD_EX_UNARY, /* op a */
    BD_EX_BINARY /* a op b */
} bd_expr_kind;

typedef enum bd_oper {
    BD_OPER_ADD,
    BD_OPER_SUB,
    BD_OPER_MUL,
    BD_OPER_DIV,
    BD_OPER_MOD,
    BD_OPER_EQ,
    BD_OPER_NE,
    BD_OPER_LT,
    BD_OPER_LE,
    BD_OPER_GT,
    BD_OPER_GE,
    BD_OPER_AND,
    BD_OPER_OR,
    BD_OPER_NOT,
    BD_OPER_NEG
} bd_oper;

typedef struct bd_expr bd_expr;
typedef struct bd_arg {
    int name; /* symbol or -1 */
    bd_expr *value;
} bd_arg;

struct bd_expr {
    bd_expr_kind kind;
    bd_oper oper;
    const bd_tok *tok; /* where it begins */
    int depth;
    int sym;   /* NAME, CALL, STRING (its text) */
    int block; /* CALL: index of the block, -1: an operation or function */
    int64_t i;
    double r;
    bd_expr *a, *b;
    bd_arg *args; /* CALL, LIST */
    int n_args;
};

typedef enum bd_stmt_kind { BD_ST_ASSIGN, BD_ST_FOR, BD_ST_IF, BD_ST_RETURN, BD_ST_REQUIRE } bd_stmt_kind;

typedef struct bd_target {
    int sym;
    bd_expr *index; /* or NULL */
    const bd_tok *tok;
} bd_target;

typedef struct bd_stmt bd_stmt;
struct bd_stmt {
    bd_stmt_kind kind;
    const bd_tok *tok;
    bd_stmt *next;
    bd_target target[4]; /* ASSIGN; FOR: [0] */
    int n_targets;
    bd_expr *value[4]; /* ASSIGN: [0]; FOR: from, to; IF, REQUIRE: condition; RETURN: results */
    int n_values;
    bd_stmt *body, *other; /* FOR, IF */
    int message;           /* REQUIRE: symbol of the text, or -1 */
};

typedef struct bd_block {
    int name;
    int *args;
    int n_args;
    bd_stmt *body;
    int n_results;
} bd_block;

typedef struct bd_const {
    int name;
    bd_expr *value; /* the default: a number */
    const bd_tok *tok;
} bd_const;

typedef struct bd_infer {
    int constant; /* index into constants */
    bd_expr *value;
    const bd_tok *tok;
} bd_infer;

typedef struct bd_file {
    int name;
    const bd_tok *tok;
    bd_const *constants;
    int n_constants;
    bd_infer *infers;
    int n_infers;
    bd_block *blocks;
    int n_blocks;
    bd_stmt *body;
} bd_file;

bd_status bd_lang_parse(bd_lang *l, bd_file *f);

#endif

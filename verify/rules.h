/* Rules profiles: what a contest asks, as data (rules/ holds the files).
 *
 * Constants and switches. A switch ("policy") settles one point on which a contest's
 * written rules and its practice disagree, or on which they say nothing; a profile
 * names the choice and where it comes from, and a report can say so. What a profile
 * does not mention has the first choice of the list. */
#ifndef BD_VERIFY_RULES_H
#define BD_VERIFY_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { BD_RULES_MAX_REQUIRED = 32, BD_RULES_MAX_NAMES = 16, BD_RULES_MAX_COUNTS = 16 };

/* X(symbol, name, choices separated by blanks; the first is the default) */
#define BD_POLICY_LIST(X)                                                     \
    X(CODE_SIZE, "code-size", "shipped counted")                              \
    X(HELPER_FILES, "helper-files", "counted free")                           \
    X(TOKENIZER_BYTES, "tokenizer-bytes", "free counted")                     \
    X(SYSTEM_BINARIES, "system-binaries", "review allow forbid")              \
    X(EVAL_CLOCK, "eval-clock", "timer wall")                                 \
    X(CALIBRATION_TIME, "calibration-time", "training free")                  \
    X(PACKING_TIME, "packing-time", "free training")                          \
    X(CALIBRATION_DATA, "calibration-data", "train-or-self train self any")   \
    X(WARMUP_DATA, "warmup-data", "review allow forbid")                      \
    X(DOCUMENT_BOUNDARY, "document-boundary", "isolate-mixers isolate cross") \
    X(ALPHABET, "alphabet", "token byte")                                     \
    X(HASHED_CACHE, "hashed-cache", "review allow forbid")                    \
    X(TEXT_TRANSFORM, "text-transform", "lossless any none")                  \
    X(DOCUMENT_ORDER, "document-order", "any stream")                         \
    X(LEARN_EPOCHS, "learn-epochs", "many one")                               \
    X(WINDOW_DELTA, "window-delta", "forbid review allow")                    \
    X(SIGNIFICANCE, "significance", "bar frontier none")                      \
    X(TRACK, "track", "adaptive fixed")                                       \
    X(SEED_SELECTION, "seed-selection", "review allow")

typedef enum bd_policy {
#define BD_X(symbol, name, choices) BD_POLICY_##symbol,
    BD_POLICY_LIST(BD_X)
#undef BD_X
        BD_N_POLICIES
} bd_policy;

typedef struct bd_token_count {
    char tokenizer[32];
    uint64_t tokens; /* scored targets of the whole validation set */
} bd_token_count;

typedef struct bd_rules {
    char name[64];
    uint64_t size_cap;                          /* bytes of the artifact file */
    double eval_s;                              /* 0: times are reported only */
    double train_s;                             /* 0: no limit */
    double tolerance_steps;                     /* training may run over by so many steps */
    double tolerance_s;                         /* or so many seconds, where the length of a step is unknown */
    int processors;                             /* the hardware that the limits are about; 0: none named */
    int devices;                                /* accelerators; 0: none named */
    char device[32];                            /* part of their name; "": none named */
    uint64_t canonical_tokens, canonical_bytes; /* of the whole evaluation; 0: none */
    double tolerance;                           /* relative, for the canonical counts */
    double tail;                                /* share of targets that an evaluation may drop at the end */
    uint64_t documents;                         /* of the validation set; 0: not said */
    uint64_t train_shards_bad;                  /* a count of training shards that betrays a wrong split; 0: none */
    bd_token_count counts[BD_RULES_MAX_COUNTS]; /* canonical tokens by tokenizer */
    int n_counts;
    double bar_nats, bar_p;     /* a record must be better by so many nats per token at this p; 0: no bar */
    int seeds;                  /* runs with different seeds that a claim needs; 0: not said */
    int decimals;               /* that a claimed score needs to be compared exactly; 0: any */
    uint64_t norm_positions;    /* positions at which the full distribution is asked for; 0: not said */
    double norm_tolerance;      /* of its sum */
    uint64_t data_match_tokens; /* longest run of validation tokens that the artifact may hold; 0: not said */
    double document_overlap;    /* share of validation documents that training may have seen */
    double random_alpha;        /* chance of a false alarm of the martingale test; 0: not said */
    char required[BD_RULES_MAX_REQUIRED][16];       /* checks of an artifact that must have been done */
    char audit_required[BD_RULES_MAX_REQUIRED][16]; /* checks of a folder that must have been done */
    int n_required, n_audit_required;
    char files[BD_RULES_MAX_NAMES][48]; /* a folder must hold one of each pattern (bd_glob) */
    char keys[BD_RULES_MAX_NAMES][32];  /* submission.json must have these */
    int n_files, n_keys;
    char script[48];                /* the file whose size counts as code; "": none */
    uint8_t policy[BD_N_POLICIES];  /* index of the choice */
    char source[BD_N_POLICIES][96]; /* where the choice comes from; "" */
} bd_rules;

/* which: a path, or the name of a profile that is part of the program ("default", "parameter-golf",
 * "cpu-golf"). NULL: "default". */
bd_status bd_rules_open(bd_rules *r, const char *which, bd_err *err);
bd_status bd_rules_parse(bd_rules *r, const char *text, uint64_t size, bd_err *err);
bool bd_rules_requires(const bd_rules *r, const char *check);

const char *bd_policy_name(bd_policy p);
/* Is this the profile's choice? `choice` must be one of the list's. */
bool bd_policy_is(const bd_rules *r, bd_policy p, const char *choice);
/* The profile's choice, in out (32 bytes). */
const char *bd_policy_choice(const bd_rules *r, bd_policy p, char out[32]);

#endif

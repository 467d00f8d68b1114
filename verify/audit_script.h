/* Which files of its folder a script names: what it imports, and names that stand in it. */
#ifndef BD_VERIFY_AUDIT_SCRIPT_H
#define BD_VERIFY_AUDIT_SCRIPT_H

#include "verify/audit_folder.h"
#include "verify/audit_wrap.h"

enum { BD_SCRIPT_MAX_HELPERS = 32, BD_SCRIPT_MAX_ABSENT = 8 };

typedef struct bd_script {
    int file;                           /* in the folder; -1: none */
    bd_unwrapped wrapped;               /* of that file */
    int helpers[BD_SCRIPT_MAX_HELPERS]; /* files of the folder that it or they name: code and what is built */
    int n_helpers;
    int tokenizers[BD_SCRIPT_MAX_HELPERS]; /* named tokenizer models */
    int n_tokenizers;
    char absent[BD_SCRIPT_MAX_ABSENT][64]; /* names of code files that are not in the folder */
    int n_absent;
} bd_script;

/* pattern: of the script's name. No such file gives file -1 and nothing else. */
bd_status bd_script_read(bd_script *s, const bd_folder *f, const char *pattern, bd_err *err);
void bd_script_free(bd_script *s);
/* The program: unwrapped if it was wrapped. */
const char *bd_script_text(const bd_script *s, const bd_folder *f, size_t *size);

#endif

/* Signed verdicts: Ed25519 over the canonical JSON of what `verify --json` prints.
 *
 * The message is the 18 bytes "birdie-verdict-v1\0", then the object without its
 * key "measured": UTF-8; keys sorted bytewise; no blanks; integers in decimal;
 * other numbers as strings in C99 hex (which `printf %a` gives), true, false and
 * null as they are; in strings only `"`, `\` (with a backslash) and bytes below
 * 0x20 (as \u00xx) are escaped. The signature is 64 bytes in a file of its own:
 * inside the object anyone could replace it. */
#ifndef BD_CLI_SIGN_H
#define BD_CLI_SIGN_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"

enum { BD_SIGNATURE_BYTES = 64 };

/* The signed message. */
bd_status bd_sign_message(const json_t *verdict, bd_buf *out, bd_err *err);
/* key_pem: an unencrypted Ed25519 private key. */
bd_status bd_sign_verdict(const json_t *verdict, const char *key_pem, const char *signature_path, bd_err *err);
/* *valid: whether pubkey_pem's owner signed this verdict. Files that are no verdict, key or signature are errors.
 */
bd_status bd_sign_check(bool *valid, const json_t *verdict, const char *pubkey_pem, const char *signature_path,
                        bd_err *err);
/* verify --check-signature: reports, and returns the exit code: 0 valid, 1 not. */
int bd_sign_check_command(const char *signature_path, const char *pubkey_pem, const char *verdict_path, bool json);
/* A verdict as it was printed; duplicate keys are refused. */
bd_status bd_sign_load(json_t **verdict, const char *path, bd_err *err);

#endif

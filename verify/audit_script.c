#include "verify/audit_script.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_SCRIPT = 1 << 20, MAX_LOOKED = 4 << 20 }; /* bytes that are looked at, of one file and of all */

static bool word_char(char c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_'; }

/* Does the name stand in the text, not as a part of a longer one? */
static bool names_file(const char *s, size_t n, const char *name) {
    size_t k = strlen(name);
    const char *p = s, *end = s + n;
    while ((p = memmem(p, (size_t)(end - p), name, k))) {
        bool left = p == s || (!word_char(p[-1]) && p[-1] != '-' && p[-1] != '.');
        bool right = p + k == end || !word_char(p[k]);
        if (left && right) return true;
        p++;
    }
    return false;
}

/* Does the word end at s[at]? Blanks before it are skipped by the caller. */
static bool word_before(const char *s, size_t at, const char *word) {
    size_t k = strlen(word);
    return at >= k && !memcmp(s + at - k, word, k) && (at == k || !word_char(s[at - k - 1]));
}

/* "import X", "from X import", "import a, X": also in the middle of a line, as minified programs have it. */
static bool imports(const char *s, size_t n, const char *module) {
    size_t k = strlen(module);
    const char *p = s, *end = s + n;
    while (k && (p = memmem(p, (size_t)(end - p), module, k))) {
        size_t at = (size_t)(p - s);
        p++;
        if ((at && word_char(s[at - 1])) || (at + k < n && word_char(s[at + k]))) continue;
        while (at && (s[at - 1] == ' ' || s[at - 1] == '.')) at--;
        if (word_before(s, at, "import") || word_before(s, at, "from")) return true;
        if (!at || s[at - 1] != ',') continue;
        size_t low = at > 200 ? at - 200 : 0; /* a list of modules */
        while (at > low && (word_char(s[at - 1]) || strchr(" ,.", s[at - 1])) && s[at - 1]) at--;
        if (at + 7 < n && memmem(s + at, (size_t)(p - s) - at, "import ", 7)) return true;
    }
    return false;
}

static bool has_ending(const char *name, const char *const *endings) {
    size_t n = strlen(name);
    for (; *endings; endings++) {
        size_t k = strlen(*endings);
        if (n > k && strcasecmp(name + n - k, *endings) == 0) return true;
    }
    return false;
}

static const char *const code_endings[] = {".py",  ".pyx", ".c",  ".cc",  ".cpp", ".cu", ".h",
                                           ".hpp", ".cuh", ".so", ".pyc", ".rs",  NULL};
static const char *const model_endings[] = {".model", ".vocab", NULL};

static void look(bd_script *s, const bd_folder *f, const char *text, size_t n) {
    if (n > MAX_SCRIPT) n = MAX_SCRIPT;
    for (int i = 0; i < f->n; i++) {
        const bd_folder_file *file = &f->files[i];
        if (i == s->file || file->kind != BD_FILE_REGULAR) continue;
        bool code = has_ending(file->base, code_endings), model = has_ending(file->base, model_endings);
        if (!code && !model) continue;
        int *list = code ? s->helpers : s->tokenizers, *count = code ? &s->n_helpers : &s->n_tokenizers, k = 0;
        while (k < *count && list[k] != i) k++;
        if (k < *count || *count == BD_SCRIPT_MAX_HELPERS) continue;
        bool named = names_file(text, n, file->base);
        size_t len = strlen(file->base);
        if (!named && len > 3 && !strcasecmp(file->base + len - 3, ".py")) {
            char module[256];
            snprintf(module, sizeof module, "%.*s", (int)(len - 3), file->base);
            named = imports(text, n, module);
        }
        if (named) list[(*count)++] = i;
    }
}

/* Quoted names of code files that the folder lacks. */
static void look_absent(bd_script *s, const bd_folder *f, const char *text, size_t n) {
    if (n > MAX_SCRIPT) n = MAX_SCRIPT;
    for (size_t i = 0; i + 1 < n && s->n_absent < BD_SCRIPT_MAX_ABSENT; i++) {
        if (text[i] != '"' && text[i] != '\'') continue;
        size_t k = i + 1;
        while (k < n && k < i + 60 && (word_char(text[k]) || strchr("-./", text[k])) && text[k]) k++;
        if (k >= n || text[k] != text[i] || k == i + 1) continue;
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(k - i - 1), text + i + 1);
        i = k;
        if (!has_ending(name, code_endings)) continue;
        const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
        bool here = false;
        for (int q = 0; q < f->n && !here; q++) here = !strcasecmp(f->files[q].base, base);
        for (int q = 0; q < s->n_absent && !here; q++) here = !strcmp(s->absent[q], name);
        if (!here && word_char(base[0])) snprintf(s->absent[s->n_absent++], sizeof s->absent[0], "%s", name);
    }
}

const char *bd_script_text(const bd_script *s, const bd_folder *f, size_t *size) {
    *size = 0;
    if (s->file < 0 || !f->files[s->file].data) return "";
    if (s->wrapped.state == BD_UNWRAP_DONE) {
        *size = s->wrapped.size;
        return (const char *)s->wrapped.text;
    }
    *size = (size_t)f->files[s->file].size;
    return (const char *)f->files[s->file].data;
}

bd_status bd_script_read(bd_script *s, const bd_folder *f, const char *pattern, bd_err *err) {
    memset(s, 0, sizeof *s);
    s->file = bd_folder_find(f, pattern);
    if (s->file < 0) return BD_OK;
    const bd_folder_file *file = &f->files[s->file];
    if (!file->data || file->size > MAX_LOOKED) return BD_OK;
    BD_TRY(bd_unwrap_script(&s->wrapped, file->data, (size_t)file->size, err));
    size_t n;
    const char *text = bd_script_text(s, f, &n);
    look(s, f, text, n);
    look_absent(s, f, text, n);
    uint64_t looked = n;
    for (int k = 0; k < s->n_helpers && looked < MAX_LOOKED;
         k++) { /* helpers of helpers: the list grows meanwhile */
        const bd_folder_file *h = &f->files[s->helpers[k]];
        if (h->data) look(s, f, (const char *)h->data, (size_t)h->size);
        looked += h->size;
    }
    return BD_OK;
}

void bd_script_free(bd_script *s) {
    bd_unwrapped_free(&s->wrapped);
    memset(s, 0, sizeof *s);
}

#include "cli/backend_args.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/numerics.h"

bd_status bd_backend_args_spec(char spec[32], const bd_backend_args *a, bd_err *err) {
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    if (strcmp(a->mode, "exact") != 0 && strcmp(a->mode, "fast") != 0)
        return BD_FAIL(err, BD_E_USAGE, "--mode is exact or fast, not %.40s", a->mode);
    bool cuda = strcmp(a->backend, "cuda") == 0;
    if (!cuda && strcmp(a->backend, "cpu") != 0)
        return BD_FAIL(err, BD_E_USAGE, "--backend is cpu or cuda, not %.40s", a->backend);
    snprintf(spec, 32, "%s", a->backend);
    if (!a->isa) return BD_OK;
    if (cuda) return BD_FAIL(err, BD_E_USAGE, "--isa chooses the instruction set of --backend cpu");
    for (int i = 0; i < 3; i++)
        if (!strcmp(a->isa, isas[i])) {
            snprintf(spec, 32, i ? "cpu:%s" : "%s", isas[i]);
            return BD_OK;
        }
    return BD_FAIL(err, BD_E_USAGE, "--isa is ref, avx2 or avx512, not %.40s", a->isa);
}

bd_status bd_backend_args_open(bd_backend **out, const bd_backend_args *a, bd_err *err) {
    char spec[32];
    *out = NULL;
    BD_TRY(bd_backend_args_spec(spec, a, err));
    if (a->threads > 4096) return BD_FAIL(err, BD_E_USAGE, "--threads is at most 4096");
    BD_TRY(bd_numerics_check(err));
    return bd_backend_open(out, spec, (int)a->threads, err);
}

uint64_t bd_memory_limit(int64_t max_memory) {
    if (max_memory > 0) return (uint64_t)max_memory;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}
